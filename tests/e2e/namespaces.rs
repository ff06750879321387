//! Callers in namespaces and cgroups of their own.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::json;

use crate::harness::*;

/// Names of commands and cgroups are bytes: a command's is cut after 15 of them, also
/// inside a character.
#[test]
fn names_that_are_no_text_change_nothing() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let db = daemon.file("app/db");
    for user in [root(), alice()] {
        let read = user.act(|| {
            rustix::thread::set_name(c"gebl\xC3").unwrap();
            std::fs::read(&db).map_err(|error| errno(&error))
        });
        assert_eq!(read, Ok(b"v".to_vec()), "{}", user.name);
    }
    let cgroup = Cgroup::new(OsStr::from_bytes(b"jarvis-test-\xC3"));
    let cat = run(cgroup.command(&["cat", db.to_str().unwrap()]), b"");
    assert_eq!(cat.stdout, b"v", "{cat:?}");
    // A program that runs under such a name is told as well as it can be.
    let program = home
        .path("cat")
        .with_file_name(OsStr::from_bytes(b"ca\xC3"));
    copy_program("/bin/cat", &program);
    let mut cat = alice().command(&program);
    cat.arg(&db);
    assert_eq!(run(cat, b"").stdout, b"v");
    let read = home.records_with(&[("action", json!("read"))]);
    assert!(
        read[3]["exe"].as_str().unwrap().ends_with("/ca\u{FFFD}"),
        "{}",
        read[3]
    );
}

//! Versions that are still read after a newer one is current.

use std::fs::{self, File};
use std::io::Read;

use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::harness::*;

#[test]
fn versions_in_grace_are_read_by_their_key_ids() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    for value in [b"one", b"two"] {
        daemon.set("app/db", value);
    }
    let kids = home.kids("app/db");
    assert_eq!(home.states("app/db"), ["grace", "current"]);
    let old = home.by_kid("app/db", &kids[0]);
    assert_eq!(alice().read(&old), Ok(b"one".to_vec()));
    assert_eq!(
        alice().read(&home.by_kid("app/db", &kids[1])),
        Ok(b"two".to_vec())
    );
    assert_eq!(bob().read(&old), Err(EACCES));
    assert_eq!(alice().read(&home.by_kid("app/db", "db-0")), Err(ENOENT));
    let read = &home.records_with(&[("action", json!("read")), ("version", json!(1))])[0];
    assert_eq!(
        (&read["name"], &read["kid"]),
        (&json!("app/db"), &json!(kids[0]))
    );

    let list = |user: &User, path: &str| {
        let path = home.mount().join(path);
        user.act(|| {
            let names = fs::read_dir(&path).unwrap();
            let mut names: Vec<_> = names.map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        })
    };
    assert!(
        !list(&alice(), "").iter().any(|name| name == ".kid"),
        "it is not listed"
    );
    assert_eq!(list(&alice(), ".kid"), ["app"]);
    assert_eq!(list(&alice(), ".kid/app"), ["db"]);
    assert_eq!(list(&alice(), ".kid/app/db"), [&*kids[0], &*kids[1]]);
    assert!(list(&bob(), ".kid").is_empty() && list(&bob(), ".kid/app/db").is_empty());
    let metadata = alice().act(|| fs::metadata(&old).unwrap());
    assert_eq!(metadata.len(), 3);
    assert!(alice().act(|| File::create(&old)).is_err());

    // An open handle keeps it when the grace is over.
    let mut held = alice().act(|| File::open(&old).unwrap());
    home.ok(&["deprecate", "app/db", "1"], b"");
    assert_eq!(home.states("app/db"), ["deprecated", "current"]);
    assert_eq!(alice().read(&old), Err(ENOENT));
    assert_eq!(list(&alice(), ".kid/app/db"), [&*kids[1]]);
    let mut value = Vec::new();
    held.read_to_end(&mut value).unwrap();
    assert_eq!(value, b"one");
    daemon.stop();
    home.verify();
}

#[test]
fn grace_can_be_none_for_a_secret() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"one");
    home.ok(
        &[
            "configure",
            "app/db",
            "--grace-days",
            "0",
            "--keep-versions",
            "2",
        ],
        b"",
    );
    daemon.set("app/db", b"two");
    assert_eq!(home.states("app/db"), ["retired", "current"]);
    let old = home.by_kid("app/db", &home.kids("app/db")[0]);
    assert_eq!(alice().read(&old), Err(ENOENT));
    daemon.set("app/db", b"three");
    assert_eq!(home.states("app/db"), ["destroyed", "retired", "current"]);
    let settings = home.ok(&["configure", "app/db"], b"");
    assert_eq!(
        (&settings["grace_days"], &settings["keep_versions"]),
        (&json!(0), &json!(2))
    );
    home.ok(&["configure", "app/db", "--grace-days", "default"], b"");
    assert_eq!(home.states("app/db"), ["destroyed", "grace", "current"]);
    let bad = home.ctl(&["configure", "app/db", "--windows", "never"], b"");
    assert_eq!(bad.status.code(), Some(2), "{bad:?}");
    assert!(text(&bad.stderr).contains("is no window"), "{bad:?}");
}

#[test]
fn grace_ends_early_once_everybody_has_the_new_version() {
    let home = TestDaemon::new().init(TWO_PERSONS);
    let daemon = home.start();
    for name in ["app/db", "app/other"] {
        daemon.set(name, b"1");
        home.ok(
            &["configure", name, "--end-grace-when-adopted", "true"],
            b"",
        );
        for user in [alice(), bob()] {
            user.read(&daemon.file(name)).unwrap();
        }
        daemon.set(name, b"2");
        alice().read(&daemon.file(name)).unwrap();
    }
    bob().read(&daemon.file("app/db")).unwrap();
    // The next worker looks first thing.
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    daemon.eventually("an end", || {
        home.states("app/db") == ["deprecated", "current"]
    });
    assert_eq!(
        home.states("app/other"),
        ["grace", "current"],
        "bob has the old one"
    );
    let told = home.records_with(&[("action", json!("configure")), ("version", json!(1))]);
    let reason = told.last().unwrap()["reason"].as_str().unwrap();
    assert_eq!(reason, "deprecated: all 2 consumers have version 2");
}

//! Deletion, and what it leaves to be restored.

use std::fs;
use std::os::unix::fs::FileExt;

use serde_json::json;

use crate::harness::*;

#[test]
fn delete_restore_and_purge() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let first = daemon.set("app/db", b"kept");
    let db = daemon.file("app/db");
    let kid = first["kid"].as_str().unwrap();
    let pattern = kid.strip_prefix("db-").unwrap();
    assert!(
        pattern.len() == 15 && pattern.as_bytes()[8] == b'-',
        "{kid}"
    );
    let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&db).unwrap());
    let before = inode();
    let held = fs::File::open(&db).unwrap();
    home.ok(&["delete", "app/db"], b"");
    assert_eq!(alice().read(&db), Err(ENOENT));
    let mut bytes = [0; 4];
    held.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"kept", "an open handle keeps its version");
    assert_eq!(held.metadata().unwrap().len(), 4);
    let reopened = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
    assert_eq!(fs::read(reopened).map_err(|e| errno(&e)), Err(ENOENT));
    assert_eq!(home.ctl(&["delete", "app/db"], b"").status.code(), Some(4));
    home.ok(&["restore", "app/db"], b"");
    assert_eq!((alice().read(&db), inode()), (Ok(b"kept".to_vec()), before));
    home.ok(&["delete", "app/db"], b"");
    home.ok(&["purge", "app/db"], b"");
    assert_eq!(home.ctl(&["restore", "app/db"], b"").status.code(), Some(4));
    daemon.set("app/db", b"new");
    assert!(inode() > before, "an id is never used again");
}

#[test]
fn the_recovery_window_ends() {
    let home = TestDaemon::new().init(POLICY);
    home.configure("# recovery_days = 7", "recovery_days = 0");
    let daemon = home.start();
    daemon.set("app/db", b"v");
    home.ok(&["delete", "app/db"], b"");
    daemon.stop();
    let daemon = home.start();
    assert_eq!(home.ctl(&["restore", "app/db"], b"").status.code(), Some(4));
    let purged = home.records_with(&[("action", json!("purge"))]);
    assert_eq!(purged[0]["reason"], "recovery window over");
    assert!(purged[0].get("uid").is_none(), "nobody asked");
    daemon.stop();
}

//! Deletion, and what it leaves to be restored.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use serde_json::{Value, json};

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
    let inode = || fs::metadata(&db).unwrap().ino();
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
fn an_empty_directory_can_be_removed() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/team/db", b"v");
    let team = daemon.file("app/team");
    let before = fs::metadata(&team).unwrap().ino();
    let purge = |name: &str| {
        let output = home.ctl(&["purge", name], b"");
        (output.status.success(), text(&output.stderr))
    };
    let (removed, why) = purge("app/team");
    assert!(!removed && why.contains("not empty"), "{why}");
    home.ok(&["delete", "app/team/db"], b"");
    assert!(!purge("app/team").0, "it could be restored");
    assert!(purge("app/team/db").0);
    let (removed, why) = purge("app/team");
    assert!(removed, "{why}");
    assert_eq!(
        fs::metadata(&team).map_err(|e| errno(&e)).err(),
        Some(ENOENT)
    );
    assert!(!purge("app/team").0, "there is none");
    // Made and emptied in one change.
    let batch = json!([
        {"op": "set", "name": "app/team/db", "value": "v"},
        {"op": "delete", "name": "app/team/db"},
        {"op": "purge", "name": "app/team/db"},
        {"op": "purge", "name": "app/team"},
        {"op": "set", "name": "app/team/other", "value": "v"},
    ]);
    let mut control = Control::open(&home.mount()).unwrap();
    assert_eq!(control.ask(batch.to_string()).1["ok"], true);
    assert_eq!(alice().read(&team.join("other")), Ok(b"v".to_vec()));
    assert!(fs::metadata(&team).unwrap().ino() > before, "another one");
}

#[test]
fn a_new_value_continues_a_deleted_secret() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let db = daemon.file("app/db");
    let kid = |made: &Value| home.by_kid("app/db", made["kid"].as_str().unwrap());
    let first = daemon.set("app/db", b"one");
    let second = daemon.set("app/db", b"two");
    assert_eq!(alice().read(&kid(&first)), Ok(b"one".to_vec()), "in grace");
    let inode = fs::metadata(&db).unwrap().ino();
    let held = fs::File::open(&db).unwrap();
    home.ok(&["delete", "app/db"], b"");
    let only_new = ["set", "app/db", "--if-kid", "none"];
    let third = home.ok(&only_new, b"three");
    assert_eq!(
        (&third["version"], &third["action"]),
        (&json!(3), &json!("create"))
    );
    assert_eq!(fs::metadata(&db).unwrap().ino(), inode);
    assert_eq!(alice().read(&db), Ok(b"three".to_vec()));
    assert_eq!(alice().read(&kid(&third)), Ok(b"three".to_vec()));
    let mut bytes = [0; 3];
    held.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"two", "an open handle keeps its version");
    // What was deleted on purpose is not readable again by itself, but at hand.
    for old in [&first, &second] {
        assert_eq!(alice().read(&kid(old)), Err(ENOENT));
    }
    assert_eq!(
        home.states("app/db"),
        ["deprecated", "deprecated", "current"]
    );
    assert_eq!(home.ctl(&["restore", "app/db"], b"").status.code(), Some(7));
    home.ok(&["rollback", "app/db", "1"], b"");
    assert_eq!(alice().read(&db), Ok(b"one".to_vec()));

    home.ok(&["delete", "app/db"], b"");
    assert_eq!(home.ctl(&["rotate", "app/db"], b"").status.code(), Some(4));
    assert_eq!(
        home.ctl(&["rollback", "app/db", "2"], b"").status.code(),
        Some(4)
    );
    home.ok(&["generate", "app/db"], b"");
    assert_eq!(fs::metadata(&db).unwrap().ino(), inode);
    home.ok(&["rotate", "app/db"], b"");
    daemon.stop();
    let created = home.records_with(&[("action", json!("create")), ("name", json!("app/db"))]);
    let told: Vec<_> = created.iter().map(|r| (&r["id"], &r["version"])).collect();
    let id = json!(inode);
    assert_eq!(told, [(&id, &json!(1)), (&id, &json!(3)), (&id, &json!(5))]);
    let reason = created[1]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("continues the deleted secret"),
        "{reason}"
    );
    home.verify();
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
    let purged = || home.records_with(&[("action", json!("purge"))]);
    daemon.eventually("a purge", || !purged().is_empty());
    let purged = purged();
    assert_eq!(purged[0]["reason"], "recovery window over");
    assert!(purged[0].get("uid").is_none(), "nobody asked");
    daemon.stop();
}

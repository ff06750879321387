//! A secret's history in an encrypted file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;

use crate::harness::*;

#[test]
fn a_history_is_taken_elsewhere_encrypted() {
    let home = TestDaemon::new().init(TWO_PERSONS);
    let daemon = home.start();
    for value in [b"first", b"other", b"third"] {
        daemon.set("app/db", value);
    }
    home.ok(&["prune", "app/db", "--keep", "2"], b"");
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let (taken, pass) = (file("app-db.history"), "--passphrase-stdin");
    let phrase = b"correct horse\n";
    let answer = home.ok(&["history", "export", "app/db", &taken, pass], phrase);
    assert_eq!(answer["versions"], json!([2, 3]));
    assert_eq!(fs::metadata(&taken).unwrap().mode() & 0o777, 0o600);
    let again = home.ctl(&["history", "export", "app/db", &taken, pass], phrase);
    assert!(!again.status.success(), "no file is written over");
    // Who may read but not rotate can't have the old ones.
    for user in [bob(), carol()] {
        let other = format!("/tmp/{}.history", user.uid);
        let denied = home.ctl_as(
            &user,
            &["history", "export", "app/db", &other, pass],
            phrase,
        );
        assert_eq!(denied.status.code(), Some(3), "{denied:?}");
        assert!(!Path::new(&other).exists());
    }
    daemon.stop();
    let records = home.records_with(&[("action", json!("export"))]);
    let told: Vec<_> = records
        .iter()
        .map(|r| (&r["name"], &r["version"]))
        .collect();
    let name = json!("app/db");
    assert_eq!(told, [(&name, &json!(2)), (&name, &json!(3))]);
    assert_eq!(records[0]["uid"], json!(0));
    home.verify();

    // No daemon is needed to open it.
    let shown = home.ok(&["history", "show", &taken, pass], phrase);
    let has = shown["versions"].as_array().unwrap().iter();
    let has: Vec<_> = has.map(|v| v["value"].clone()).collect();
    assert_eq!(has, [json!(false), json!(true), json!(true)]);
    let get =
        |version: &str, phrase: &[u8]| home.ctl(&["history", "get", &taken, version, pass], phrase);
    assert_eq!(get("2", phrase).stdout, b"other");
    assert_eq!(get("1", phrase).status.code(), Some(4));
    assert_eq!(get("2", b"another\n").status.code(), Some(6));
    fs::write(&taken, b"{}").unwrap();
    assert_eq!(get("2", phrase).status.code(), Some(6));
}

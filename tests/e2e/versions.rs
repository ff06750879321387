//! Old versions: rolled back to, compared, pruned, expired.

use serde_json::json;

use crate::harness::*;

#[test]
fn a_rollback_brings_an_old_value_back_as_a_new_version() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"good");
    daemon.set("app/db", b"bad");
    home.ok(&["rollback", "app/db", "1", "--reason", "bad was bad"], b"");
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"good".to_vec()));
    let all = home.versions("app/db");
    assert_eq!(all[2]["reason"], "rollback to version 1: bad was bad");
    assert_eq!(
        (&all[2]["by_uid"], &all[2]["state"]),
        (&json!(0), &json!("current"))
    );
    let missing = home.ctl(&["rollback", "app/db", "9"], b"");
    assert_eq!(missing.status.code(), Some(4), "{missing:?}");
    home.ok(&["prune", "app/db", "--keep", "1"], b"");
    assert_eq!(home.states("app/db"), ["destroyed", "destroyed", "current"]);
    let gone = home.ctl(&["rollback", "app/db", "1"], b"");
    assert!(
        text(&gone.stderr).contains("version 1 of `app/db` is destroyed"),
        "{gone:?}"
    );
}

#[test]
fn versions_are_compared_without_being_shown() {
    let home = TestDaemon::new().init(TWO_PERSONS);
    let daemon = home.start();
    daemon.set("app/j", br#"{"a":1,"b":"hunter2","c":[1]}"#);
    daemon.set("app/j", br#"{"b":"hunter3","c":[1],"d":true}"#);
    daemon.set("app/j", br#"{"b":"hunter3","c":[1],"d":true}"#);
    let diff = |from: &str, to: &str| home.ok(&["diff", "app/j", from, to], b"");
    let found = diff("1", "2");
    assert_eq!(found["equal"], false);
    let keys = json!({"added": ["d"], "removed": ["a"], "changed": ["b"]});
    assert_eq!(found["json_keys"], keys);
    assert_eq!(found["length_class"][0], "up to 32 bytes");
    assert_eq!(diff("2", "3")["equal"], true);
    assert!(!found.to_string().contains("hunter"));
    daemon.set("other", b"x");
    let denied = home.ctl_as(&alice(), &["diff", "other", "1", "1"], b"");
    assert_eq!(denied.status.code(), Some(3), "{denied:?}");
    let missing = home.ctl(&["diff", "app/j", "1", "7"], b"");
    assert_eq!(missing.status.code(), Some(4));
}

#[test]
fn an_expired_secret_is_refused_where_it_is_set_so() {
    let home = TestDaemon::new().init(POLICY);
    home.configure("# expiry_days = 90", "expiry_days = 0");
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let db = daemon.file("app/db");
    assert!(alice().read(&db).is_ok(), "served by default");
    home.ok(&["configure", "app/db", "--refuse-expired", "true"], b"");
    assert_eq!(alice().read(&db), Err(EKEYEXPIRED));
    daemon.eventually("an expiry record", || {
        !home.records_with(&[("action", json!("expiry"))]).is_empty()
    });
    home.ok(&["configure", "app/db", "--refuse-expired", "false"], b"");
    assert!(alice().read(&db).is_ok());
}

#[test]
fn expired_secrets_are_counted_and_marked() {
    let home = TestDaemon::new().init(POLICY);
    home.configure("# expiry_days = 90", "expiry_days = 0");
    let daemon = home.start();
    daemon.set("app/db", b"v");
    daemon.stop();
    let (daemon, address) = home.start_http();
    let mut buffer = [0; 64];
    let len =
        rustix::fs::getxattr(daemon.file("app/db"), "user.jarvis.state", &mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"expired");
    assert_eq!(
        alice().read(&daemon.file("app/db")),
        Ok(b"v".to_vec()),
        "served all the same"
    );
    let url = format!("http://{address}");
    let metrics = || text(&home.ctl(&["metrics", "--url", &url], b"").stdout);
    daemon.eventually("counted", || metrics().contains("jarvis_secrets_expired 1"));
}

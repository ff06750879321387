//! Consumers: declared ones, and those that the log has seen.

use serde_json::json;

use crate::harness::*;

#[test]
fn consumers_are_declared_and_forgotten() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let add = [
        "consumer",
        "add",
        "app/db",
        "web",
        "--criticality",
        "high",
        "--owner",
        "ops",
    ];
    home.ok(&add, b"");
    home.ok(&["consumer", "add", "app/db", "cron"], b"");
    let known = || home.ok(&["versions", "app/db"], b"")["consumers"].clone();
    assert_eq!(
        known()[0],
        json!({"name": "web", "criticality": "high", "owner": "ops", "restart": null})
    );
    home.ok(&["consumer", "remove", "app/db", "web"], b"");
    assert_eq!(known().as_array().unwrap().len(), 1);
    let gone = home.ctl(&["consumer", "remove", "app/db", "web"], b"");
    assert_eq!(gone.status.code(), Some(4), "{gone:?}");
}

/// The log tells who read what, the vault who says so.
#[test]
fn impact_and_adoption_tell_who_depends_on_a_secret() {
    let home = TestDaemon::new().init(TWO_PERSONS);
    let daemon = home.start();
    daemon.set("app/db", b"1");
    daemon.set("app/other", b"1");
    let etc = home.etc();
    let etc = etc.to_str().unwrap();
    home.ok(
        &[
            "consumer",
            "add",
            "app/db",
            "web",
            "--criticality",
            "high",
            "--owner",
            "ops",
        ],
        b"",
    );
    home.ok(
        &["consumer", "add", "app/db", "cron", "--criticality", "low"],
        b"",
    );
    for user in [alice(), bob()] {
        user.read(&daemon.file("app/db")).unwrap();
    }
    let impact = home.ok(&["impact", "app/db", "--dir", etc], b"");
    assert_eq!(impact["criticality"], "high");
    assert_eq!(impact["declared"].as_array().unwrap().len(), 2);
    let uids: Vec<_> = impact["observed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["uid"].clone())
        .collect();
    let mut expected = [alice().uid, bob().uid];
    expected.sort_unstable();
    assert_eq!(uids, expected);
    let window = impact["suggested_window"].as_str().unwrap();
    assert!(window.ends_with(":00 UTC"), "{window}");

    daemon.set("app/db", b"2");
    let adoption = || home.ok(&["adoption", "app/db", "--dir", etc], b"");
    assert_eq!(
        (&adoption()["current"], &adoption()["adopted"]),
        (&json!(2), &json!(0))
    );
    bob().read(&daemon.file("app/db")).unwrap();
    let found = adoption();
    assert_eq!(found["adopted"], 1);
    for consumer in found["consumers"].as_array().unwrap() {
        assert_eq!(consumer["adopted"], json!(consumer["uid"] == bob().uid));
    }

    let graph = home.ctl(&["graph", "--dir", etc], b"");
    let dot = text(&graph.stdout);
    assert!(
        dot.contains("\"web\" -> \"app/db\" [style=dashed]"),
        "{dot}"
    );
    assert!(
        dot.contains("-> \"app/db\";") && !dot.contains("app/other"),
        "{dot}"
    );
    let edges = home.ok(&["graph", "--dir", etc], b"");
    assert_eq!(edges.as_array().unwrap().len(), 4);
}

//! What comes with time: schedules, grace, warnings, retention.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

fn newest(home: &TestDaemon, name: &str) -> Value {
    home.versions(name).pop().unwrap()
}

/// Any change of settings has the scheduler look.
fn nudge(home: &TestDaemon) {
    home.ok(&["configure", "nudge", "--keep-versions", "5"], b"");
}

#[test]
fn what_has_a_schedule_and_a_generator_is_rotated() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start_command(home.clocked(), b"");
    for name in ["app/p", "app/unscheduled", "nudge"] {
        home.ok(&["generate", name], b"");
    }
    daemon.set("app/opaque", b"v");
    for name in ["app/p", "app/opaque"] {
        home.ok(&["configure", name, "--rotate-days", "90"], b"");
    }
    let scheduled = |all: &[&str]| -> Vec<String> {
        let rows = home.ok(&[&["rotate", "--dry-run"], all].concat(), b"");
        let rows = rows.as_array().unwrap();
        rows.iter()
            .map(|r| r["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(scheduled(&["--all"]), ["app/p"]);
    assert!(scheduled(&["--due"]).is_empty());
    // Up to a tenth of the interval comes off, so that not all fall due together.
    home.set_clock(80 * DAY);
    nudge(&home);
    assert!(scheduled(&["--due"]).is_empty());
    home.set_clock(91 * DAY);
    nudge(&home);
    daemon.eventually("a second version", || {
        newest(&home, "app/p")["version"] == 2
    });
    assert_eq!(newest(&home, "app/p")["reason"], "schedule");
    nudge(&home);
    for name in ["app/unscheduled", "app/opaque", "nudge"] {
        assert_eq!(
            newest(&home, name)["version"],
            1,
            "{name}: never by surprise"
        );
    }
    daemon.stop();
    let rotated = home.records_with(&[("action", json!("rotate")), ("name", json!("app/p"))]);
    assert_eq!(
        (rotated.len(), &rotated[0]["reason"]),
        (1, &json!("schedule"))
    );
    home.verify();
}

#[test]
fn a_rotation_waits_for_its_window() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start_command(home.clocked(), b"");
    for name in ["app/p", "nudge"] {
        home.ok(&["generate", name], b"");
    }
    let ahead = 100 * DAY;
    let then = Timestamp::now() + SignedDuration::try_from(ahead).unwrap();
    let day = |plus: i64| {
        let day = (then + SignedDuration::from_hours(24 * plus)).to_zoned(TimeZone::UTC);
        day.strftime("%a").to_string().to_lowercase()
    };
    let closed = format!("{} 00:00-24:00", day(3));
    home.ok(
        &[
            "configure",
            "app/p",
            "--rotate-days",
            "1",
            "--windows",
            &closed,
        ],
        b"",
    );
    home.set_clock(ahead);
    nudge(&home);
    let due = |arguments: &[&str]| {
        let rows = home.ok(
            &[&["rotate", "--due", "--dry-run"], arguments].concat(),
            b"",
        );
        rows.as_array().unwrap().len()
    };
    assert_eq!((due(&[]), due(&["--force"])), (0, 1));
    let told = text(&home.ctl(&["rotate", "--due"], b"").stdout);
    assert!(told.contains("nothing to rotate\n1 kept back"), "{told}");
    assert_eq!(newest(&home, "app/p")["version"], 1);
    // Today and tomorrow: midnight may be near.
    let open = format!("{},{} 00:00-24:00", day(0), day(1));
    home.ok(&["configure", "app/p", "--windows", &open], b"");
    daemon.eventually("a rotation", || newest(&home, "app/p")["version"] == 2);
}

/// Signs and verifies like a service that finds keys by the token's `kid`.
fn jwt(arguments: &[&Path], token: &str) -> Option<String> {
    let script = r#"
import base64, hashlib, hmac, json, pathlib, sys
b64 = lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=")
mac = lambda key, text: b64(hmac.new(key, text, hashlib.sha256).digest())
if len(sys.argv) == 4:
    key, kid = pathlib.Path(sys.argv[2]).read_bytes(), sys.argv[3]
    head = b64(json.dumps({"alg": "HS256", "kid": kid}).encode()) + b"." + b64(b'{"sub":"x"}')
    print((head + b"." + mac(key, head)).decode())
else:
    head, signature = sys.argv[1].encode().rsplit(b".", 1)
    first = head.split(b".")[0]
    kid = json.loads(base64.urlsafe_b64decode(first + b"=" * (-len(first) % 4)))["kid"]
    key = (pathlib.Path(sys.argv[2]) / kid).read_bytes()
    sys.exit(0 if hmac.compare_digest(signature, mac(key, head)) else 1)
"#;
    let mut python = Command::new("python3");
    python.args(["-c", script, token]).args(arguments);
    let output = python.output().unwrap();
    let said = text(&output.stdout).trim().to_owned();
    output.status.success().then_some(said)
}

#[test]
fn a_token_of_the_previous_key_verifies_during_grace_and_not_after() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start_command(home.clocked(), b"");
    for name in ["jwt_signing_key", "nudge"] {
        home.ok(&["generate", name, "--length", "64"], b"");
    }
    let key = daemon.file("jwt_signing_key");
    let kid = newest(&home, "jwt_signing_key")["kid"]
        .as_str()
        .unwrap()
        .to_owned();
    let token = jwt(&[&key, Path::new(&kid)], "").unwrap();
    let verifies = || jwt(&[&home.mount().join(".kid/jwt_signing_key")], &token).is_some();
    assert!(verifies());
    home.ok(&["rotate", "jwt_signing_key"], b"");
    assert!(verifies(), "the old key is in grace");
    home.set_clock(14 * DAY - HOUR);
    assert!(verifies());
    home.set_clock(14 * DAY + HOUR);
    assert!(!verifies(), "its grace is over");
    assert!(jwt(&[&home.mount().join(".kid/nudge")], &token).is_none());
}

#[test]
fn warnings_come_once_before_the_end_and_at_it() {
    let home = TestDaemon::new().init(POLICY);
    home.configure("# warning_hours = [24]", "warning_hours = [24, 240]");
    let daemon = home.start_command(home.clocked(), b"");
    daemon.set("app/db", b"v");
    home.ok(&["generate", "nudge"], b"");
    home.ok(&["configure", "nudge", "--expiry-days", "1000"], b"");
    home.ok(&["rotate", "nudge"], b"");
    let told =
        |name: &str| home.records_with(&[("action", json!("expiry")), ("name", json!(name))]);
    for (hours, count) in [
        (79 * 24, 0),
        (81 * 24, 1),
        (89 * 24 + 1, 2),
        (90 * 24 + 1, 3),
    ] {
        home.set_clock(hours * HOUR);
        nudge(&home);
        daemon.eventually("as many warnings", || told("app/db").len() == count);
        // Not again, neither by this worker nor by the next.
        kill_process(daemon.workers().0, Signal::KILL).unwrap();
        nudge(&home);
        home.ok(&["rotate", "nudge"], b"");
        assert_eq!(told("app/db").len(), count, "after {hours} hours");
    }
    let last = told("app/db").last().unwrap()["reason"].clone();
    assert!(last.as_str().unwrap().starts_with("expired at"), "{last}");
    assert!(told("nudge").is_empty());
    let state = home.ok(&["get", "app/db", "--meta"], b"")["state"].clone();
    assert_eq!(state, "expired");
    assert!(
        alice().read(&daemon.file("app/db")).is_ok(),
        "served all the same"
    );
}

#[test]
fn audit_records_go_after_the_retention() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start_command(home.clocked(), b"");
    daemon.set("app/db", b"v");
    home.ok(&["audit", "rotate"], b"");
    home.ok(&["audit", "rotate"], b"");
    home.set_clock(89 * DAY);
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    alice().read(&daemon.file("app/db")).unwrap();
    assert_eq!(home.segments().len(), 3);
    home.set_clock(91 * DAY);
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    daemon.eventually("pruned segments", || home.segments().len() == 1);
    daemon.stop();
    let pruned = home.records_with(&[("action", json!("prune"))]);
    assert_eq!(pruned[0]["prune"]["segment"], 2);
    let report = home.verify();
    assert!(report.contains("pruned    all before record"), "{report}");
}

#[test]
fn an_approval_that_comes_too_late_is_none() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start_command(home.clocked(), b"");
    daemon.set("app/db", b"v");
    home.ok(
        &["revoke", "request", "app/db", "--reason", "manual-request"],
        b"",
    );
    home.set_clock(25 * HOUR);
    let late = home.ctl(&["revoke", "approve", "1"], b"");
    assert!(
        text(&late.stderr).contains("revocation 1 is expired"),
        "{late:?}"
    );
    assert_eq!(home.ok(&["revoke", "show", "1"], b"")["status"], "expired");
    assert!(alice().read(&daemon.file("app/db")).is_ok());
}

#[test]
fn a_deleted_secret_is_purged_after_its_window() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start_command(home.clocked(), b"");
    daemon.set("app/db", b"v");
    home.ok(&["delete", "app/db"], b"");
    home.set_clock(8 * DAY);
    let late = home.ctl(&["restore", "app/db"], b"");
    assert_eq!(late.status.code(), Some(4), "{late:?}");
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    let purged = || home.records_with(&[("action", json!("purge"))]).len();
    daemon.eventually("a purge", || purged() == 1);
    let gone = home.ctl(&["purge", "app/db"], b"");
    assert_eq!(gone.status.code(), Some(4), "{gone:?}");
}

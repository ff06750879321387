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
    home.ok(&["configure", "app/p", "--rotate-days", "90"], b"");
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
    home.ok(&["generate", "nudge", "--force"], b"");
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
    let first = || home.segments().remove(0);
    assert!(first().ends_with("00000001.jsonl"));
    home.set_clock(91 * DAY);
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    daemon.eventually("pruned segments", || first().ends_with("00000003.jsonl"));
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

const SECOND_MS: i64 = 1000;
const DAY_MS: i64 = 24 * 3_600_000;
const YEARS_MS: i64 = 3653 * DAY_MS;

/// Seconds between the two times of a `clock` record.
fn jumped(record: &Value) -> i64 {
    let time =
        |field: &str| -> Timestamp { record["clock"][field].as_str().unwrap().parse().unwrap() };
    time("to").duration_since(time("from")).as_secs()
}

/// The jumps that the log tells, in seconds.
fn jumps(home: &TestDaemon) -> Vec<i64> {
    let told = home.records_with(&[("action", json!("clock"))]);
    told.iter().map(jumped).collect()
}

/// What is there to lose: two old segments of the log, a deleted secret, a schedule, a
/// grace that is over and one that is not, an approval that came too late.
fn with_things_to_lose(home: &TestDaemon) -> RunningDaemon<'_> {
    let daemon = home.start_command(home.clocked(), b"");
    for name in ["app/old", "app/scheduled", "app/revoked"] {
        home.ok(&["generate", name], b"");
    }
    home.ok(&["rotate", "app/old"], b"");
    let revoke = [
        "revoke",
        "request",
        "app/revoked",
        "--reason",
        "manual-request",
    ];
    home.ok(&revoke, b"");
    home.set_clock(15 * DAY);
    home.ok(&["configure", "app/scheduled", "--rotate-days", "90"], b"");
    daemon.set("app/deleted", b"v");
    home.ok(&["delete", "app/deleted"], b"");
    home.ok(&["audit", "rotate"], b"");
    home.ok(&["audit", "rotate"], b"");
    check_kept(home);
    daemon
}

/// Nothing is destroyed, nothing is revived, no rotation has happened.
fn check_kept(home: &TestDaemon) {
    assert_eq!(home.states("app/old"), ["retired", "current"]);
    assert_eq!(home.ok(&["revoke", "show", "1"], b"")["status"], "expired");
    assert_eq!(newest(home, "app/scheduled")["version"], 1);
    assert!(home.segments().len() >= 3);
    assert!(home.records_with(&[("action", json!("purge"))]).is_empty());
    assert!(home.records_with(&[("action", json!("prune"))]).is_empty());
}

/// Everything that is done by time has been done, or not: the maintenance of a new worker
/// looks at once, and the scheduler when a setting changes.
fn look(home: &TestDaemon, daemon: &RunningDaemon<'_>) {
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    nudge_all(home);
}

#[test]
fn jumps_while_running_destroy_and_revive_nothing() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = with_things_to_lose(&home);
    let passed = 15 * DAY_MS;
    let mut expected = Vec::new();
    for jump in [SECOND_MS, DAY_MS, YEARS_MS] {
        for (wall, off) in [(jump, jump), (0, -jump), (-jump, -jump), (0, jump)] {
            home.set_clocks(passed + wall, passed);
            expected.push(off / 1000);
            look(&home, &daemon);
            daemon.eventually("a record of the jump", || {
                jumps(&home).len() == expected.len()
            });
            check_kept(&home);
        }
    }
    let told = jumps(&home);
    let near = |(a, b): (&i64, &i64)| (a - b).abs() <= 1;
    assert!(
        told.iter().zip(&expected).all(near),
        "{told:?} {expected:?}"
    );
    home.ok(&["restore", "app/deleted"], b"");
    daemon.stop();
    let report = home.verify();
    let back = report
        .lines()
        .find(|line| line.starts_with("clock     went back"));
    let back = back.unwrap_or_else(|| panic!("{report}"));
    // Another verifier counts the same.
    let mut python = Command::new("timeout");
    python
        .args(["30", "python3"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/verify_audit.py"))
        .args([home.path("etc/audit"), home.path("etc/identity.pub")]);
    let said = text(&run(python, b"").stdout);
    let back = back.trim_start_matches("clock     ");
    assert!(said.contains(&format!("the clock {back}")), "{said}");
}

#[test]
fn jumps_over_a_restart_destroy_and_revive_nothing() {
    let home = TestDaemon::new().init(POLICY);
    with_things_to_lose(&home).stop();
    let passed = 15 * DAY_MS;
    let start = || {
        let program = home.path("bin/jarvis-secretsd");
        let mut command = Command::new(program);
        command.arg("--config").arg(home.path("etc/config.toml"));
        home.start_command(command, b"")
    };
    let mut count = 0;
    for wall in [SECOND_MS, 0, DAY_MS, 0, YEARS_MS, -YEARS_MS, 0, -DAY_MS, 0] {
        home.set_clocks(passed + wall, passed);
        count += 1;
        let daemon = start();
        daemon.eventually("a record of the jump", || jumps(&home).len() == count);
        nudge_all(&home);
        check_kept(&home);
        daemon.stop();
    }
    let daemon = start();
    home.ok(&["restore", "app/deleted"], b"");
    daemon.stop();
    assert_eq!(jumps(&home).len(), count);
    home.verify();
}

fn nudge_all(home: &TestDaemon) {
    home.ok(&["generate", "nudge", "--force"], b"");
    nudge(home);
    nudge(home);
}

/// A machine that was off for years goes on; what is due by then waits for a day.
#[test]
fn what_a_jump_made_due_happens_after_a_day() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = with_things_to_lose(&home);
    let passed = 15 * DAY_MS;
    home.set_clocks(passed + YEARS_MS, passed);
    look(&home, &daemon);
    check_kept(&home);
    daemon.set("app/new", b"v");
    assert_eq!(alice().read(&daemon.file("app/new")), Ok(b"v".to_vec()));
    let hours = |hours: i64| {
        let ran = passed + hours * 3_600_000;
        home.set_clocks(ran + YEARS_MS, ran);
        look(&home, &daemon);
    };
    hours(23);
    check_kept(&home);
    hours(25);
    daemon.eventually("a purge, a prune and a rotation", || {
        let told = |action: &str| home.records_with(&[("action", json!(action))]).len();
        told("purge") == 1 && told("prune") >= 1 && newest(&home, "app/scheduled")["version"] == 2
    });
    let gone = home.ctl(&["restore", "app/deleted"], b"");
    assert_eq!(gone.status.code(), Some(4), "{gone:?}");
    daemon.stop();
    home.verify();
}

/// What was made by a clock that was ahead would last for ten years.
#[test]
fn what_was_made_in_the_future_is_corrected() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start_command(home.clocked(), b"");
    for name in ["app/p", "app/deleted", "app/revoked"] {
        home.ok(&["generate", name], b"");
    }
    home.ok(&["configure", "app/p", "--rotate-days", "90"], b"");
    home.set_clocks(YEARS_MS, 0);
    home.ok(&["rotate", "app/p"], b"");
    home.ok(&["delete", "app/deleted"], b"");
    let revoke = [
        "revoke",
        "request",
        "app/revoked",
        "--reason",
        "manual-request",
    ];
    home.ok(&revoke, b"");
    home.set_clocks(0, 0);
    look(&home, &daemon);
    let corrected = || {
        let changes = home.records_with(&[("action", json!("configure"))]);
        let of_time = |record: &&Value| {
            let reason = record["reason"].as_str();
            reason.is_some_and(|reason| reason.starts_with("its time was corrected"))
        };
        changes.iter().filter(of_time).count()
    };
    daemon.eventually("corrections", || corrected() == 3);
    let year = |value: &Value| value.as_str().unwrap()[..4].parse::<i32>().unwrap();
    let this_year = year(&json!(Timestamp::now().to_string()));
    let version = newest(&home, "app/p");
    assert!(year(&version["created_at"]) <= this_year + 1, "{version}");
    assert!(year(&version["expires_at"]) <= this_year + 1, "{version}");
    let revocation = home.ok(&["revoke", "show", "1"], b"");
    assert!(
        year(&revocation["expires_at"]) <= this_year + 1,
        "{revocation}"
    );
    home.set_clock(15 * DAY);
    assert_eq!(
        home.states("app/p"),
        ["retired", "current"],
        "a grace is no longer for it"
    );
    home.set_clock(91 * DAY);
    nudge(&home);
    daemon.eventually("a rotation", || newest(&home, "app/p")["version"] == 3);
    daemon.stop();
    home.verify();
}

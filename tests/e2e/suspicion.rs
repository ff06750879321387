//! What looks suspicious is told, once.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::*;

/// Everybody may read what is beneath `app`.
const OPEN: &str = r#"
clients:
  admin:
    match: {uid: 0}
    allow: ["*"]
    verbs: ["*"]
  everybody:
    match: {user: [jarvis-alice, jarvis-bob, jarvis-carol]}
    allow: ["app/**"]
"#;

const KINDS: [&str; 4] = ["denial_burst", "new_reader", "bulk_read", "handle_passed"];

fn told(home: &TestDaemon) -> Vec<Value> {
    home.records_with(&[("action", json!("suspicious"))])
}

/// The counters, in the order of [`KINDS`].
fn counted(home: &TestDaemon, url: &str) -> [f64; 4] {
    let metrics = home.ok(&["metrics", "--url", &format!("http://{url}")], b"");
    let family = |kind| &metrics[format!("jarvis_suspicious_total{{kind=\"{kind}\"}}")];
    KINDS.map(|kind| family(kind).as_f64().unwrap())
}

/// What `audit suspicious` finds, asked with `more`.
fn history(home: &TestDaemon, more: &[&str]) -> Vec<Value> {
    let dir = home.etc();
    let command = ["audit", "suspicious", "--dir", dir.to_str().unwrap()];
    let found = home.ok(&[&command, more].concat(), b"");
    found.as_array().unwrap().clone()
}

/// Makes `count` secrets beneath `app`.
fn fill(daemon: &RunningDaemon<'_>, home: &TestDaemon, count: usize) -> Vec<std::path::PathBuf> {
    let names: Vec<_> = (0..count).map(|n| format!("app/{n}")).collect();
    let set = |name: &String| json!({"op": "set", "name": name, "value": "v"});
    let batch: Value = names.iter().map(set).collect();
    let (written, answer) = Control::open(&home.mount()).unwrap().ask(batch.to_string());
    assert!(written.is_ok(), "{answer}");
    names.iter().map(|name| daemon.file(name)).collect()
}

#[test]
fn a_burst_of_denials_is_told_once() {
    let home = TestDaemon::new().init(POLICY);
    let (daemon, url) = home.start_http();
    assert_eq!(counted(&home, &url), [0.0; 4], "there from the start");
    daemon.set("shared", b"v");
    let shared = daemon.file("shared");
    for user in [carol(), bob()] {
        (0..4).for_each(|_| assert_eq!(user.read(&shared), Err(EACCES)));
    }
    bob().act(|| {
        for _ in 0..1000 {
            File::open(&shared).unwrap_err();
        }
    });
    daemon.eventually("it is told", || !told(&home).is_empty());
    let log = daemon.log();
    assert!(log.contains("suspicious activity kind=\"denial_burst\""));
    assert_eq!(counted(&home, &url), [1.0, 0.0, 0.0, 0.0]);
    daemon.stop();
    let told = told(&home);
    assert_eq!(told.len(), 1, "{told:?}");
    for (key, value) in [
        ("uid", json!(bob().uid)),
        ("reason", json!("denial_burst: 5 in 600 s")),
        ("count", json!(5)),
        ("result", json!("ok")),
        ("name", Value::Null),
    ] {
        assert_eq!(told[0][key], value, "{key}");
    }
    // It counts the denials that have records of their own.
    let dir = home.etc();
    let summary = ["audit", "summary", "--action", "suspicious", "--dir"];
    let summary = home.ok(&[&summary[..], &[dir.to_str().unwrap()]].concat(), b"");
    assert_eq!(summary, json!([{"key": "suspicious", "count": 1}]));
    home.verify();
}

#[test]
fn a_reader_after_others_is_told_once() {
    let home = TestDaemon::new().init(OPEN);
    let (daemon, url) = home.start_http();
    fill(&daemon, &home, 2);
    let [first, second] = [0, 1].map(|n| daemon.file(&format!("app/{n}")));
    for (user, file) in [
        (alice(), &first),
        (alice(), &first),
        (bob(), &first),
        (bob(), &first),
        (alice(), &first),
        (bob(), &second),
    ] {
        assert_eq!(user.read(file), Ok(b"v".to_vec()));
    }
    daemon.eventually("it is told", || !told(&home).is_empty());
    assert_eq!(counted(&home, &url), [0.0, 1.0, 0.0, 0.0]);
    daemon.stop();
    let told = told(&home);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["uid"], json!(bob().uid));
    assert_eq!(told[0]["name"], json!("app/0"));
    assert_eq!(
        told[0]["reason"],
        json!("new_reader: only others had read it")
    );
    home.verify();
}

#[test]
fn reading_many_secrets_is_told_once() {
    let home = TestDaemon::new().init(OPEN);
    let (daemon, url) = home.start_http();
    let files = fill(&daemon, &home, 60);
    for _ in 0..60 {
        bob().read(&files[59]).unwrap();
    }
    for file in &files[..49] {
        alice().read(file).unwrap();
    }
    alice().read(&files[0]).unwrap();
    for file in &files[49..59] {
        alice().read(file).unwrap();
    }
    daemon.eventually("it is told", || !told(&home).is_empty());
    assert_eq!(counted(&home, &url), [0.0, 0.0, 1.0, 0.0]);
    daemon.stop();
    let told = told(&home);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["uid"], json!(alice().uid));
    assert_eq!(told[0]["count"], json!(50));
    let reason = json!("bulk_read: 50 secrets in 60 s");
    assert_eq!(told[0]["reason"], reason);
    home.verify();
}

#[test]
fn a_passed_handle_is_told_once() {
    let home = TestDaemon::new().init(POLICY);
    let (daemon, url) = home.start_http();
    daemon.set("app/db", b"v");
    let file = alice().act(|| File::open(daemon.file("app/db")).unwrap());
    for _ in 0..3 {
        assert_eq!(bob().act(|| file.read_at(&mut [0; 9], 0).unwrap()), 1);
    }
    daemon.eventually("it is told", || !told(&home).is_empty());
    assert_eq!(counted(&home, &url), [0.0, 0.0, 0.0, 1.0]);
    daemon.stop();
    let told = told(&home);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["uid"], json!(bob().uid));
    assert_eq!(told[0]["name"], json!("app/db"));
    home.verify();
}

#[test]
fn known_readers_outlive_workers_and_restarts() {
    let home = TestDaemon::new().init(OPEN);
    let mut daemon = home.start();
    fill(&daemon, &home, 3);
    let file = |n: usize| home.mount().join(format!("app/{n}"));
    let told_are = |count: usize| told(&home).len() == count;
    for n in 0..3 {
        root().read(&file(n)).unwrap();
        alice().read(&file(n)).unwrap();
    }
    daemon.eventually("alice is new", || told_are(3));
    for n in 0..3 {
        match n {
            0 => {}
            1 => kill_process(daemon.workers().0, Signal::KILL).unwrap(),
            _ => {
                daemon.stop();
                daemon = home.start();
            }
        }
        // For who knows of no reader, root would be the first, alice new, and
        // so would bob; for who tells all of history again, alice, too.
        for user in [root(), alice(), bob(), bob()] {
            assert_eq!(user.read(&file(n)), Ok(b"v".to_vec()));
        }
        daemon.eventually("bob is new", || told_are(4 + n));
        let last = told(&home).pop().unwrap();
        assert_eq!(last["uid"], json!(bob().uid));
        assert_eq!(last["name"], json!(format!("app/{n}")));
    }
    daemon.stop();
    assert!(told_are(6));
    home.verify();
}

#[test]
fn history_holds_what_was_told() {
    let home = TestDaemon::new().init(OPEN);
    home.configure("# bulk_secrets = 50", "bulk_secrets = 5");
    let daemon = home.start();
    let files = fill(&daemon, &home, 5);
    daemon.set("other", b"v");
    for file in &files {
        alice().read(file).unwrap();
    }
    bob().read(&files[0]).unwrap();
    let handle = alice().act(|| File::open(&files[1]).unwrap());
    carol().act(|| handle.read_at(&mut [0; 9], 0).unwrap());
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    for _ in 0..6 {
        assert_eq!(carol().read(&daemon.file("other")), Err(EACCES));
    }
    let about = |finding: &Value| {
        let fields = ["uid", "name", "count", "reason"];
        fields.map(|field| finding[field].clone())
    };
    // A worker that is killed just after it answered a read leaves that to the next, which
    // records it once more.
    let once = |mut findings: Vec<Value>| {
        findings.dedup_by_key(|finding| about(finding));
        findings
    };
    daemon.eventually("all is told", || once(told(&home)).len() == 4);
    daemon.stop();
    let found = once(history(&home, &["--bulk-secrets", "5"]));
    let told = once(told(&home));
    let abouts = |findings: &[Value]| findings.iter().map(about).collect::<Vec<_>>();
    assert_eq!(abouts(&found), abouts(&told));
    let kinds: Vec<_> = found.iter().map(|f| f["kind"].as_str().unwrap()).collect();
    let expected = ["bulk_read", "new_reader", "handle_passed", "denial_burst"];
    assert_eq!(kinds, expected);
    // The record in which it came to light stands before; not always just before it: on a
    // busy machine a worker still recalls the log as it dies, and the next one tells.
    let seq = |finding: &Value| finding["seq"].as_u64().unwrap();
    assert!(found.iter().zip(&told).all(|(f, t)| seq(f) < seq(t)));

    assert_eq!(once(history(&home, &[])).len(), 3, "50 by default");
    let denials = ["--denials", "6", "--bulk-secrets", "0"];
    assert_eq!(once(history(&home, &denials))[2]["count"], json!(6));
    let time = found[1]["time"].as_str().unwrap();
    assert_eq!(
        abouts(&once(history(&home, &["--since", time]))),
        abouts(&found[1..]),
        "readers before it are known all the same"
    );
    let all = ["--bulk-secrets", "5", "--until", time];
    assert_eq!(abouts(&history(&home, &all)), abouts(&found[..1]));
    let dir = home.etc();
    let table = home.ctl(
        &["audit", "suspicious", "--dir", dir.to_str().unwrap()],
        b"",
    );
    assert_eq!(table.status.code(), Some(0), "also with findings");
    let table = text(&table.stdout);
    assert!(table.contains("app/0") && table.contains("denial_burst: 5 in 600 s"));
    let wrong = ["audit", "suspicious", "--denials", "101"];
    assert_eq!(home.ctl(&wrong, b"").status.code(), Some(2));
}

#[test]
fn thresholds_can_be_set_and_turned_off() {
    let home = TestDaemon::new().init(POLICY);
    home.configure("# denials = 5", "denials = 2");
    let daemon = home.start();
    daemon.set("shared", b"v");
    let denied = || assert_eq!(bob().read(&home.mount().join("shared")), Err(EACCES));
    denied();
    denied();
    daemon.eventually("it is told", || told(&home).len() == 1);
    assert_eq!(told(&home)[0]["count"], json!(2));
    daemon.stop();
    home.configure("denials = 2", "denials = 0");
    let daemon = home.start();
    (0..10).for_each(|_| denied());
    let handle = alice().act(|| File::open(daemon.file("shared")).unwrap());
    bob().act(|| handle.read_at(&mut [0; 9], 0).unwrap());
    daemon.eventually("the handle is told", || told(&home).len() == 2);
    daemon.stop();
    assert_eq!(told(&home).len(), 2, "and nothing else");
}

//! Secrets that are taken out of service.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::*;

#[test]
fn two_persons_take_a_secret_out_of_service() {
    let home = TestDaemon::new().init(TWO_PERSONS);
    let daemon = home.start();
    daemon.set("app/db", b"one");
    daemon.set("app/db", b"two");
    let db = daemon.file("app/db");
    let old = home.by_kid("app/db", &home.kids("app/db")[0]);
    let ask = |user: &User, arguments: &[&str]| {
        let output = home.ctl_as(user, &[&["revoke"], arguments].concat(), b"");
        (output.status.code().unwrap(), text(&output.stderr))
    };
    let request = [
        "request",
        "app/db",
        "--reason",
        "system-breach",
        "--note",
        "host 7",
    ];
    assert_eq!(ask(&bob(), &request).0, 3, "he has not the verb");
    assert_eq!(ask(&alice(), &request).0, 0);
    let held = alice().act(|| File::open(&db).unwrap());
    let (code, why) = ask(&alice(), &["approve", "1"]);
    assert_eq!(code, 3, "{why}");
    assert!(why.contains("same user"), "{why}");
    assert_eq!(ask(&alice(), &["execute", "1"]).0, 7, "nobody has approved");
    assert_eq!(ask(&bob(), &["approve", "1"]).0, 0);
    assert_eq!(ask(&bob(), &["approve", "1"]).0, 7, "again");
    assert_eq!(alice().read(&db), Ok(b"two".to_vec()), "not yet");
    assert_eq!(ask(&bob(), &["execute", "1"]).0, 3);
    assert_eq!(ask(&alice(), &["execute", "1"]).0, 0);

    let mut byte = [0];
    let fenced = alice().act(|| held.read_at(&mut byte, 0).unwrap_err());
    assert_eq!(fenced.raw_os_error(), Some(EKEYREVOKED));
    assert_eq!(alice().read(&db), Err(EKEYREVOKED));
    assert_eq!(alice().read(&old), Err(ENOENT));
    assert_eq!(home.states("app/db"), ["revoked", "revoked"]);
    // It stays so: for the next worker and the next daemon, with held handles.
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    assert_eq!(alice().read(&db), Err(EKEYREVOKED));
    let fenced = alice().act(|| held.read_at(&mut byte, 0).unwrap_err());
    assert_eq!(fenced.raw_os_error(), Some(EKEYREVOKED));
    drop(held);
    daemon.stop();
    let daemon = home.start();
    assert_eq!(alice().read(&db), Err(EKEYREVOKED));
    let shown = home.ok(&["revoke", "show", "1"], b"");
    assert_eq!(
        (&shown["status"], &shown["note"]),
        (&json!("executed"), &json!("host 7"))
    );
    assert_eq!(shown["decided"]["uid"], json!(bob().uid));
    assert_eq!(shown["executed"]["uid"], json!(alice().uid));
    daemon.set("app/db", b"clean");
    assert_eq!(alice().read(&db), Ok(b"clean".to_vec()));
    let denied = home.records_with(&[("action", json!("deny")), ("errno", json!(EKEYREVOKED))]);
    assert!(denied.len() >= 3, "{denied:?}");
    let told: Vec<_> = home
        .records_with(&[("action", json!("revoke"))])
        .iter()
        .map(|r| r["reason"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        told,
        [
            "revocation 1 requested: system_breach, high",
            "revocation 1 executed: system_breach, high"
        ]
    );
    daemon.stop();
    home.verify();
}

#[test]
fn an_emergency_needs_no_second_person_and_can_bring_a_clean_value() {
    let home = TestDaemon::new().init(TWO_PERSONS);
    let daemon = home.start();
    home.ok(&["generate", "app/p"], b"");
    let p = daemon.file("app/p");
    let old = alice().read(&p).unwrap();
    let held = alice().act(|| File::open(&p).unwrap());
    let arguments = [
        "revoke",
        "request",
        "app/p",
        "--reason",
        "security-incident",
        "--severity",
        "critical",
        "--immediate",
        "--rotate",
    ];
    let done = home.ctl_as(&alice(), &arguments, b"");
    assert!(done.status.success(), "{done:?}");
    let mut byte = [0];
    let fenced = alice().act(|| held.read_at(&mut byte, 0).unwrap_err());
    assert_eq!(fenced.raw_os_error(), Some(EKEYREVOKED));
    let new = alice().read(&p).unwrap();
    assert!(new != old && new.len() == old.len());
    let shown = home.ok(&["revoke", "show", "1"], b"");
    assert_eq!(
        (&shown["immediate"], &shown["severity"]),
        (&json!(true), &json!("critical"))
    );
    assert_eq!(shown["decided"], Value::Null);
    assert_eq!(home.versions("app/p")[1]["reason"], "after revocation 1");
    // Without the verb, no emergency.
    let denied = home.ctl_as(&bob(), &arguments, b"");
    assert_eq!(denied.status.code(), Some(3));
    assert_eq!(
        home.ok(&["revoke", "list"], b"").as_array().unwrap().len(),
        1
    );
}

/// Asking for a revocation is not making it, and neither is a new value.
#[test]
fn an_emergency_and_a_new_value_take_verbs_of_their_own() {
    let home = TestDaemon::new().init(
        "clients:\n  admin: {match: {uid: 0}, allow: ['*'], verbs: ['*']}\n  \
         jarvis-alice: {allow: ['app/**'], verbs: [read, revoke, rotate]}\n  \
         jarvis-bob: {allow: ['app/**'], verbs: [read, emergency, revoke]}\n",
    );
    let daemon = home.start();
    home.ok(&["generate", "app/p"], b"");
    let p = daemon.file("app/p");
    let request = ["revoke", "request", "app/p", "--reason", "manual-request"];
    let ask = |user: &User, more: &[&str]| {
        home.ctl_as(user, &[&request, more].concat(), b"")
            .status
            .code()
    };
    assert_eq!(ask(&alice(), &["--immediate"]), Some(3));
    assert_eq!(ask(&bob(), &["--immediate", "--rotate"]), Some(3));
    assert_eq!(ask(&bob(), &[]), Some(0));
    home.ok(&["revoke", "approve", "1"], b"");
    let execute = ["revoke", "execute", "1", "--rotate"];
    assert_eq!(home.ctl_as(&bob(), &execute, b"").status.code(), Some(3));
    assert!(alice().read(&p).is_ok(), "nothing was revoked");
    let denied = home.records_with(&[("action", json!("deny"))]);
    let reasons: Vec<_> = denied
        .iter()
        .map(|r| r["reason"].as_str().unwrap())
        .collect();
    assert_eq!(reasons, ["emergency", "rotate", "rotate"]);
    assert_eq!(ask(&bob(), &["--immediate"]), Some(0));
    assert_eq!(alice().read(&p), Err(EKEYREVOKED));
}

#[test]
fn a_mapped_secret_is_fenced_too() {
    let home = TestDaemon::new().init(TWO_PERSONS);
    let daemon = home.start();
    home.ok(&["set", "app/m", "--allow-cached-reads"], b"mapped");
    let held = alice().act(|| File::open(daemon.file("app/m")).unwrap());
    let mut byte = [0];
    alice().act(|| held.read_at(&mut byte, 0).unwrap());
    let arguments = [
        "revoke",
        "request",
        "app/m",
        "--reason",
        "manual-request",
        "--immediate",
    ];
    home.ok(&arguments, b"");
    let fenced = alice().act(|| held.read_at(&mut byte, 0));
    assert_eq!(fenced.map_err(|e| errno(&e)), Err(EKEYREVOKED));
}

#[test]
fn rejected_requests_stay_rejected_and_lists_show_what_one_may_see() {
    let home = TestDaemon::new().init(TWO_PERSONS);
    let daemon = home.start();
    daemon.set("app/db", b"one");
    daemon.set("other", b"x");
    let request = |name: &str| {
        home.ok(
            &["revoke", "request", name, "--reason", "manual-request"],
            b"",
        )
    };
    assert_eq!(request("app/db")["revocation"], 1);
    assert_eq!(request("other")["revocation"], 2);
    let run = |user: &User, arguments: &[&str]| {
        home.ctl_as(user, &[&["revoke"], arguments].concat(), b"")
            .status
            .code()
    };
    assert_eq!(run(&bob(), &["reject", "2"]), Some(3), "none of his");
    assert_eq!(run(&bob(), &["show", "2"]), Some(3));
    assert_eq!(run(&bob(), &["reject", "1"]), Some(0));
    assert_eq!(run(&bob(), &["approve", "1"]), Some(7));
    assert_eq!(run(&alice(), &["execute", "1"]), Some(7));
    assert_eq!(run(&root(), &["show", "7"]), Some(4));
    let seen = home.ctl_as(&bob(), &["revoke", "list", "--json"], b"");
    let seen: Value = serde_json::from_slice(&seen.stdout).unwrap();
    assert_eq!(seen.as_array().unwrap().len(), 1);
    assert_eq!(seen[0]["status"], "rejected");
    assert!(alice().read(&daemon.file("app/db")).is_ok());
}

/// Of two approvals at the same time one is made.
#[test]
fn racing_approvals_are_one() {
    let home = TestDaemon::new().init(TWO_PERSONS);
    let daemon = home.start();
    daemon.set("app/db", b"one");
    home.ok(
        &["revoke", "request", "app/db", "--reason", "manual-request"],
        b"",
    );
    let approve = |user: User| {
        let home = &home;
        move || {
            home.ctl_as(&user, &["revoke", "approve", "1"], b"")
                .status
                .success()
        }
    };
    let (a, b) = std::thread::scope(|scope| {
        let (a, b) = (scope.spawn(approve(alice())), scope.spawn(approve(bob())));
        (a.join().unwrap(), b.join().unwrap())
    });
    assert!(a != b, "one of them");
    assert_eq!(home.records_with(&[("action", json!("approve"))]).len(), 1);
}

/// What was asked of one secret is not done to another that has its name now.
#[test]
fn a_revocation_is_of_a_secret_not_of_a_name() {
    let home = TestDaemon::new().init(TWO_PERSONS);
    // A new value does not continue what was deleted.
    home.configure("# recovery_days = 7", "recovery_days = 0");
    let daemon = home.start();
    let (file, reason) = (daemon.file("app/db"), "--reason=system-breach");
    home.ok(&["generate", "app/db"], b"");
    home.ok(&["revoke", "request", "app/db", reason], b"");
    let approved = home.ctl_as(&bob(), &["revoke", "approve", "1"], b"");
    assert!(approved.status.success(), "{approved:?}");
    home.ok(&["delete", "app/db"], b"");
    home.ok(&["generate", "app/db"], b"");
    let innocent = alice().read(&file).unwrap();
    let rotate = home.ctl(&["revoke", "execute", "1", "--rotate"], b"");
    assert_eq!(rotate.status.code(), Some(4), "{rotate:?}");
    home.ok(&["revoke", "execute", "1"], b"");
    assert_eq!(alice().read(&file), Ok(innocent));
    home.ok(&["delete", "app/db"], b"");
    home.ok(&["purge", "app/db"], b"");
}

/// A worker dies at every system call on the way of a revocation: it is made, told
/// and recorded, or it is none of that; and once it was told, no read succeeds.
#[test]
fn a_revocation_is_whole_wherever_a_worker_dies() {
    let home = TestDaemon::new().init(TWO_PERSONS);
    let daemon = home.start();
    let mut killed = 0;
    for (call, most) in [
        ("pwrite64", 8),
        ("fdatasync", 3),
        ("write", 3),
        ("writev", 2),
    ] {
        for nth in 1..=most {
            let name = format!("app/{call}{nth}");
            daemon.set(&name, b"v");
            let path = daemon.file(&name);
            let held = alice().act(|| File::open(&path).unwrap());
            let worker = daemon.workers().0;
            let fault = format!("signal=SIGKILL:when={nth}");
            let limit = Duration::from_secs(20);
            let tracer = Tracer::attach(&[worker], call, &fault, limit).unwrap();
            let mut control = Control::open(&home.mount()).unwrap();
            let request = json!({
                "op": "revoke", "name": name, "reason": "manual_request", "immediate": true,
            });
            let (written, answer) = control.ask(request.to_string());
            let what = format!("{call} {nth}: {written:?} {answer}");
            assert!(written.is_ok(), "{what}");
            let mut byte = [0];
            let fenced = alice().act(|| held.read_at(&mut byte, 0));
            assert_eq!(fenced.map_err(|e| errno(&e)), Err(EKEYREVOKED), "{what}");
            assert_eq!(alice().read(&path), Err(EKEYREVOKED), "{what}");
            tracer.detach();
            killed += usize::from(!lives(worker));
            let told = home.records_with(&[("action", json!("revoke")), ("name", json!(name))]);
            let requested: Vec<_> = told.iter().filter(|r| r["recovered"] != true).collect();
            assert!(!told.is_empty() && requested.len() <= 2, "{what}: {told:?}");
        }
    }
    assert!(killed >= 8, "only {killed} workers died");
    let all = home.ok(&["revoke", "list"], b"");
    assert_eq!(all.as_array().unwrap().len(), 16, "each once");
    daemon.stop();
    home.verify();
}

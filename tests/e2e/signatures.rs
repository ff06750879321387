//! Records whose signature follows, and deaths before it does.

use std::fs;
use std::process::Output;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::*;
use crate::workers::HolderProcess;

/// Thread `name` of `process`.
fn thread(process: Pid, name: &str) -> Pid {
    let tasks = format!("/proc/{}/task", process.as_raw_nonzero());
    let mut tasks = fs::read_dir(tasks).unwrap().map(|task| task.unwrap());
    let task = tasks.find(|task| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    });
    let id: i32 = task.unwrap().file_name().to_str().unwrap().parse().unwrap();
    Pid::from_raw(id).unwrap()
}

/// Holds up the thread of the worker that signs: it does not come out of its next wait.
fn hold_signer(worker: Pid) -> Tracer {
    let fault = "delay_exit=600000000";
    let signer = thread(worker, "audit-sign");
    Tracer::attach_thread(signer, "futex", fault, 4 * patience()).unwrap()
}

fn reads(home: &TestDaemon) -> Vec<Value> {
    home.records_with(&[("action", json!("read"))])
}

fn is_signed(record: &Value) -> bool {
    record["sig"].is_string()
}

/// A daemon with a few secrets and no record that is not signed yet.
fn filled(home: &TestDaemon) -> RunningDaemon<'_> {
    let daemon = home.start();
    for name in ["app/a", "app/b", "app/c"] {
        daemon.set(name, b"v");
    }
    daemon
}

fn read_all(daemon: &RunningDaemon<'_>) {
    for name in ["app/a", "app/b", "app/c"] {
        assert_eq!(alice().read(&daemon.file(name)), Ok(b"v".to_vec()));
    }
}

/// Three reads that the worker has not signed, and the worker.
fn read_unsigned(daemon: &RunningDaemon<'_>, home: &TestDaemon) -> (Pid, Tracer) {
    let (worker, _) = daemon.workers();
    let tracer = hold_signer(worker);
    read_all(daemon);
    let last = home.all_records().pop().unwrap();
    assert_eq!((&last["action"], is_signed(&last)), (&json!("read"), false));
    (worker, tracer)
}

/// Kills the worker while the supervisor can't start another one.
fn kill_alone(daemon: &RunningDaemon<'_>, worker: Pid) {
    stop_all_threads(daemon.pid());
    kill_process(worker, Signal::KILL).unwrap();
    let state = format!("/proc/{}/stat", worker.as_raw_nonzero());
    eventually("the worker is dead", || {
        let stat = fs::read_to_string(&state).unwrap_or_default();
        stat.rsplit(") ").next().unwrap().starts_with('Z')
    });
}

fn verify(home: &TestDaemon, more: &[&str]) -> Output {
    let etc = home.etc();
    let mut arguments = vec!["audit", "verify", "--dir", etc.to_str().unwrap()];
    arguments.extend(more);
    home.ctl(&arguments, b"")
}

fn report(home: &TestDaemon) -> Value {
    let output = verify(home, &["--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn last_start(home: &TestDaemon) -> Value {
    home.records_with(&[("action", json!("start"))])
        .pop()
        .unwrap()["start"]
        .clone()
}

#[test]
fn each_durability_has_its_signatures() {
    for (durability, signed) in [("write", false), ("signed", true), ("sync", true)] {
        let home = TestDaemon::new().init(POLICY);
        let setting = format!("durability = {durability:?}");
        home.configure("durability = \"write\"", &setting);
        let daemon = filled(&home);
        read_all(&daemon);
        // Whatever has none gets one soon, and without another record.
        daemon.eventually("a signature", || {
            report(&home)["not_signed_yet"] == json!(0)
        });
        daemon.stop();
        let reads = reads(&home);
        assert_eq!(reads.len(), 3);
        assert!(
            reads.iter().all(|read| is_signed(read) == signed),
            "{durability}: {reads:?}"
        );
        let follow = home.all_records();
        let follow = follow.iter().filter(|r| r["action"] == "signature");
        assert_eq!(follow.count() > 0, !signed, "{durability}");
        for action in ["start", "create", "stop"] {
            let records = home.records_with(&[("action", json!(action))]);
            assert!(
                !records.is_empty() && records.iter().all(is_signed),
                "{action}"
            );
        }
    }
}

#[test]
fn a_worker_killed_before_it_signs_loses_nothing() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = filled(&home);
    let (worker, tracer) = read_unsigned(&daemon, &home);
    kill_process(worker, Signal::KILL).unwrap();
    tracer.detach();
    daemon.set("app/d", b"v");
    daemon.stop();
    assert_eq!(reads(&home).len(), 3);
    let report = report(&home);
    assert_eq!(report["unclean_starts"], json!(1));
    assert_eq!(
        (&report["unsigned"], &report["lost"]),
        (&json!([]), &json!([]))
    );
    assert_eq!(last_start(&home)["unsigned"], json!(null));
}

/// Nothing is released until the log is what it was.
#[test]
fn a_tail_changed_before_the_next_worker_is_found() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = filled(&home);
    let (worker, tracer) = read_unsigned(&daemon, &home);
    kill_alone(&daemon, worker);
    tracer.detach();
    let (log, whole) = (home.audit_log(), fs::read(home.audit_log()).unwrap());
    let mut changed = text(&whole);
    let last = changed.rfind("\"name\":\"app/c\"").unwrap();
    changed.replace_range(last..last + 14, "\"name\":\"app/x\"");
    fs::write(&log, &changed).unwrap();
    daemon.signal(Signal::CONT);
    daemon.eventually("a worker that refuses", || {
        daemon
            .log()
            .contains("is not the one that the memory that its last writer left knows")
    });
    assert_eq!(alice().read(&daemon.file("app/a")), Err(EIO));
    assert_eq!(
        fs::read(&log).unwrap(),
        changed.as_bytes(),
        "nothing is changed"
    );
    fs::write(&log, &whole).unwrap();
    daemon.eventually("the log's end is the one that is known", || {
        alice().read(&daemon.file("app/a")) == Ok(b"v".to_vec())
    });
    daemon.stop();
    let report = report(&home);
    assert_eq!(
        (&report["unsigned"], &report["lost"]),
        (&json!([]), &json!([]))
    );
}

/// Nor is a shortened one, which the worker before had written on.
#[test]
fn a_log_deleted_with_its_worker_is_missed() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = filled(&home);
    let (worker, _) = daemon.workers();
    read_all(&daemon);
    kill_alone(&daemon, worker);
    fs::remove_file(home.audit_log()).unwrap();
    daemon.signal(Signal::CONT);
    daemon.eventually("a worker that refuses", || {
        daemon
            .log()
            .contains("ends with record 0, but the memory that its last writer left")
    });
    assert_eq!(alice().read(&daemon.file("app/a")), Err(EIO));
}

/// The holder has the memory as well.
#[test]
fn a_tail_outlives_worker_and_supervisor_with_a_holder() {
    let home = TestDaemon::new().init(POLICY);
    let holder = HolderProcess::start(&home);
    let daemon = home.start_command(holder.daemon(&home), b"");
    for name in ["app/a", "app/b", "app/c"] {
        daemon.set(name, b"v");
    }
    let (worker, tracer) = read_unsigned(&daemon, &home);
    kill_alone(&daemon, worker);
    tracer.detach();
    daemon.kill();
    home.start_command(holder.daemon(&home), b"").stop();
    assert_eq!(last_start(&home)["unsigned"], json!(null));
    let report = report(&home);
    assert_eq!(report["unsigned"], json!([]));
    assert_eq!(report["not_signed_yet"], json!(0));
}

#[test]
fn a_tail_is_unsigned_when_all_die_together() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = filled(&home);
    let (worker, tracer) = read_unsigned(&daemon, &home);
    kill_alone(&daemon, worker);
    tracer.detach();
    daemon.kill();
    let first = reads(&home)[0]["seq"].as_u64().unwrap();
    assert_eq!(report(&home)["not_signed_yet"], json!(3));
    let named = text(&verify(&home, &[]).stdout);
    assert!(named.contains("3 record(s) not signed yet"), "{named}");
    let strict = verify(&home, &["--strict"]);
    assert_eq!(strict.status.code(), Some(6));
    let said = text(&strict.stderr);
    assert!(
        said.contains("3 record(s) at its end are not signed"),
        "{said}"
    );

    home.start().stop();
    assert_eq!(last_start(&home)["unsigned"], json!(3));
    let unsigned = json!([{"first_seq": first, "count": 3}]);
    assert_eq!(report(&home)["unsigned"], unsigned);
    let strict = verify(&home, &["--strict"]);
    assert_eq!(strict.status.code(), Some(6));
    let said = text(&strict.stderr);
    let records = format!(
        "no signature vouches for record(s) {first} to {}",
        first + 2
    );
    assert!(said.contains(&records), "{said}");
}

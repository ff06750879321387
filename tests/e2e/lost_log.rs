//! An audit log that lost its end, was deleted, or is another one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::harness::*;

/// A daemon that was stopped after a few changes.
fn stopped() -> TestDaemon {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    for name in ["app/a", "app/b", "app/c"] {
        daemon.set(name, b"v");
    }
    daemon.stop();
    home
}

/// A daemon whose supervisor keeps checkpoints, and where.
fn with_checkpoints() -> (TestDaemon, PathBuf) {
    let home = TestDaemon::new().init(POLICY);
    let witness = home.path("witness");
    fs::create_dir(&witness).unwrap();
    let setting = format!("checkpoints = {:?}", witness.to_str().unwrap());
    home.configure("# checkpoints = \"/mnt/witness\"", &setting);
    (home, witness)
}

/// The checkpoint that is kept in `witness`.
fn kept(witness: &Path) -> Option<PathBuf> {
    let mut notes = fs::read_dir(witness)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    notes.find(|path| path.extension().is_some_and(|e| e == "checkpoint"))
}

fn accepting(home: &TestDaemon) -> Command {
    let mut command = home.daemon();
    command.arg("--accept-lost-log");
    command
}

/// What the daemon says when it refuses to start, having changed nothing.
fn refusal(home: &TestDaemon) -> String {
    let files = || {
        let mut all = home.segments();
        all.push(home.path("etc/vault/vault.redb"));
        let read = |path: PathBuf| (fs::read(&path).unwrap(), path);
        all.into_iter().map(read).collect::<Vec<_>>()
    };
    let before = files();
    let error = home.try_start(home.daemon(), b"").err().unwrap();
    assert!(files() == before, "a refusal changes nothing");
    assert!(error.contains("--accept-lost-log"), "{error}");
    error
}

/// Starts with the flag, which the log tells; the next start needs none.
fn accept(home: &TestDaemon, told: &str) {
    let daemon = home.start_command(accepting(home), b"");
    assert_eq!(root().read(&daemon.file("app/a")), Ok(b"v".to_vec()));
    // Nor does the next worker.
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    assert_eq!(root().read(&daemon.file("app/b")), Ok(b"v".to_vec()));
    daemon.stop();
    home.start().stop();
    let starts = home.records_with(&[("action", json!("start"))]);
    let reasons: Vec<_> = starts
        .iter()
        .map(|start| start["reason"].to_string())
        .collect();
    let accepted = reasons
        .iter()
        .filter(|reason| reason.contains("accepted by the operator"));
    assert_eq!(accepted.clone().count(), 1, "{reasons:?}");
    assert!(
        accepted.clone().all(|reason| reason.contains(told)),
        "{reasons:?}"
    );
}

/// Removes the last `n` records.
fn cut(log: &Path, n: usize) {
    let text = fs::read_to_string(log).unwrap();
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    fs::write(log, lines[..lines.len() - n].concat()).unwrap();
}

#[test]
fn a_log_that_lost_its_end_is_refused_unless_accepted() {
    let home = stopped();
    cut(&home.audit_log(), 1);
    let error = refusal(&home);
    assert!(
        error.contains("ends with record 4, but the vault knows of record 5"),
        "{error}"
    );
    accept(&home, "ended with record 4");
    home.verify();
}

#[test]
fn a_deleted_log_is_refused_unless_accepted() {
    let home = stopped();
    fs::remove_file(home.audit_log()).unwrap();
    let error = refusal(&home);
    assert!(error.contains("ends with record 0"), "{error}");
    accept(&home, "ended with record 0");
    home.verify();
}

/// Killed in the middle of it, the vault knows of every change but perhaps the last,
/// whose record is made again.
#[test]
fn changes_whose_records_are_gone_are_missed_after_a_crash() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    for name in ["app/a", "app/b", "app/c"] {
        daemon.set(name, b"v");
    }
    daemon.kill();
    let whole = fs::read(home.audit_log()).unwrap();
    let of = |name: &str| home.records_with(&[("name", json!(name))]).len();
    assert_eq!((of("app/b"), of("app/c")), (1, 1));
    cut(&home.audit_log(), 2);
    refusal(&home);
    fs::write(home.audit_log(), &whole).unwrap();
    home.start().stop();
}

/// What a power loss takes was only written, never synced: reads, which the vault does
/// not know.
#[test]
fn reads_that_a_power_loss_took_are_no_false_alarm() {
    let (home, witness) = with_checkpoints();
    let daemon = home.start();
    // Every ten seconds what was only written is synced, and the vault knows it.
    let noted = || kept(&witness).map(|note| fs::read(note).unwrap());
    daemon.eventually("a first look", || noted().is_some());
    let first = noted();
    daemon.set("app/a", b"v");
    let synced = fs::read(home.audit_log()).unwrap();
    alice().read(&daemon.file("app/a")).unwrap();
    daemon.kill();
    let written = fs::read(home.audit_log()).unwrap();
    assert!(written.len() > synced.len());
    assert!(noted() == first, "this took ten seconds");
    fs::write(home.audit_log(), synced).unwrap();
    home.start().stop();
    home.verify();
}

#[test]
fn another_identity_is_refused_unless_accepted_with_a_new_log() {
    let home = stopped();
    let other = TestDaemon::new().init(POLICY);
    for file in ["identity.key", "identity.pub"] {
        let path = Path::new("etc").join(file);
        let path = path.to_str().unwrap();
        fs::copy(other.path(path), home.path(path)).unwrap();
    }
    let error = refusal(&home);
    assert!(error.contains("that of host"), "{error}");
    // In another host's log nothing goes on: nobody could verify it.
    let error = home.try_start(accepting(&home), b"").err().unwrap();
    assert!(error.contains("move the log's directory aside"), "{error}");
    fs::remove_file(home.audit_log()).unwrap();
    let error = refusal(&home);
    assert!(
        error.contains("the vault knows an audit log of host"),
        "{error}"
    );
    accept(&home, "another log");
    home.verify();
}

#[test]
fn an_older_copy_of_the_log_that_went_on_is_refused() {
    let home = stopped();
    let (log, vault) = (home.audit_log(), home.path("etc/vault/vault.redb"));
    let copies = [&log, &vault].map(|path| fs::read(path).unwrap());
    home.start().stop();
    let newer = fs::read(&vault).unwrap();
    // The same host went on from the copy, with the vault of then.
    for (path, copy) in [&log, &vault].into_iter().zip(copies) {
        fs::write(path, copy).unwrap();
    }
    let daemon = home.start();
    alice().read(&daemon.file("app/a")).unwrap();
    daemon.stop();
    fs::write(&vault, newer).unwrap();
    let error = refusal(&home);
    assert!(
        error.contains("is not the one that the vault knows"),
        "{error}"
    );
    accept(&home, "another log");
    home.verify();
}

/// Vault and log of one copy agree with each other; the note that was kept elsewhere
/// does not agree with them.
#[test]
fn a_kept_checkpoint_holds_over_restarts() {
    let (home, witness) = with_checkpoints();
    let start = home.start();
    start.set("app/a", b"v");
    start.set("app/b", b"v");
    start.stop();
    let (log, vault) = (home.audit_log(), home.path("etc/vault/vault.redb"));
    let copies = [&log, &vault].map(|path| fs::read(path).unwrap());
    home.start().stop();
    for (path, copy) in [&log, &vault].into_iter().zip(copies) {
        fs::write(path, copy).unwrap();
    }
    let error = refusal(&home);
    assert!(
        error.contains("but the kept checkpoint knows of record"),
        "{error}"
    );
    accept(&home, "is known to have had");
    // Notes are kept again.
    let note = kept(&witness).unwrap();
    let last = home.records().last().unwrap()["seq"].clone();
    let text = fs::read_to_string(&note).unwrap();
    assert!(text.contains(&format!("\nseq {last}\n")), "{text}");

    fs::write(note, "no note").unwrap();
    let error = home.try_start(home.daemon(), b"").err().unwrap();
    assert!(error.contains("cannot read the kept checkpoint"), "{error}");
}

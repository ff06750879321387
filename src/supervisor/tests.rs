//! What a worker that was taken over can get: the whole of [`FromWorker`].

use std::fs;
use std::os::unix::fs::OpenOptionsExt;

use jarvis_audit::EpochClaim;

use super::*;

const CONFIG: &str = "[mount]\npath = \"m\"\n[vault]\npath = \"v/v\"\nkey_file = \"k\"\n\
    [policy]\npath = \"p\"\n[audit]\ndir = \"a\"\nidentity = \"i\"\n";

/// A supervisor whose workers only hold their socket.
fn supervisor(home: &Path) -> Supervisor {
    let path = |name: &str| home.join(name);
    fs::write(path("config.toml"), CONFIG).unwrap();
    fs::write(path("p"), "clients: {}\n").unwrap();
    fs::create_dir(path("v")).unwrap();
    fs::create_dir(path("a")).unwrap();
    let program = path("program");
    let mut executable = fs::OpenOptions::new();
    executable.create(true).write(true).mode(0o755);
    let mut file = executable.open(&program).unwrap();
    file.write_all(b"#!/bin/sh\nexec sleep 60\n").unwrap();
    drop(file);
    let config = Config::load(&path("config.toml")).unwrap();
    let mut supervisor = Supervisor {
        identity: Identity::create(&path("i"), &path("i.pub")).unwrap(),
        program,
        user: None,
        directories: ["v", "a"].map(|d| File::open(path(d)).unwrap().into()),
        listener: None,
        estate: Estate::new(SecretPage::create().unwrap()).unwrap(),
        device: None,
        adopted: false,
        policy: "clients: {}\n".into(),
        offered: None,
        witness: None,
        accept_restored: false,
        fd_store: false,
        active: None,
        standby: None,
        runner: None,
        runner_user: None,
        runner_not_before: Instant::now(),
        facts: Facts::default(),
        secrets: 0,
        upgrading: false,
        fresh: true,
        announced: false,
        outage: Instant::now(),
        last: None,
        failures: 0,
        not_before: Instant::now(),
        stopping: None,
        watchdog: None,
        beaten: None,
        config,
    };
    supervisor.active = Some(Worker::spawn(&supervisor.program).unwrap());
    supervisor
}

fn killed(supervisor: &mut Supervisor) -> bool {
    let (death, _) = match supervisor.active.take() {
        Some(worker) if worker.condemned() => worker.bury(),
        _ => return false,
    };
    death == Death::Hung
}

fn claim(epoch: u64) -> FromWorker {
    FromWorker::Certify(EpochClaim {
        epoch,
        first_seq: 1,
        prev: [0; 32],
        key: [0; 32],
    })
}

#[test]
fn one_certificate_in_a_life_and_only_while_opening() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    supervisor.answer(Role::Active, claim(1)).unwrap();
    assert!(!supervisor.active.as_ref().unwrap().certified);
    supervisor.active.as_mut().unwrap().enter(Phase::Opening);
    supervisor.answer(Role::Standby, claim(1)).unwrap();
    assert!(!supervisor.active.as_ref().unwrap().certified);
    supervisor.answer(Role::Active, claim(1)).unwrap();
    assert!(supervisor.active.as_ref().unwrap().certified);
    supervisor.answer(Role::Active, claim(2)).unwrap();
    assert!(killed(&mut supervisor));
}

#[test]
fn no_device_out_of_turn() {
    for message in [FromWorker::Opened(1), FromWorker::Serving] {
        let home = tempfile::tempdir().unwrap();
        let mut supervisor = supervisor(home.path());
        supervisor.active.as_mut().unwrap().enter(Phase::Ready);
        supervisor.answer(Role::Active, message).unwrap();
        assert!(killed(&mut supervisor));
        assert!(supervisor.device.is_none(), "nothing was mounted");
    }
}

#[test]
fn what_is_no_message_ends_the_worker() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    // A program that writes rubbish where messages go.
    let rubbish = "#!/bin/sh\nprintf 'rubbish rubbish' >&0\nexec sleep 60\n";
    fs::write(&supervisor.program, rubbish).unwrap();
    supervisor.active = Some(Worker::spawn(&supervisor.program).unwrap());
    assert_eq!(supervisor.active.as_mut().unwrap().hear(), None);
    assert!(killed(&mut supervisor));
}

#[test]
fn a_policy_is_in_force_only_once_it_is_accepted() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    fs::write(home.path().join("p"), "new").unwrap();
    supervisor.answer(Role::Active, FromWorker::Policy).unwrap();
    assert_eq!(supervisor.policy, "clients: {}\n");
    supervisor
        .answer(Role::Standby, FromWorker::Accepted)
        .unwrap();
    assert_eq!(supervisor.policy, "clients: {}\n");
    supervisor.answer(Role::Active, FromWorker::Policy).unwrap();
    supervisor
        .answer(Role::Active, FromWorker::Accepted)
        .unwrap();
    assert_eq!(supervisor.policy, "new");
}

#[test]
fn failing_workers_are_given_more_and_more_time() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    let mut pauses = Vec::new();
    for _ in 0..14 {
        supervisor.pause_after(true, "why").unwrap();
        pauses.push(
            supervisor
                .not_before
                .saturating_duration_since(Instant::now()),
        );
    }
    assert!(pauses[..3].iter().all(Duration::is_zero), "bad luck");
    assert!(pauses[3] > PAUSE / 2 && pauses[5] > pauses[3]);
    assert!(pauses[13] <= LONGEST_PAUSE && pauses[13] > LONGEST_PAUSE / 2);
}

#[test]
fn long_last_words_are_cut() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    let long = FromWorker::Ended("é".repeat(5000));
    let error = supervisor.answer(Role::Active, long).unwrap_err();
    assert!(error.len() <= crate::wire::MAX_TEXT);
}

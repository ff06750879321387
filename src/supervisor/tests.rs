//! What a worker that was taken over can get: the whole of [`FromWorker`].

use std::fs;
use std::os::unix::fs::OpenOptionsExt;

use jarvis_audit::{EpochClaim, SegmentClaim};

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
        executable: None,
        previous: None,
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
        facts: SupervisorStats::default(),
        secrets: 0,
        upgrading: false,
        fresh: true,
        announced: false,
        outage: Instant::now(),
        last: None,
        backoff: Backoff::new(),
        standby_backoff: Backoff::new(),
        runner_backoff: Backoff::new(),
        reload_pending: false,
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
    assert!(supervisor.active.as_ref().unwrap().certified.is_none());
    supervisor.active.as_mut().unwrap().enter(Phase::Opening);
    supervisor.answer(Role::Standby, claim(1)).unwrap();
    assert!(supervisor.active.as_ref().unwrap().certified.is_none());
    supervisor.answer(Role::Active, claim(1)).unwrap();
    assert!(supervisor.active.as_ref().unwrap().certified.is_some());
    supervisor.answer(Role::Active, claim(2)).unwrap();
    assert!(killed(&mut supervisor));
}

/// Segments are certified upwards, for who serves.
#[test]
fn no_earlier_segment_is_certified() {
    let segment = |segment, epoch| {
        FromWorker::CertifySegment(SegmentClaim {
            segment,
            epoch,
            key: [0; 32],
        })
    };
    let opening = || {
        let home = tempfile::tempdir().unwrap();
        let mut supervisor = supervisor(home.path());
        supervisor.active.as_mut().unwrap().enter(Phase::Opening);
        supervisor.answer(Role::Active, claim(5)).unwrap();
        (supervisor, home)
    };
    let (mut early, _home) = opening();
    early.answer(Role::Active, segment(1, 6)).unwrap();
    assert!(killed(&mut early));
    for (number, epoch) in [(2, 5), (2, 0), (1, 9), (3, 5)] {
        let (mut supervisor, _home) = opening();
        supervisor.active.as_mut().unwrap().enter(Phase::Serving);
        supervisor.answer(Role::Active, segment(2, 6)).unwrap();
        // Again, after it failed.
        supervisor.answer(Role::Active, segment(2, 6)).unwrap();
        assert_eq!(supervisor.active.as_ref().unwrap().certified, Some((2, 5)));
        supervisor
            .answer(Role::Active, segment(number, epoch))
            .unwrap();
        assert!(killed(&mut supervisor), "{number} {epoch}");
    }
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
fn an_upgrade_after_a_long_life_is_no_outage() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    supervisor.announced = true;
    supervisor.outage = Instant::now().checked_sub(2 * OUTAGE).unwrap();
    supervisor.active.as_mut().unwrap().enter(Phase::Serving);
    supervisor.standby = Some(Worker::spawn(&supervisor.program).unwrap());
    supervisor.upgrading = true;
    supervisor.answer(Role::Standby, FromWorker::Ready).unwrap();
    assert_eq!(supervisor.phase(Role::Active), Some(Phase::Retiring));
    supervisor.check_outage().unwrap();
}

#[test]
fn who_serves_cannot_be_ready_again() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    supervisor.active.as_mut().unwrap().enter(Phase::Serving);
    supervisor.answer(Role::Active, FromWorker::Ready).unwrap();
    assert!(killed(&mut supervisor));
}

#[test]
fn without_a_program_the_serving_worker_stays() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    supervisor.announced = true;
    supervisor.active.as_mut().unwrap().enter(Phase::Serving);
    fs::remove_file(&supervisor.program).unwrap();
    for _ in 0..10 {
        supervisor.keep_staffed().unwrap();
    }
    supervisor.upgrade();
    assert_eq!(supervisor.phase(Role::Active), Some(Phase::Serving));
    assert!(supervisor.standby.is_none() && !supervisor.standby_backoff.left().is_zero());
}

#[test]
fn a_reload_waits_for_somebody_who_serves() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    supervisor.reload_pending = true;
    supervisor.pass_reload_on();
    assert!(supervisor.reload_pending);
    supervisor.answer(Role::Active, FromWorker::Policy).unwrap();
    assert!(!supervisor.reload_pending, "it has come for the text");
}

#[test]
fn long_last_words_are_cut() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    let long = FromWorker::Ended("é".repeat(5000));
    let error = supervisor.answer(Role::Active, long).unwrap_err();
    assert!(error.len() <= crate::ipc::MAX_TEXT_BYTES);
}

//! All that a hijacked worker can get: the whole of [`FromWorker`].

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use clap::Parser;
use jarvis_audit::{EpochClaim, HeadMark, Identity, KnownHead, LogHead, SegmentClaim};
use jarvis_sys::SecretPage;

use super::certifier::Certified;
use super::service::StartState;
use super::tables::PersistentTables;
use super::*;
use crate::ipc::worker::AcceptedLosses;

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
    let tables =
        PersistentTables::new(SecretPage::create().unwrap(), LogHead::create().unwrap()).unwrap();
    let identity = Identity::create(&path("i"), &path("i.pub")).unwrap();
    let directories = ["v", "a"].map(|d| File::open(path(d)).unwrap().into());
    let mut supervisor = Supervisor {
        log_place: LogPlace::watch(path("a"), &directories[1]).unwrap(),
        directories: directories::WorkerDirectories {
            fds: directories,
            vault_path: None,
        },
        http: HttpPort::open(&config.http).unwrap(),
        workers: Workers::new(Executable::at(program), None),
        runner: RunnerSlot::new(None),
        mount: FuseMount::new(&config.mount, None, tables, None),
        watch: MountWatch::open(&config.mount.path, true).unwrap(),
        policy: PolicyText::new("clients: {}\n".into()),
        certifier: Certifier::new(identity, None),
        watchdog: Watchdog::new(None),
        service: Service::new(false, &arguments(AcceptedLosses::default())),
        config,
    };
    supervisor.workers.active = Some(worker(&supervisor));
    supervisor
}

fn arguments(accepted: AcceptedLosses) -> Arguments {
    let lost_log = accepted.lost_log.then_some("--accept-lost-log");
    let arguments = ["jarvis-secretsd", "--config", "config.toml"];
    Arguments::parse_from(arguments.into_iter().chain(lost_log))
}

fn worker(supervisor: &Supervisor) -> WorkerProcess {
    WorkerProcess::spawn(&supervisor.workers.executable.path()).unwrap()
}

fn active(supervisor: &mut Supervisor) -> &mut WorkerProcess {
    supervisor.workers.active.as_mut().unwrap()
}

fn killed(supervisor: &mut Supervisor) -> bool {
    match supervisor.workers.active.take() {
        Some(worker) if worker.was_killed() => worker.reap().reason == ExitReason::Hung,
        _ => false,
    }
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
fn one_certificate_in_a_life_and_only_for_who_opens() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    supervisor.answer(Role::Active, claim(1)).unwrap();
    assert_eq!(active(&mut supervisor).certified, Certified::Nothing);
    active(&mut supervisor).enter(WorkerPhase::Opening);
    supervisor.answer(Role::Standby, claim(1)).unwrap();
    assert_eq!(active(&mut supervisor).certified, Certified::Nothing);
    supervisor.answer(Role::Active, claim(1)).unwrap();
    assert_eq!(
        active(&mut supervisor).certified,
        Certified::Start {
            epoch: 1,
            next: Some(2)
        }
    );
    supervisor.answer(Role::Active, claim(2)).unwrap();
    assert!(killed(&mut supervisor));
}

/// Whatever a worker says: the log goes on where its last writer left it.
#[test]
fn no_start_is_certified_elsewhere_than_where_the_log_was_left() {
    let left = KnownHead {
        written: HeadMark {
            seq: 7,
            digest: [7; 32],
            segment: 1,
            len: 700,
        },
        intended: Some(HeadMark {
            seq: 9,
            digest: [9; 32],
            segment: 1,
            len: 900,
        }),
    };
    let lost = AcceptedLosses {
        lost_log: true,
        ..AcceptedLosses::default()
    };
    for (first_seq, prev, accepted, good) in [
        (8, 7, AcceptedLosses::default(), true),
        (10, 9, AcceptedLosses::default(), true),
        (9, 8, AcceptedLosses::default(), false),
        (8, 9, AcceptedLosses::default(), false),
        (1, 0, AcceptedLosses::default(), false),
        (1, 0, lost, true),
    ] {
        let home = tempfile::tempdir().unwrap();
        let mut supervisor = supervisor(home.path());
        supervisor.certifier.note_log_end(Some(left));
        supervisor.service = Service::new(false, &arguments(accepted));
        active(&mut supervisor).enter(WorkerPhase::Opening);
        let claim = FromWorker::Certify(EpochClaim {
            epoch: 3,
            first_seq,
            prev: [prev; 32],
            key: [0; 32],
        });
        supervisor.answer(Role::Active, claim).unwrap();
        let certified = active(&mut supervisor).certified != Certified::Nothing;
        assert_eq!(certified, good, "record {first_seq} after {prev}");
        assert_eq!(killed(&mut supervisor), !good);
    }
}

/// A worker whose log can't be written serves before it opens it, once.
#[test]
fn a_log_that_is_opened_late_is_certified_once() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    active(&mut supervisor).enter(WorkerPhase::Serving);
    supervisor.answer(Role::Active, claim(3)).unwrap();
    let certified = active(&mut supervisor).certified;
    let next = Some(2);
    assert_eq!(certified, Certified::Start { epoch: 3, next });
    supervisor.answer(Role::Active, claim(4)).unwrap();
    assert!(killed(&mut supervisor));
}

/// Segments are certified one after another, for who serves.
#[test]
fn no_segment_but_the_next_is_certified() {
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
        active(&mut supervisor).enter(WorkerPhase::Opening);
        supervisor.answer(Role::Active, claim(5)).unwrap();
        (supervisor, home)
    };
    let (mut early, _home) = opening();
    early.answer(Role::Active, segment(1, 6)).unwrap();
    assert!(killed(&mut early));
    let (mut ahead, _home) = opening();
    active(&mut ahead).enter(WorkerPhase::Serving);
    ahead.answer(Role::Active, segment(3, 6)).unwrap();
    assert!(killed(&mut ahead), "the log has no segment yet");
    for (number, epoch) in [(2, 5), (2, 0), (1, 9), (3, 5), (4, 7), (u32::MAX, 7)] {
        let (mut supervisor, _home) = opening();
        active(&mut supervisor).enter(WorkerPhase::Serving);
        supervisor.answer(Role::Active, segment(2, 6)).unwrap();
        // Again, after it failed.
        supervisor.answer(Role::Active, segment(2, 6)).unwrap();
        let last = Certified::Segment {
            number: 2,
            epoch: 6,
        };
        assert_eq!(active(&mut supervisor).certified, last);
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
        active(&mut supervisor).enter(WorkerPhase::Ready);
        supervisor.answer(Role::Active, message).unwrap();
        assert!(killed(&mut supervisor));
        assert!(!supervisor.mount.is_mounted(), "nothing was mounted");
    }
}

#[test]
fn what_is_no_message_ends_the_worker() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    // A program that writes rubbish where messages go.
    let rubbish = "#!/bin/sh\nprintf 'rubbish rubbish' >&0\nexec sleep 60\n";
    fs::write(supervisor.workers.executable.installed(), rubbish).unwrap();
    supervisor.workers.active = Some(worker(&supervisor));
    assert_eq!(active(&mut supervisor).receive(), None);
    assert!(killed(&mut supervisor));
}

#[test]
fn a_policy_is_in_force_only_once_it_is_accepted() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    fs::write(home.path().join("p"), "new").unwrap();
    supervisor.answer(Role::Active, FromWorker::Policy).unwrap();
    assert_eq!(supervisor.policy.in_force(), "clients: {}\n");
    supervisor
        .answer(Role::Standby, FromWorker::Accepted)
        .unwrap();
    assert_eq!(supervisor.policy.in_force(), "clients: {}\n");
    supervisor.answer(Role::Active, FromWorker::Policy).unwrap();
    supervisor
        .answer(Role::Active, FromWorker::Accepted)
        .unwrap();
    assert_eq!(supervisor.policy.in_force(), "new");
}

#[test]
fn an_upgrade_after_a_long_life_is_no_outage() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    supervisor.service.start = StartState::Announced;
    supervisor.service.outage_since = Instant::now().checked_sub(2 * OUTAGE_LIMIT).unwrap();
    active(&mut supervisor).enter(WorkerPhase::Serving);
    let standby = worker(&supervisor);
    supervisor.workers.begin_upgrade(standby);
    supervisor.answer(Role::Standby, FromWorker::Ready).unwrap();
    assert_eq!(active(&mut supervisor).phase, WorkerPhase::Retiring);
    supervisor.check_outage().unwrap();
}

#[test]
fn a_standby_that_was_promoted_before_it_was_ready_is_not_replaced() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    supervisor.service.start = StartState::Announced;
    let trial = worker(&supervisor);
    supervisor.workers.begin_upgrade(trial);
    // The active worker ended meanwhile.
    supervisor.workers.active = supervisor.workers.standby.take();
    supervisor.answer(Role::Active, FromWorker::Ready).unwrap();
    active(&mut supervisor).enter(WorkerPhase::Serving);
    supervisor.workers.standby = Some(worker(&supervisor));
    supervisor.answer(Role::Standby, FromWorker::Ready).unwrap();
    assert_eq!(active(&mut supervisor).phase, WorkerPhase::Serving);
}

#[test]
fn who_serves_cannot_be_ready_again() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    active(&mut supervisor).enter(WorkerPhase::Serving);
    supervisor.answer(Role::Active, FromWorker::Ready).unwrap();
    assert!(killed(&mut supervisor));
}

#[test]
fn without_a_program_the_serving_worker_stays() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    supervisor.service.start = StartState::Announced;
    active(&mut supervisor).enter(WorkerPhase::Serving);
    fs::remove_file(supervisor.workers.executable.installed()).unwrap();
    for _ in 0..10 {
        supervisor.ensure_workers().unwrap();
    }
    supervisor.upgrade();
    assert_eq!(active(&mut supervisor).phase, WorkerPhase::Serving);
    assert!(supervisor.workers.standby.is_none());
    assert!(!supervisor.workers.wants(Role::Standby), "not at once");
}

#[test]
fn a_reload_waits_for_somebody_who_serves() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    supervisor.policy.reload_pending = true;
    supervisor.workers.forward_reload(&supervisor.policy);
    assert!(supervisor.policy.reload_pending);
    supervisor.answer(Role::Active, FromWorker::Policy).unwrap();
    assert!(
        !supervisor.policy.reload_pending,
        "it has come for the text"
    );
}

#[test]
fn long_last_words_are_cut() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    let long = FromWorker::Ended("é".repeat(5000));
    active(&mut supervisor).enter(WorkerPhase::Serving);
    supervisor.answer(Role::Active, long).unwrap();
    let told = supervisor.watch.trouble().unwrap();
    assert!(told.starts_with("ééé") && told.len() <= 2 * crate::ipc::MAX_TEXT_BYTES);
}

#[test]
fn who_has_no_device_cannot_say_that_it_is_gone() {
    use WorkerPhase::{Attaching, Opening, Ready, Retiring, Serving, Starting};
    for (role, phase, is_believed) in [
        (Role::Active, Starting, false),
        (Role::Active, Ready, false),
        (Role::Active, Opening, false),
        (Role::Active, Attaching, true),
        (Role::Active, Serving, true),
        (Role::Active, Retiring, true),
        (Role::Standby, Ready, false),
    ] {
        let home = tempfile::tempdir().unwrap();
        let mut supervisor = supervisor(home.path());
        supervisor.workers.standby = Some(worker(&supervisor));
        supervisor.workers.get(role).unwrap().enter(phase);
        let gone = FromWorker::Ended("gone".into());
        supervisor.answer(role, gone).unwrap();
        assert_eq!(supervisor.watch.is_lost, is_believed, "{role:?} {phase:?}");
        let standby = supervisor.workers.standby.is_none();
        assert_eq!(standby, is_believed, "a standby has the old tables");
    }
}

#[test]
fn a_mount_that_is_taken_away_again_and_again_is_made_with_pauses() {
    let home = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(home.path());
    supervisor.service.start = StartState::Announced;
    for _ in 0..4 {
        assert!(supervisor.watch.pause().is_zero());
        supervisor.workers.active = None;
        supervisor.replace_mount("gone").unwrap();
        assert!(!supervisor.watch.is_lost, "nobody serves it: done at once");
    }
    assert!(!supervisor.watch.pause().is_zero());
    supervisor.ensure_workers().unwrap();
    assert!(supervisor.workers.active.is_none(), "not yet");
    // Only then can the directory be removed.
    let point = File::open(supervisor.mount.path()).unwrap();
    let sealed = rustix::fs::IFlags::IMMUTABLE;
    if let Ok(flags) = rustix::fs::ioctl_getflags(&point) {
        rustix::fs::ioctl_setflags(&point, flags - sealed).unwrap();
    }
}

//! One process in another's place: death, hang, upgrade, restart.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::gettid;
use serde_json::json;

use crate::harness::*;

fn status(pid: Pid, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let prefix = format!("{key}:");
    let line = status.lines().find_map(|l| l.strip_prefix(&prefix));
    line.unwrap().trim().to_owned()
}

#[test]
fn workers_have_no_privilege() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let (serving, standby) = daemon.workers();
    for pid in [serving, standby] {
        daemon.eventually("it has shut itself in", || status(pid, "Seccomp") == "2");
        let uid = user("jarvis").uid;
        assert_eq!(status(pid, "Uid"), vec![uid.to_string(); 4].join("\t"));
        assert_eq!(status(pid, "Groups"), "");
        // CAP_IPC_LOCK, where the limit on locked memory can't be lifted.
        let capabilities = u64::from_str_radix(&status(pid, "CapEff"), 16).unwrap();
        assert_eq!(capabilities & !(1 << 14), 0);
        assert_eq!(status(pid, "NoNewPrivs"), "1");
    }
    // What only root may read is not even open.
    let open = fs::read_dir(format!("/proc/{}/fd", serving.as_raw_nonzero())).unwrap();
    let targets = open.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    let etc = home.etc();
    for target in targets.filter(|t| t.starts_with(&etc)) {
        let inside = ["vault", "audit"].map(|d| etc.join(d));
        assert!(inside.iter().any(|d| target.starts_with(d)), "{target:?}");
    }
}

#[test]
fn the_runner_has_a_user_of_its_own_and_comes_back() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let answers = || home.ok(&["status"], b"")["runner"] == json!(true);
    daemon.eventually("it answers", answers);
    let (runner, _) = daemon.children("runner")[0];
    let uid = user("jarvis-runner").uid;
    assert_eq!(status(runner, "Uid"), vec![uid.to_string(); 4].join("\t"));
    assert_eq!(status(runner, "CapEff"), "0000000000000000");
    let open = fs::read_dir(format!("/proc/{}/fd", runner.as_raw_nonzero())).unwrap();
    for target in open.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok()) {
        let target = target.display().to_string();
        let known = ["/dev/null", "socket:", "pipe:", "daemon.log"];
        assert!(known.iter().any(|k| target.contains(k)), "{target}");
    }
    kill_process(runner, Signal::KILL).unwrap();
    daemon.eventually("another one", || {
        daemon
            .children("runner")
            .first()
            .is_some_and(|(pid, _)| *pid != runner)
            && answers()
    });
    // A new worker is told of it, too.
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    daemon.eventually("it answers the new worker", answers);
}

#[test]
fn a_dead_worker_is_replaced_and_nobody_notices() {
    let home = TestDaemon::new().init(POLICY);
    let (daemon, url) = home.start_http();
    daemon.set("app/db", b"first");
    let held = alice().act(|| File::open(daemon.file("app/db")).unwrap());
    daemon.set("app/db", b"second");
    for generation in 2..5 {
        let (serving, _) = daemon.workers();
        kill_process(serving, Signal::KILL).unwrap();
        assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"second".to_vec()));
        assert_eq!(bob().read(&daemon.file("app/db")), Err(EACCES));
        let mut bytes = [0; 32];
        let read = alice().act(|| held.read_at(&mut bytes, 0).unwrap());
        assert_eq!(&bytes[..read], b"first", "an open handle keeps its version");
        let metrics = || home.ok(&["metrics", "--url", &format!("http://{url}")], b"");
        daemon.eventually("the supervisor has told", || {
            metrics()["jarvis_worker_generation"] == json!(f64::from(generation))
        });
        let killed = "jarvis_worker_restarts_total{reason=\"killed\"}";
        assert_eq!(metrics()[killed], json!(f64::from(generation - 1)));
        assert!(metrics()["jarvis_worker_gap_seconds"].as_f64().unwrap() > 0.0);
    }
    daemon.stop();
    assert!(home.verify().contains("4, 3 of them after an unclean end"));
    let starts = home.records_with(&[("action", json!("start"))]);
    assert!(starts[1]["reason"].as_str().unwrap().contains("signal: 9"));
}

#[test]
fn a_stopped_worker_is_replaced() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let (serving, _) = daemon.workers();
    let begun = Instant::now();
    stop_all_threads(serving);
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"v".to_vec()));
    // Half a second between pings, three of silence; the rest is a busy machine's.
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert!(daemon.log().contains("did not answer"), "{}", daemon.log());
}

/// A thread that does not come back from a request, while the others, and the
/// one that answers the supervisor, go on.
#[test]
fn a_worker_with_a_stuck_thread_is_replaced() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let (serving, _) = daemon.workers();
    // Holds the write of the record for an hour.
    let hour = "delay_enter=3600s:when=1";
    let tracer = Tracer::attach(&[serving], "write", hour, 2 * patience()).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| alice().read(&daemon.file("app/db")));
        // Five seconds make a request stuck, three of silence a worker hung.
        daemon.eventually("the worker is killed", || {
            daemon.log().contains("does not answer")
        });
        // It can't die in the tracer's hands.
        tracer.detach();
        assert_eq!(reader.join().unwrap(), Ok(b"v".to_vec()));
    });
    assert!(daemon.log().contains("did not answer"), "{}", daemon.log());
}

#[test]
fn a_request_that_crashes_three_workers_is_refused() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let (serving, standby) = daemon.workers();
    let file = daemon.file("app/db");
    std::thread::scope(|scope| {
        let (tell_tid, tid) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let reader = scope.spawn(move || {
            alice().act(move || {
                tell_tid.send(gettid().as_raw_nonzero()).unwrap();
                released.recv().unwrap();
                fs::read(file).map_err(|e| errno(&e))
            })
        });
        // Every worker, also those to come, dies of its own fault when it asks who
        // this caller is.
        let asked = format!("/proc/{}/uid_map", tid.recv().unwrap());
        let all = [daemon.pid(), serving, standby];
        let fault = "signal=SIGABRT";
        let tracer = Tracer::attach_at(&all, &asked, "openat", fault, 2 * patience()).unwrap();
        release.send(()).unwrap();
        assert_eq!(reader.join().unwrap(), Err(EIO));
        tracer.detach();
    });
    let crashes = daemon.log().matches("SIGABRT").count();
    assert_eq!(crashes, 3, "{}", daemon.log());
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"v".to_vec()));
}

/// The kernel locks a page until its READ is answered; who asks for the page to be dropped
/// then can't even be killed, and the next worker waits for the end of the one before.
#[test]
fn workers_that_die_beside_cached_reads_end_at_once() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let store = |len: usize| {
        let set = json!({"op": "set", "name": "app/db", "value": "v".repeat(len),
            "allow_cached_reads": true});
        let mut control = Control::open(&home.mount()).unwrap();
        control.ask(set.to_string()).0.unwrap();
    };
    store(20_000);
    let file = daemon.file("app/db");
    let (over, end) = (AtomicBool::new(false), Instant::now() + patience());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) && Instant::now() < end {
                    File::open(&file).unwrap().read_at(&mut [0; 64], 0).unwrap();
                }
            });
        }
        for _ in 0..8 {
            let dying = daemon.workers().0;
            kill_process(dying, Signal::KILL).unwrap();
            for len in [20, 20_000, 7, 9000] {
                store(len);
            }
            daemon.eventually("another worker", || daemon.workers().0 != dying);
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(!daemon.log().contains("not answer"), "{}", daemon.log());
}

#[test]
fn an_upgrade_is_an_orderly_change_of_workers() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let (before, _) = daemon.workers();
    daemon.signal(Signal::USR2);
    daemon.eventually("a new worker", || {
        assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"v".to_vec()));
        daemon.log().contains("a new worker serves")
    });
    assert_ne!(daemon.workers().0, before);
    daemon.stop();
    assert!(home.verify().contains(" 0 of them after an unclean end"));
    let stops = home.records_with(&[("action", json!("stop"))]);
    let reasons: Vec<_> = stops
        .iter()
        .map(|s| s["reason"].as_str().unwrap())
        .collect();
    assert_eq!(reasons, ["upgrade", "stop"]);
}

/// A package replaces the program: nothing changes before the upgrade is asked
/// for, and one that fails is given up.
#[test]
fn an_upgrade_takes_the_new_program_if_it_works() {
    use std::os::unix::fs::MetadataExt;
    let home = TestDaemon::new().init(POLICY);
    let program = home.path("jarvis-secretsd");
    let install = |bytes: &[u8]| {
        let new = home.path("new");
        fs::write(&new, bytes).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&new, executable).unwrap();
        fs::rename(new, &program).unwrap();
        fs::metadata(&program).unwrap().ino()
    };
    let original = fs::read(home.daemon().get_program()).unwrap();
    let first = install(&original);
    let mut command = Command::new(&program);
    command.args(home.daemon().get_args());
    let daemon = home.start_command(command, b"");
    daemon.set("app/db", b"v");
    let serving = || {
        let exe = format!("/proc/{}/exe", daemon.workers().0.as_raw_nonzero());
        // It may be on its way out.
        fs::metadata(exe).map_or(0, |metadata| metadata.ino())
    };
    let reads = || alice().read(&daemon.file("app/db")) == Ok(b"v".to_vec());
    let newer = install(&original);
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    assert!(reads());
    assert_eq!(serving(), first, "nobody has asked for the new one");

    install(b"no program at all");
    daemon.signal(Signal::USR2);
    daemon.eventually("it is given up", || {
        daemon.log().contains("the new program fails")
    });
    install(b"#!/bin/sh\nexit 1\n");
    daemon.signal(Signal::USR2);
    daemon.eventually("so is the next", || {
        daemon.log().matches("the new program fails").count() >= 2
    });
    assert!(reads());
    assert_eq!(serving(), first);

    let newest = install(&original);
    assert_ne!(newest, newer);
    daemon.signal(Signal::USR2);
    daemon.eventually("the new one serves", || serving() == newest);
    assert!(reads());
    daemon.stop();
    assert!(home.verify().contains(" 1 of them after an unclean end"));
}

/// Better an error for those who wait than nothing.
#[test]
fn when_nobody_can_serve_the_mount_is_given_up() {
    let home = TestDaemon::new().init(POLICY);
    let mut daemon = home.start();
    daemon.set("app/db", b"v");
    let vault = home.path("etc/vault/vault.redb");
    fs::rename(&vault, home.path("etc/vault/away")).unwrap();
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    // It waits for half a minute, in which somebody could have put it back.
    assert!(alice().read(&daemon.file("app/db")).is_err());
    assert!(!daemon.wait().success());
    let log = fs::read_to_string(home.path("daemon.log")).unwrap();
    assert!(log.contains("no worker could serve for 30 s"), "{log}");
    assert!(log.contains("etc/vault/vault.redb"), "{log}");
}

/// What is open breaks, the rest goes on.
#[test]
fn a_mount_that_is_not_kept_is_made_anew() {
    let home = TestDaemon::new().init(POLICY);
    home.configure("# threads = 4", "keep = false");
    let daemon = home.start();
    assert!(daemon.log().contains("mount.keep"), "{}", daemon.log());
    daemon.set("app/db", b"v");
    let held = File::open(daemon.file("app/db")).unwrap();
    kill_process(daemon.only_worker(), Signal::KILL).unwrap();
    daemon.eventually("a new mount", || {
        alice().read(&daemon.file("app/db")) == Ok(b"v".to_vec())
    });
    assert!(held.read_at(&mut [0; 8], 0).is_err());
    daemon.set("app/db", b"w");
    daemon.stop();
    home.verify();
}

#[test]
fn workers_that_cannot_open_the_vault_end_the_daemon_with_their_reason() {
    let home = TestDaemon::new().init(POLICY);
    fs::write(home.path("etc/vault/vault.redb"), b"no vault").unwrap();
    let error = home.try_start(home.daemon(), b"").err().unwrap();
    assert!(error.contains("etc/vault/vault.redb"), "{error}");
    assert!(!error.contains("/proc/self/fd"), "{error}");
}

/// What is for the worker alone is given to it; so nothing else may be there.
#[test]
fn the_worker_is_not_given_what_it_may_not_have() {
    use std::os::unix::fs::MetadataExt;
    let home = TestDaemon::new().init(POLICY);
    let etc = home.etc();
    fs::rename(etc.join("vault/vault.redb"), etc.join("vault.redb")).unwrap();
    home.configure("vault/vault.redb", "vault.redb");
    let error = home.try_start(home.daemon(), b"").err().unwrap();
    assert!(error.contains("for the worker alone"), "{error}");
    for file in ["", "vault.redb", "identity.key", "policy.yaml"] {
        assert_eq!(fs::metadata(etc.join(file)).unwrap().uid(), 0, "{file}");
    }
}

/// The process that keeps a mount while daemons come and go.
pub(crate) struct HolderProcess {
    process: Child,
    socket: PathBuf,
}

impl HolderProcess {
    pub(crate) fn start(home: &TestDaemon) -> Self {
        let socket = home.path("holder.sock");
        let mut holder = Self {
            process: Command::new("true").spawn().unwrap(),
            socket,
        };
        holder.restart(home);
        holder
    }

    fn restart(&mut self, home: &TestDaemon) {
        self.end(Signal::KILL);
        fs::remove_file(&self.socket).ok();
        let program = env!("CARGO_BIN_EXE_jarvis-secretsd");
        let log = File::create(home.path("holder.log")).unwrap();
        self.process = Command::new(program)
            .args(["holder", "--socket"])
            .arg(&self.socket)
            .stderr(log)
            .spawn()
            .unwrap();
        eventually("the holder listens", || self.socket.exists());
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).ok();
    }

    fn end(&mut self, signal: Signal) {
        self.signal(signal);
        self.signal(Signal::CONT);
        self.process.wait().unwrap();
    }

    /// The daemon that leaves its mount here.
    pub(crate) fn daemon(&self, home: &TestDaemon) -> Command {
        let mut daemon = home.daemon();
        daemon.arg("--holder").arg(&self.socket);
        daemon
    }
}

impl Drop for HolderProcess {
    fn drop(&mut self) {
        self.end(Signal::TERM);
    }
}

/// One container was there before the daemon, one came after it; neither is
/// restarted when the daemon is.
#[test]
fn containers_read_on_through_a_restart() {
    let home = TestDaemon::new().init(POLICY);
    let shared = home.path("shared");
    fs::create_dir(&shared).unwrap();
    home.configure(
        home.mount().to_str().unwrap(),
        shared.join("mnt").to_str().unwrap(),
    );
    let _propagated = Shared::new(&shared);
    let volume = format!("{}:/secrets:ro,rslave", shared.display());
    let early = Container::run(&alice(), &volume);
    let holder = HolderProcess::start(&home);
    let daemon = home.start_command(holder.daemon(&home), b"");
    let set = home.ctl_at(&shared.join("mnt"), &["set", "app/db"], b"the value");
    assert!(set.status.success(), "{set:?}");
    let volume = format!("{}:/secrets/mnt:ro", shared.join("mnt").display());
    let late = Container::run(&alice(), &volume);
    let both_read = || {
        for container in [&early, &late] {
            let read = container.exec(&["cat", "/secrets/mnt/app/db"]);
            assert_eq!(text(&read.stdout), "the value", "{read:?}");
        }
    };
    both_read();
    daemon.kill();
    let daemon = home.start_command(holder.daemon(&home), b"");
    both_read();
    daemon.stop();
    let daemon = home.start_command(holder.daemon(&home), b"");
    both_read();
    daemon.stop();
    drop(holder);
    assert!(late.exec(&["cat", "/secrets/mnt/app/db"]).stdout.is_empty());
}

/// A directory whose mounts reach containers.
struct Shared<'p>(&'p std::path::Path);

impl<'p> Shared<'p> {
    fn new(path: &'p std::path::Path) -> Self {
        for arguments in [&["--bind", path.to_str().unwrap()][..], &["--make-shared"]] {
            let mut mount = Command::new("mount");
            assert!(mount.args(arguments).arg(path).status().unwrap().success());
        }
        Self(path)
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        Command::new("umount")
            .arg("-l")
            .arg(self.0.join("mnt"))
            .stderr(Stdio::null())
            .status()
            .ok();
        Command::new("umount").arg("-l").arg(self.0).status().ok();
    }
}

#[test]
fn the_mount_outlives_the_supervisor_with_a_holder() {
    let home = TestDaemon::new().init(POLICY);
    let mut holder = HolderProcess::start(&home);
    let daemon = home.start_command(holder.daemon(&home), b"");
    daemon.set("app/db", b"first");
    let held = alice().act(|| File::open(daemon.file("app/db")).unwrap());
    daemon.set("app/db", b"second");
    // Edited, but not loaded: a restart does not change who may read.
    home.policy("clients: {}\n");
    let mut running = daemon;
    for orderly in [false, true, false] {
        if orderly {
            running.stop();
        } else {
            running.kill();
        }
        // Who asks meanwhile waits.
        let (asked, next) = std::thread::scope(|scope| {
            let asked = scope.spawn(|| alice().read(&home.mount().join("app/db")));
            let next = home.start_command(holder.daemon(&home), b"");
            (asked.join().unwrap(), next)
        });
        running = next;
        assert_eq!(asked, Ok(b"second".to_vec()));
        let mut bytes = [0; 32];
        let read = alice().act(|| held.read_at(&mut bytes, 0).unwrap());
        assert_eq!(&bytes[..read], b"first");
    }
    let version = home.ok(&["set", "app/db"], b"third")["version"].clone();
    assert_eq!(version, json!(3));
    running.signal(Signal::HUP);
    running.eventually("the policy is loaded", || {
        alice().read(&running.file("app/db")) == Err(EACCES)
    });
    running.stop();
    // The end of the holder is the end of the mount.
    holder.end(Signal::TERM);
    assert_eq!(alice().read(&home.mount().join("app/db")), Err(ENOENT));
    holder.restart(&home);
    home.verify();
}

/// A new holder must not read what a worker serves: it would take it along when it ends.
#[test]
fn a_holder_that_comes_and_goes_costs_no_read() {
    let home = TestDaemon::new().init(POLICY);
    let mut holder = HolderProcess::start(&home);
    let daemon = home.start_command(holder.daemon(&home), b"");
    daemon.set("app/db", b"value");
    let kept = || daemon.log().matches("there is a holder again").count();
    while_read(16, &daemon.file("app/db"), b"value", || {
        for _ in 0..30 {
            let before = kept();
            holder.restart(&home);
            daemon.eventually("it is given the mount", || kept() > before);
        }
    });
    daemon.stop();
}

#[test]
fn a_holder_that_died_is_replaced_and_given_the_mount_again() {
    let home = TestDaemon::new().init(POLICY);
    let mut holder = HolderProcess::start(&home);
    let daemon = home.start_command(holder.daemon(&home), b"");
    daemon.set("app/db", b"value");
    let connection = jarvis_fs::connection(&home.mount()).unwrap();
    holder.restart(&home);
    daemon.eventually("it is found", || {
        daemon.log().contains("there is a holder again")
    });
    daemon.kill();
    let daemon = home.start_command(holder.daemon(&home), b"");
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"value".to_vec()));
    assert_eq!(jarvis_fs::connection(&home.mount()).unwrap(), connection);
    daemon.stop();
}

/// Killed between its connection and the holder's look at it.
#[test]
fn a_supervisor_that_dies_as_it_comes_does_not_end_the_holder() {
    let home = TestDaemon::new().init(POLICY);
    let holder = HolderProcess::start(&home);
    let daemon = home.start_command(holder.daemon(&home), b"");
    daemon.set("app/db", b"value");
    let connection = jarvis_fs::connection(&home.mount()).unwrap();
    daemon.kill();
    holder.signal(Signal::STOP);
    let connect = "import socket, sys\n\
                   s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
                   s.connect(sys.argv[1])";
    let mut dying = Command::new("python3");
    dying.args(["-c", connect]).arg(&holder.socket);
    assert!(dying.status().unwrap().success());
    holder.signal(Signal::CONT);
    let daemon = home.start_command(holder.daemon(&home), b"");
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"value".to_vec()));
    assert_eq!(jarvis_fs::connection(&home.mount()).unwrap(), connection);
    daemon.stop();
}

/// Neither the worker nor the supervisor acts; the holder ends the supervisor, and who
/// waits is served by the next one.
#[test]
fn a_stopped_daemon_is_ended_by_the_holder() {
    let home = TestDaemon::new().init(POLICY);
    let holder = HolderProcess::start(&home);
    let mut daemon = home.start_command(holder.daemon(&home), b"");
    daemon.set("app/db", b"value");
    let (serving, standby) = daemon.workers();
    stop_all_threads(daemon.pid());
    for worker in [serving, standby] {
        stop_all_threads(worker);
    }
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| alice().read(&home.mount().join("app/db")));
        assert!(!daemon.wait().success(), "it was ended");
        let next = home.start_command(holder.daemon(&home), b"");
        assert_eq!(asked.join().unwrap(), Ok(b"value".to_vec()));
        next.stop();
    });
}

/// The worker was stopped for a while only: what the holder read in the meantime is served
/// all the same.
#[test]
fn a_worker_that_was_stopped_for_a_moment_loses_no_request() {
    let home = TestDaemon::new().init(POLICY);
    let holder = HolderProcess::start(&home);
    let daemon = home.start_command(holder.daemon(&home), b"");
    daemon.set("app/db", b"value");
    let (serving, _) = daemon.workers();
    stop_all_threads(serving);
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| alice().read(&home.mount().join("app/db")));
        // On a busy machine the next worker may serve the request before that.
        eventually("the holder looks after the device", || {
            let log = fs::read_to_string(home.path("holder.log")).unwrap();
            log.contains("nobody serves") || asked.is_finished()
        });
        kill_process(serving, Signal::CONT).ok();
        asked.join().unwrap()
    });
    assert_eq!(asked, Ok(b"value".to_vec()));
    daemon.stop();
}

#[test]
fn the_holder_gives_the_mount_up_in_the_end() {
    let home = TestDaemon::new().init(POLICY);
    let holder = HolderProcess::start(&home);
    let daemon = home.start_command(holder.daemon(&home), b"");
    daemon.set("app/db", b"value");
    let file = daemon.file("app/db");
    daemon.kill();
    let start = Instant::now();
    let refused = alice().read(&file);
    assert!(
        matches!(
            refused,
            Err(libc::ECONNABORTED | libc::ENOTCONN | libc::ENOENT)
        ),
        "{refused:?}"
    );
    assert!(start.elapsed() > Duration::from_secs(25), "too early");
    let home_again = home.start_command(holder.daemon(&home), b"");
    assert_eq!(alice().read(&file), Ok(b"value".to_vec()));
    home_again.stop();
}

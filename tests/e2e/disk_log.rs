//! Disks under the audit log that fill up and fail, and files that are taken away from it:
//! nobody waits, nothing is released, everybody is told, and it comes back by itself.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::*;
use crate::http::get;

/// How long an answer may take that is given at once, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A daemon with a few secrets, and what its users see of it.
struct Site<'h> {
    home: &'h TestDaemon,
    daemon: RunningDaemon<'h>,
    address: String,
    /// A handle of `app/held`.
    held: File,
}

impl<'h> Site<'h> {
    fn start(home: &'h TestDaemon) -> Self {
        let (daemon, address) = home.start_http();
        for name in ["app/db", "app/old", "app/held"] {
            daemon.set(name, b"v");
        }
        let held = alice().act(|| File::open(daemon.file("app/held")).unwrap());
        let site = Self {
            home,
            daemon,
            address,
            held,
        };
        assert_eq!(site.read(), Ok(b"v".to_vec()));
        assert_eq!(site.fault(), None);
        site
    }

    fn read(&self) -> Result<Vec<u8>, i32> {
        let begun = Instant::now();
        let read = alice().read(&self.daemon.file("app/db"));
        assert!(begun.elapsed() < AT_ONCE, "it waited");
        read
    }

    /// The reason that `/readyz` gives for not being ready.
    fn fault(&self) -> Option<String> {
        let answer = get(&self.address, "/readyz");
        if answer.starts_with("HTTP/1.1 200 ") {
            return None;
        }
        if answer.is_empty() {
            return Some("the worker that was asked is gone".into());
        }
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        answer
            .split("not ready: audit log: ")
            .nth(1)
            .map(str::to_owned)
    }

    /// The fault, which is noticed within a second though nobody asks for anything.
    fn noticed(&self) -> String {
        let begun = Instant::now();
        self.daemon
            .eventually("not ready", || self.fault().is_some());
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        self.fault().unwrap()
    }

    fn recovered(&self) {
        self.daemon.eventually("ready", || self.fault().is_none());
        assert_eq!(self.read(), Ok(b"v".to_vec()));
        let repairs = self.home.records_with(&[("action", json!("repair"))]);
        assert!(!repairs.is_empty());
    }

    /// What `status` shows while nothing can be read, which it fails for.
    fn status(&self) -> Value {
        let output = self.home.ctl(&["status", "--json"], b"");
        assert_eq!(output.status.code(), Some(1));
        let told = text(&output.stderr);
        assert!(
            told.contains("secrets cannot be read: audit log: "),
            "{told}"
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// All that holds while the log takes no records.
    fn outage(&self) {
        let why = self.noticed();
        let held = self.daemon.file("app/held");
        assert_eq!(self.read(), Err(EIO), "{why}");
        assert_eq!(bob().read(&held), Err(EACCES));
        // Who looks is answered.
        assert_eq!(fs::read_dir(self.daemon.file("app")).unwrap().count(), 3);
        assert_eq!(fs::metadata(&held).unwrap().len(), 1);
        let health = get(&self.address, "/healthz");
        assert!(health.starts_with("HTTP/1.1 200 "), "{health}");
        assert!(health.contains("\"status\":\"degraded\""), "{health}");
        let metrics = get(&self.address, "/metrics");
        assert!(metrics.contains("jarvis_audit_log_ready 0"), "{metrics}");
        let status = self.status();
        assert_ne!(status["audit_log"], "ok");
        assert_eq!(status["troubles"]["audit log"], status["audit_log"]);
        assert!(!why.contains("/proc/self"), "{why}");
        // Nothing is changed.
        let seq = || self.status()["vault_seq"].clone();
        let before = seq();
        let set = self.home.ctl(&["set", "app/db"], b"w");
        assert_eq!(set.status.code(), Some(1));
        let told = text(&set.stderr);
        assert!(told.contains("nothing was changed"), "{told}");
        assert_eq!(seq(), before);
    }

    /// Revokes `app/NAME`, of which a handle is open; gives how `jarvisctl` ended.
    fn revoke(&self, name: &str) -> (Option<i32>, String) {
        let arguments = [
            "revoke",
            "request",
            name,
            "--reason",
            "system-breach",
            "--immediate",
        ];
        let output = self.home.ctl(&arguments, b"");
        (output.status.code(), text(&output.stderr))
    }

    /// Reads until a full disk is felt: what was asked for ahead takes some records more.
    fn use_up(&self) {
        self.daemon.eventually("full", || {
            (0..100).any(|_| self.read().is_err());
            self.fault().is_some_and(|why| why.contains("full"))
        });
    }

    /// A revocation takes effect although nobody can write its record, which comes later.
    fn revocation_without_a_record(&self) {
        assert_eq!(self.read_held(), Ok(1));
        let (code, told) = self.revoke("app/held");
        assert_eq!(code, Some(1));
        assert!(told.contains("the change is made"), "{told}");
        assert_eq!(self.read_held(), Err(EKEYREVOKED));
    }

    fn read_held(&self) -> Result<usize, i32> {
        let read = alice().act(|| self.held.read_at(&mut [0], 0));
        read.map_err(|e| errno(&e))
    }

    /// The next worker finds the log as it is, and answers at once, too.
    fn replace_worker(&self) {
        let worker = self.daemon.workers().0;
        kill_process(worker, Signal::KILL).unwrap();
        self.daemon.eventually("its end", || !lives(worker));
        assert_eq!(self.read(), Err(EIO));
        assert!(self.daemon.workers().0 != worker);
    }

    /// The revocation that nobody could record is recorded; the log goes on.
    fn revoked(self) {
        assert_eq!(self.read_held(), Err(EKEYREVOKED));
        let held = self.daemon.file("app/held");
        assert_eq!(alice().read(&held), Err(EKEYREVOKED));
        let revoked = [("action", json!("revoke")), ("name", json!("app/held"))];
        let records = self.home.records_with(&revoked);
        assert!(records.iter().all(|record| record["recovered"] == true));
        assert_eq!(records.len(), 2, "{records:?}");
        self.daemon.set("app/db", b"w");
        self.daemon.stop();
    }
}

fn log_of(home: &TestDaemon) -> PathBuf {
    home.path("etc/audit")
}

fn repair(home: &TestDaemon) -> String {
    let repairs = home.records_with(&[("action", json!("repair"))]);
    repairs[0]["reason"].as_str().unwrap().to_owned()
}

#[test]
fn an_immutable_log_is_told_and_written_on_once_it_can_be() {
    let home = TestDaemon::new().init(POLICY);
    let _disk = Volume::ext4(&home.path("disk.img"), &log_of(&home));
    let site = Site::start(&home);
    let worker = site.daemon.workers().0;
    chattr("+i", &home.audit_log());
    site.outage();
    site.revocation_without_a_record();
    assert_eq!(site.daemon.workers().0, worker, "the same one answers");
    site.replace_worker();
    site.outage();
    chattr("-i", &home.audit_log());
    site.recovered();
    site.revoked();
    home.verify();
}

/// A log that can only be appended to is as good as any, until something must be undone.
#[test]
fn an_append_only_log_works() {
    let home = TestDaemon::new().init(POLICY);
    let _disk = Volume::ext4(&home.path("disk.img"), &log_of(&home));
    let site = Site::start(&home);
    chattr("+a", &home.audit_log());
    assert_eq!(site.read(), Ok(b"v".to_vec()));
    site.daemon.set("app/old", b"w");
    assert_eq!(site.revoke("app/held").0, Some(0));
    kill_process(site.daemon.workers().0, Signal::KILL).unwrap();
    assert_eq!(site.read(), Ok(b"v".to_vec()));
    home.ok(&["audit", "rotate"], b"");
    assert_eq!(site.read(), Ok(b"v".to_vec()));
    assert_eq!(site.fault(), None);
    site.daemon.stop();
    home.verify();
    chattr("-a", &home.audit_log());
}

/// An error of the device makes its file system read-only for good; another one is mounted
/// in its place, with the log on it.
#[test]
fn a_disk_that_fails_is_replaced_under_a_daemon_that_runs() {
    let home = TestDaemon::new().init(POLICY);
    let disk = Volume::ext4(&home.path("disk.img"), &log_of(&home));
    let site = Site::start(&home);
    disk.fail();
    site.outage();
    site.revocation_without_a_record();
    site.replace_worker();
    site.outage();
    let copy = home.path("copy");
    fs::create_dir(&copy).unwrap();
    let spare = Volume::ext4(&home.path("spare.img"), &copy);
    copy_program(home.audit_log(), copy.join("00000001.jsonl"));
    disk.detach();
    // The directory beneath is no place for a log.
    let is_missed = || site.fault().is_some_and(|why| why.contains("directory"));
    site.daemon.eventually("the disk is missed", is_missed);
    assert_eq!(site.read(), Err(EIO));
    spare.detach();
    let _spare = Volume::mount(&home.path("spare.img"), &log_of(&home));
    site.daemon.eventually("ready", || site.fault().is_none());
    site.revoked();
    home.verify();
}

/// On a full disk there is room for refusals and for many revocations, and for nothing
/// else.
#[test]
fn a_full_disk_has_room_for_revocations() {
    let home = TestDaemon::new().init(POLICY);
    let disk = Volume::tmpfs("4m", &log_of(&home));
    let site = Site::start(&home);
    for n in 0..60 {
        site.daemon.set(&format!("many/{n}"), b"v");
    }
    let ballast = disk.fill();
    site.use_up();
    site.outage();
    for n in 0..60 {
        if n == 30 {
            site.replace_worker();
        }
        let (code, told) = site.revoke(&format!("many/{n}"));
        assert_eq!(code, Some(0), "revocation {n}: {told}");
    }
    assert_eq!(site.read_held(), Ok(1));
    assert_eq!(site.revoke("app/held").0, Some(0));
    assert_eq!(site.read_held(), Err(EKEYREVOKED));
    let revoked = home.records_with(&[("action", json!("revoke"))]);
    assert_eq!(revoked.len(), 2 * 61);
    fs::remove_file(ballast).unwrap();
    site.recovered();
    // And it is kept again.
    let ballast = disk.fill();
    site.use_up();
    assert_eq!(site.revoke("app/old").0, Some(0));
    fs::remove_file(ballast).unwrap();
    site.recovered();
    site.daemon.stop();
    home.verify();
}

/// A sync that fails makes the log's content on disk doubtful: another worker begins a
/// segment, and nobody waits for more than that.
#[test]
fn after_a_failed_sync_another_worker_goes_on() {
    let home = TestDaemon::new().init(POLICY);
    let site = Site::start(&home);
    let worker = site.daemon.workers().0;
    let limit = Duration::from_secs(20);
    let tracer = Tracer::attach(&[worker], "fdatasync", "error=EIO:when=1", limit).unwrap();
    // Whoever waits for the sync gets an error, and it may be the flusher's.
    site.daemon.eventually("its end", || {
        assert!(matches!(site.read(), Ok(_) | Err(EIO)));
        !lives(worker)
    });
    tracer.wait();
    site.daemon.eventually("ready", || site.fault().is_none());
    assert_eq!(site.read(), Ok(b"v".to_vec()));
    let starts = home.records_with(&[("action", json!("start"))]);
    let reason = starts.last().unwrap()["reason"].as_str().unwrap();
    assert!(reason.contains("sync failed"), "{reason}");
    assert_eq!(home.segments().len(), 2);
    site.daemon.stop();
    home.verify();
}

/// Takes the segment away while somebody reads, and goes on with what is served then.
fn taken(home: &TestDaemon, how: impl FnOnce(&Path)) -> Site<'_> {
    let site = Site::start(home);
    let reading = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while reading.load(Ordering::Relaxed) {
                let read = site.read();
                assert!(read == Ok(b"v".to_vec()) || read == Err(EIO), "{read:?}");
            }
        });
        how(&home.audit_log());
        let begun = Instant::now();
        let second = home.path("etc/audit/00000002.jsonl");
        while !fs::read_to_string(&second).is_ok_and(|text| text.contains("\"repair\"")) {
            assert!(begun.elapsed() < patience(), "{}", site.daemon.log());
            std::thread::yield_now();
        }
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        reading.store(false, Ordering::Relaxed);
        reader.join().unwrap();
    });
    site.daemon.eventually("ready", || site.fault().is_none());
    assert_eq!(site.read(), Ok(b"v".to_vec()));
    assert!(site.daemon.log().contains("the audit log takes no records"));
    site.daemon.set("app/db", b"w");
    let (code, told) = site.revoke("app/held");
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(site.read_held(), Err(EKEYREVOKED));
    // The next worker finds its way.
    kill_process(site.daemon.workers().0, Signal::KILL).unwrap();
    assert_eq!(site.read(), Ok(b"w".to_vec()));
    site
}

#[test]
fn a_deleted_segment_is_followed_by_another() {
    let home = TestDaemon::new().init(POLICY);
    let site = taken(&home, |path| fs::remove_file(path).unwrap());
    assert!(repair(&home).contains("was removed"), "{}", repair(&home));
    site.daemon.stop();
    home.start().stop();
}

#[test]
fn a_moved_segment_that_comes_back_makes_the_log_whole() {
    let home = TestDaemon::new().init(POLICY);
    let aside = home.path("aside.jsonl");
    let site = taken(&home, |path| fs::rename(path, &aside).unwrap());
    site.daemon.stop();
    fs::rename(&aside, home.audit_log()).unwrap();
    home.verify();
}

#[test]
fn a_replaced_segment_is_none_of_the_log() {
    let home = TestDaemon::new().init(POLICY);
    let (aside, other) = (home.path("aside.jsonl"), home.path("other"));
    fs::write(&other, "").unwrap();
    let site = taken(&home, |path| {
        fs::hard_link(path, &aside).unwrap();
        fs::rename(&other, path).unwrap();
    });
    let told = repair(&home);
    assert!(told.contains("was replaced"), "{told}");
    site.daemon.stop();
    fs::rename(&aside, home.audit_log()).unwrap();
    home.verify();
}

#[test]
fn a_segment_that_was_cut_off_is_left_and_the_gap_is_found() {
    let home = TestDaemon::new().init(POLICY);
    let site = taken(&home, |path| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(0).unwrap();
    });
    site.daemon.stop();
    assert_eq!(home.audit_verify().status.code(), Some(6));
}

/// While the directory is elsewhere nothing is recorded, for the next start would not find
/// it; once it is back the log goes on in it.
#[test]
fn a_moved_directory_is_missed_until_it_is_back() {
    let home = TestDaemon::new().init(POLICY);
    let site = Site::start(&home);
    let aside = home.path("etc/aside");
    fs::rename(log_of(&home), &aside).unwrap();
    site.outage();
    site.revocation_without_a_record();
    fs::rename(&aside, log_of(&home)).unwrap();
    site.recovered();
    assert!(repair(&home).contains("directory"), "{}", repair(&home));
    site.revoked();
    home.verify();
}

/// In a directory that was made in its place what is known of the log is missing: nothing
/// is released until an operator accepts that.
#[test]
fn a_replaced_directory_is_refused_until_it_is_accepted() {
    let home = TestDaemon::new().init(POLICY);
    let site = Site::start(&home);
    let worker = site.daemon.workers().0;
    fs::remove_dir_all(log_of(&home)).unwrap();
    site.outage();
    site.revocation_without_a_record();
    fs::create_dir(log_of(&home)).unwrap();
    fs::set_permissions(log_of(&home), Permissions::from_mode(0o700)).unwrap();
    site.daemon.eventually("another worker", || !lives(worker));
    site.daemon.eventually("refused", || {
        let fault = site.fault();
        fault.is_some_and(|why| why.contains("--accept-lost-log"))
    });
    assert_eq!(site.read(), Err(EIO));
    assert!(home.segments().is_empty());
    site.daemon.stop();
    let mut command = home.daemon();
    command.arg("--accept-lost-log");
    let daemon = home.start_command(command, b"");
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"v".to_vec()));
    let starts = home.records_with(&[("action", json!("start"))]);
    assert_eq!(starts[0]["seq"], 1);
    let reason = starts[0]["reason"].as_str().unwrap();
    assert!(reason.contains("accepted by the operator"), "{reason}");
    let revoked = [("action", json!("revoke")), ("name", json!("app/held"))];
    assert_eq!(home.records_with(&revoked).len(), 2);
    daemon.stop();
    home.verify();
}

//! The audit log's files: borders, a full disk, retention.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::harness::*;

/// A file system of 16 MiB in a file.
struct Disk(PathBuf);

impl Disk {
    fn mount(home: &TestDaemon, at: &Path) -> Self {
        let image = home.path("disk.img");
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        for mut command in [
            Command::new("mkfs.ext4"),
            Command::new("mount"),
            Command::new("chmod"),
        ] {
            match command.get_program().to_str() {
                Some("mkfs.ext4") => command.args(["-q", "-m", "0"]).arg(&image),
                Some("mount") => command.args(["-o", "loop"]).arg(&image).arg(at),
                _ => command.arg("0700").arg(at),
            };
            assert!(command.status().unwrap().success(), "{command:?}");
        }
        Self(at.to_owned())
    }

    /// Takes all space that is left.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let mut ballast = File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            while ballast.write_all(&vec![1; size]).is_ok() {}
        }
        ballast.sync_all().ok();
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

/// The log's file system fills up, and is given space again.
#[test]
fn a_full_disk_releases_nothing_records_refusals_and_recovers() {
    let home = TestDaemon::new().init(POLICY);
    let disk = Disk::mount(&home, &home.path("etc/audit"));
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let db = daemon.file("app/db");
    assert!(alice().read(&db).is_ok());
    let ballast = disk.fill();
    // What was asked for ahead takes some records more.
    let refused = (0..10_000).find_map(|_| alice().read(&db).err());
    assert_eq!(refused, Some(EIO));
    let reads = || home.records_with(&[("action", json!("read"))]).len();
    let before = reads();
    for _ in 0..20 {
        assert_eq!(alice().read(&db), Err(EIO));
        assert_eq!(bob().read(&db), Err(EACCES));
    }
    assert_eq!(reads(), before);
    let denied = home.records_with(&[("action", json!("deny")), ("uid", json!(bob().uid))]);
    assert_eq!(denied.len(), 20, "there is room for refusals");
    // A worker that finds the disk full serves nothing more than the last one.
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    assert_eq!(bob().read(&db), Err(EACCES));
    assert_eq!(alice().read(&db), Err(EIO));
    let change = home.ctl(&["set", "app/db"], b"w");
    assert_eq!(change.status.code(), Some(1));
    let turned = home.ctl(&["audit", "rotate"], b"");
    assert_eq!(turned.status.code(), Some(1), "{turned:?}");
    fs::remove_file(&ballast).unwrap();
    let value = alice().read(&db).unwrap();
    let late = home.records_with(&[("action", json!("update"))]);
    match value.as_slice() {
        b"w" => assert_eq!(
            late[0]["recovered"], true,
            "made, and recorded before it is read"
        ),
        _ => assert!(late.is_empty(), "not made"),
    }
    home.ok(&["audit", "rotate"], b"");
    assert_eq!(home.segments().len(), 2, "{}", daemon.log());
    daemon.stop();
    home.verify();
}

#[derive(Default)]
struct Done(AtomicBool);

/// Ends the reader also when the test fails.
struct Stop<'d>(&'d Done);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Segments end on request while somebody reads and workers die.
#[test]
fn segments_end_under_readers() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let db = daemon.file("app/db");
    let done = Done::default();
    let reads = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.0.load(Ordering::Relaxed) {
                assert_eq!(alice().read(&db), Ok(b"v".to_vec()));
                reads += 1;
            }
            reads
        });
        let stop = Stop(&done);
        for next in 2..=6 {
            let answer = home.ok(&["audit", "rotate"], b"");
            assert_eq!(answer["segment"], next);
            kill_process(daemon.workers().0, Signal::KILL).unwrap();
        }
        drop(stop);
        reader.join().unwrap()
    });
    daemon.stop();
    assert_eq!(home.segments().len(), 6);
    let records = home.records_with(&[("action", json!("read"))]);
    // What a worker had recorded when it died is recorded again.
    assert!(records.len() >= reads && reads > 0, "{reads}");
    let report = home.verify();
    assert!(report.contains("in 6 segment(s)"), "{report}");
    let found = home.ok(
        &[
            "audit",
            "query",
            "--action",
            "segment",
            "--dir",
            home.etc().to_str().unwrap(),
        ],
        b"",
    );
    assert_eq!(found.as_array().unwrap().len(), 10);
    let python = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/verify_audit.py"))
        .arg(home.path("etc/audit"))
        .arg(home.path("etc/identity.pub"))
        .output()
        .unwrap();
    assert!(python.status.success(), "{python:?}");
}

#[test]
fn a_segment_ends_by_its_size_and_only_auditors_may_end_it() {
    let home = TestDaemon::new().init(
        "clients:\n  admin:\n    match: {uid: 0}\n    allow: [\"*\"]\n    verbs: [\"*\"]\n  \
         jarvis-alice:\n    allow: [app/db]\n    verbs: [read, write]\n",
    );
    home.configure("# segment_mb = 64", "segment_mb = 1");
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let denied = home.ctl_as(&alice(), &["audit", "rotate"], b"");
    assert_eq!(denied.status.code(), Some(3), "{denied:?}");
    let db = daemon.file("app/db");
    alice().act(|| {
        // Each takes some 400 bytes.
        for _ in 0..4000 {
            fs::read(&db).unwrap();
        }
    });
    daemon.eventually("a second segment", || home.segments().len() == 2);
    let first = fs::metadata(&home.segments()[0]).unwrap().len();
    assert!(((1 << 20)..(2 << 20)).contains(&first), "{first}");
    daemon.stop();
    home.verify();
}

/// What is written shows at once, also over a border and a killed worker.
#[test]
fn the_log_is_followed_as_it_grows() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let etc = home.etc();
    let mut follow = root().command(jarvisctl());
    follow
        .args(["audit", "follow", "--json", "--dir"])
        .arg(&etc);
    let mut follow = follow.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut until = |action: &str| loop {
        let line = lines.next().expect("it goes on").unwrap();
        let record: serde_json::Value = serde_json::from_str(&line).unwrap();
        if record["action"] == action {
            break record;
        }
        // Until it watches, there is nothing to show.
    };
    let reading = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while reading.load(Ordering::Relaxed) {
                bob().read(&daemon.file("app/db")).unwrap_err();
            }
        });
        let denied = until("deny");
        reading.store(false, Ordering::Relaxed);
        assert_eq!(denied["uid"], json!(bob().uid));
    });
    home.ok(&["audit", "rotate"], b"");
    assert_eq!(until("segment")["close"]["segment"], 1);
    assert_eq!(until("segment")["open"]["segment"], 2);
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    assert_eq!(until("start")["start"]["previous"], "unclean");
    alice().read(&daemon.file("app/db")).unwrap();
    assert_eq!(until("read")["name"], "app/db");
    // The signature of that read would be written in the place of what stands there by then.
    daemon.eventually("the read is signed", || {
        home.all_records().last().unwrap()["action"] == "signature"
    });
    // A line that no daemon wrote ends it.
    let last = home.segments().pop().unwrap();
    let mut forged = fs::OpenOptions::new().append(true).open(last).unwrap();
    forged.write_all(b"{}\n").unwrap();
    let end = follow.wait().unwrap();
    assert_eq!(end.code(), Some(6));
}

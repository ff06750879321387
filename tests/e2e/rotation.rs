//! Rotation swaps whole values.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::harness::*;

const REWRITES: u64 = 10_000;

/// A number, filler of a length that varies with it, and a digest of both: a
/// mix of two versions shows.
fn checked_value(n: u64) -> String {
    let body = format!("{n}:{}", "x".repeat((n * 37 % 3000) as usize));
    let digest = Sha256::digest(body.as_bytes());
    let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    format!("{body}:{hex}")
}

fn number_in(value: &[u8]) -> u64 {
    let value = str::from_utf8(value).unwrap();
    let n = value.split(':').next().unwrap().parse().unwrap();
    assert!(
        value == checked_value(n),
        "torn: {} bytes, number {n}",
        value.len()
    );
    n
}

fn read_whole(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut len = 0;
    // Small pieces, so that a rotation falls between two reads.
    while let n @ 1.. = file
        .read_at(&mut bytes[len..len + 512], len as u64)
        .unwrap()
    {
        len += n;
    }
    bytes.truncate(len);
    bytes
}

#[test]
fn readers_never_see_two_versions_at_once() {
    let (rewrites, reads) = read_under_rotation(|rewrites, _| rewrites >= REWRITES);
    assert!(rewrites == REWRITES && reads > 1000, "{reads}");
}

/// `make million`: the same until there are a million reads.
#[test]
#[ignore = "takes minutes; make million"]
fn a_million_reads_under_rotation() {
    let (rewrites, reads) = read_under_rotation(|_, reads| reads >= 1_000_000);
    println!("reads {reads}, rewrites {rewrites}, torn 0, failed 0");
}

/// Rewrites a secret until it is `enough` (rewrites, reads) while four threads
/// read it; gives how many of both there were.
fn read_under_rotation(enough: impl Fn(u64, u64) -> bool) -> (u64, u64) {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", checked_value(0).as_bytes());
    let path = daemon.file("app/db");
    let done = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    let start = File::open(&path).unwrap();
    let mut rewrites = 0;
    std::thread::scope(|scope| {
        for holds in [false, false, true, true] {
            let (path, done, reads) = (&path, &done, &reads);
            scope.spawn(move || {
                let _stop = Stop(done);
                alice().become_thread();
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let seen = if holds {
                        hold(path)
                    } else {
                        open_and_read(path)
                    };
                    assert!(seen >= last, "{seen} after {last}");
                    last = seen;
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut control = Control::open(&home.mount()).unwrap();
        let stop = Stop(&done);
        while !enough(rewrites, reads.load(Ordering::Relaxed)) && !done.load(Ordering::Relaxed) {
            rewrites += 1;
            let value = checked_value(rewrites);
            let (written, answer) = control.ask(format!("set app/db \"{value}\""));
            assert!(written.is_ok(), "{answer}");
        }
        drop(stop);
    });
    assert_eq!(number_in(&read_whole(&start)), 0, "held over every rewrite");
    assert_eq!(number_in(&alice().read(&path).unwrap()), rewrites);
    daemon.stop();
    home.verify();
    (rewrites, reads.load(Ordering::Relaxed))
}

/// Ends the others also when one fails: scoped threads are waited for.
struct Stop<'d>(&'d AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn open_and_read(path: &std::path::Path) -> u64 {
    let mut value = Vec::new();
    File::open(path).unwrap().read_to_end(&mut value).unwrap();
    number_in(&value)
}

/// Reads one handle many times: it must stay at its version.
fn hold(path: &std::path::Path) -> u64 {
    let file = File::open(path).unwrap();
    let first = number_in(&read_whole(&file));
    for _ in 0..20 {
        assert_eq!(number_in(&read_whole(&file)), first);
    }
    first
}

#[test]
fn old_versions_are_kept_and_pruned_unless_held() {
    let home = TestDaemon::new().init(POLICY);
    home.configure("# keep_versions = 10", "keep_versions = 2");
    let daemon = home.start();
    // Values so large that handles are served from the vault, not from memory.
    let value = |n: u8| vec![n; 500_000];
    daemon.set("app/db", &value(1));
    let path = daemon.file("app/db");
    let held: Vec<File> = (0..200).map(|_| File::open(&path).unwrap()).collect();
    for n in 2..8 {
        daemon.set("app/db", &value(n));
    }
    for file in &held {
        let mut byte = [0; 1];
        file.read_exact_at(&mut byte, 499_999).unwrap();
        assert_eq!(byte, [1], "the vault keeps what a handle needs");
    }
    assert_eq!(fs::read(&path).unwrap(), value(7));
}

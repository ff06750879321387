//! How fast a long log is verified: `make verify-speed`.

use std::fs;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::*;
use crate::log::testing::open_signing;
use crate::read::segment_path;
use crate::testing::{LogHome, identity};
use crate::{Action, Durability, Event, Opening, Outcome};

/// A read, with what records of reads have.
fn event(n: u32) -> Event<'static> {
    Event {
        name: Some("prod/database/password"),
        id: Some(4711),
        version: Some(12),
        kid: Some("password-20261123-101112"),
        uid: Some(1000 + n % 10),
        gid: Some(1000),
        pid: Some(n % 32_768),
        unit: Some("webapp.service"),
        client: Some("webapp"),
        rule: Some("prod/database/**"),
        ..Event::new(Action::Read, Outcome::Ok, 99)
    }
}

/// Digests of all bytes, on as many threads as there are cores.
fn digest_all(segments: &[Vec<u8>]) -> Duration {
    let begun = Instant::now();
    let threads = std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| {
        for first in 0..threads {
            scope.spawn(move || {
                for part in segments.iter().skip(first).step_by(threads) {
                    std::hint::black_box(Sha256::digest(part));
                }
            });
        }
    });
    begun.elapsed()
}

#[test]
#[ignore = "writes some hundred megabytes; make verify-speed"]
fn a_million_records() {
    let records: u32 = std::env::var("RECORDS").map_or(1_000_000, |n| n.parse().unwrap());
    let home = LogHome::new();
    let log = open_signing(home.path(), &identity(), Opening::default());
    let begun = Instant::now();
    for n in 0..records {
        log.append(&event(n), Durability::Write).unwrap();
        if n % 100_000 == 0 {
            log.rotate_segment(&identity()).unwrap();
        }
    }
    let written = begun.elapsed();
    log.stop(99, None).unwrap();
    let per_second =
        |count: u64, time: Duration| u128::from(count) * 1_000_000_000 / time.as_nanos().max(1);
    println!(
        "append, 1 thread: {} records/s",
        per_second(records.into(), written)
    );
    let read = |&number: &u32| fs::read(segment_path(home.path(), number)).unwrap();
    let segments: Vec<_> = home.segments().iter().map(read).collect();
    let bytes: usize = segments.iter().map(Vec::len).sum();
    let public = identity().public();
    for _ in 0..3 {
        let bare = digest_all(&segments);
        let begun = Instant::now();
        let report = verify(home.path(), &public).unwrap();
        let took = begun.elapsed();
        println!(
            "verify: {} records of {} bytes, {} records/s, {} MB/s; bare SHA-256 of the same bytes, \
             {} MB/s",
            report.records,
            bytes as u64 / report.records,
            per_second(report.records, took),
            per_second(bytes as u64, took) / 1_000_000,
            per_second(bytes as u64, bare) / 1_000_000,
        );
    }
}

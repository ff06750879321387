//! Full disks and broken ones.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::file::{FileStatus, LogFile};
use super::*;
use crate::keys::{EpochClaim, HostId, Identity, SegmentClaim};

/// A file whose next operations fail as told.
pub(super) struct Failing {
    file: File,
    short: AtomicU32,
    pub(super) no_space: AtomicU32,
    no_sync: AtomicU32,
    no_truncate: AtomicU32,
    no_reserve: AtomicU32,
    syncs: AtomicU32,
}

impl Failing {
    pub(super) fn of(file: File) -> Self {
        Self {
            file,
            short: AtomicU32::new(0),
            no_space: AtomicU32::new(0),
            no_sync: AtomicU32::new(0),
            no_truncate: AtomicU32::new(0),
            no_reserve: AtomicU32::new(0),
            syncs: AtomicU32::new(0),
        }
    }
}

fn due(counter: &AtomicU32) -> bool {
    let update = |n: u32| n.checked_sub(1);
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update)
        .is_ok()
}

impl LogFile for Arc<Failing> {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        if due(&self.no_space) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let len = if due(&self.short) {
            bytes.len() / 2
        } else {
            bytes.len()
        };
        self.file.append(&bytes[..len])
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if due(&self.no_sync) {
            return Err(io::Error::other("injected"));
        }
        self.file.sync()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        if due(&self.no_truncate) {
            return Err(io::Error::other("injected"));
        }
        self.file.truncate(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        if due(&self.no_reserve) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.reserve(len)
    }

    fn status(&self) -> io::Result<FileStatus> {
        self.file.status()
    }
}

pub(super) fn failing(home: &LogHome) -> (Log, Arc<Failing>) {
    failing_with(home, WriterSetup::default())
}

fn failing_with(home: &LogHome, setup: WriterSetup) -> (Log, Arc<Failing>) {
    let opening = Opening::default();
    let prepared = opening::prepare(home.path(), identity().host(), &opening).unwrap();
    let segment = prepared.directory.segment(prepared.resume.segment);
    let file = Arc::new(Failing::of(segment.unwrap()));
    let prepared = PreparedLog {
        file: Box::new(file.clone()),
        ..prepared
    };
    let key = EpochKey::generate().unwrap();
    let log = Log::start(prepared, &identity(), opening, key, setup).unwrap();
    (log, file)
}

/// Tries to open the log with `head`, and fails as the start record can't be synced.
pub(super) fn failing_with_head(home: &LogHome, head: &Arc<LogHead>) {
    let opening = Opening {
        vault_seq: 7,
        head: Some(head),
        ..Opening::default()
    };
    let prepared = opening::prepare(home.path(), identity().host(), &opening).unwrap();
    let segment = prepared.directory.segment(prepared.resume.segment);
    let file = Arc::new(Failing::of(segment.unwrap()));
    file.no_sync.store(1, Ordering::Relaxed);
    let prepared = PreparedLog {
        file: Box::new(file),
        ..prepared
    };
    let (key, setup) = (EpochKey::generate().unwrap(), WriterSetup::default());
    assert!(Log::start(prepared, &identity(), opening, key, setup).is_err());
}

#[test]
fn failed_writes_are_undone_and_writing_goes_on() {
    let home = LogHome::new();
    let (log, file) = failing(&home);
    for counter in [&file.short, &file.no_space] {
        counter.store(1, Ordering::Relaxed);
        let failed = log.append(&read(1), Durability::Write);
        assert!(matches!(failed, Err(AppendError::Io(_))));
        assert!(home.bytes().ends_with(b"\n"), "half a line was left");
        log.append(&read(2), Durability::Write).unwrap();
    }
    log.stop(0, None).unwrap();
    assert_eq!(home.verify().unwrap().records, 4);
    assert_eq!(log.counters().errors, 2);
    let uids: Vec<_> = home.records().iter().map(|r| r.uid).collect();
    assert_eq!(uids, [None, Some(2), Some(2), None]);
}

/// Whoever is told "written" has a record and nobody else has, also for records
/// that were being signed when one before them failed.
#[test]
fn failures_among_many_threads_take_back_what_followed() {
    let home = LogHome::new();
    let (log, file) = failing(&home);
    let told = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let (log, file) = (&log, &file);
                scope.spawn(move || {
                    let mut told = Vec::new();
                    for n in 0..200 {
                        if n % 9 == thread {
                            let counter = if n % 2 == 0 {
                                &file.short
                            } else {
                                &file.no_space
                            };
                            counter.store(1, Ordering::Relaxed);
                        }
                        let uid = thread * 1000 + n;
                        if let Ok(seq) = log.append(&read(uid), Durability::Write) {
                            told.push((seq, Some(uid)));
                        }
                    }
                    told
                })
            })
            .collect();
        let told = threads.into_iter().flat_map(|t| t.join().unwrap());
        told.collect::<std::collections::BTreeMap<_, _>>()
    });
    log.stop(0, None).unwrap();
    home.verify().unwrap();
    let records = home.records();
    let reads = &records[1..records.len() - 1];
    assert!(told.len() < 1600 && told.len() > 800, "{}", told.len());
    let written: std::collections::BTreeMap<_, _> = reads.iter().map(|r| (r.seq, r.uid)).collect();
    assert_eq!(written, told);
}

#[test]
fn a_write_that_cannot_be_undone_ends_the_log() {
    let home = LogHome::new();
    let (log, file) = failing(&home);
    file.short.store(1, Ordering::Relaxed);
    file.no_truncate.store(1, Ordering::Relaxed);
    assert!(log.append(&read(1), Durability::Write).is_err());
    let next = log.append(&read(2), Durability::Write);
    assert!(matches!(next, Err(AppendError::Poisoned)));
}

#[test]
fn a_failed_sync_ends_the_log() {
    let home = LogHome::new();
    let (log, file) = failing(&home);
    file.no_sync.store(1, Ordering::Relaxed);
    let failed = log.append(&read(1), Durability::Sync);
    assert!(matches!(failed, Err(AppendError::Poisoned)));
    let next = log.append(&read(2), Durability::Write);
    assert!(matches!(next, Err(AppendError::Poisoned)));
}

/// Waits for `condition`, which another thread brings about.
fn eventually(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(10), "never happened");
        std::thread::yield_now();
    }
}

#[test]
fn written_records_are_synced_without_another_append() {
    let home = LogHome::new();
    let (log, file) = failing_with(&home, signing_soon());
    let syncs = || file.syncs.load(Ordering::Relaxed);
    let before = syncs();
    log.append(&read(1), Durability::Write).unwrap();
    eventually(|| syncs() == before + 1);
    // And no more, up to its end.
    drop(log);
    assert_eq!(syncs(), before + 1);
}

/// Often, for the threads that sign and flush to be met at every point of their loops.
#[test]
fn dropping_the_log_syncs_what_is_written() {
    for _ in 0..30 {
        let home = LogHome::new();
        let (log, file) = failing_with(&home, signing_soon());
        let before = file.syncs.load(Ordering::Relaxed);
        log.append(&read(1), Durability::Write).unwrap();
        drop(log);
        assert_eq!(file.syncs.load(Ordering::Relaxed), before + 1);
    }
}

#[test]
fn a_failed_sync_in_the_background_ends_the_log() {
    let home = LogHome::new();
    let (log, file) = failing(&home);
    file.no_sync.store(1, Ordering::Relaxed);
    log.append(&read(1), Durability::Write).unwrap();
    eventually(|| {
        let next = log.append(&read(2), Durability::Write);
        matches!(next, Err(AppendError::Poisoned))
    });
    assert!(matches!(log.stop(0, None), Err(AppendError::Poisoned)));
}

#[test]
fn a_sync_that_fails_is_never_tried_again() {
    let home = LogHome::new();
    let (log, file) = failing(&home);
    file.no_sync.store(1, Ordering::Relaxed);
    assert!(log.append(&read(1), Durability::Sync).is_err());
    let syncs = file.syncs.load(Ordering::Relaxed);
    assert!(log.append(&read(2), Durability::Sync).is_err());
    drop(log);
    assert_eq!(file.syncs.load(Ordering::Relaxed), syncs);
}

/// Like a read-only disk, on which nothing could be undone, either.
#[test]
fn a_write_that_left_nothing_needs_no_undoing() {
    let home = LogHome::new();
    let (log, file) = failing(&home);
    file.no_space.store(1, Ordering::Relaxed);
    file.no_truncate.store(1, Ordering::Relaxed);
    assert!(log.append(&read(1), Durability::Write).is_err());
    log.append(&read(2), Durability::Sync).unwrap();
    home.verify().unwrap();
}

#[test]
fn revocations_have_room_that_refusals_leave_to_them() {
    let home = LogHome::new();
    let (log, file) = failing(&home);
    log.append(&read(1), Durability::Write).unwrap();
    file.no_reserve.store(u32::MAX, Ordering::Relaxed);
    let long = "x".repeat(30_000);
    let with = |action, result| Event {
        reason: Some(&long),
        ..Event::new(action, result, 7)
    };
    let count = |action, result| {
        let event = with(action, result);
        let written = (0..1000).take_while(|_| log.append(&event, Durability::Write).is_ok());
        written.count()
    };
    count(Action::Read, Outcome::Ok);
    assert!((5..20).contains(&count(Action::Deny, Outcome::Denied)));
    assert!(matches!(log.check(), Err(LogFault::Full)));
    for _ in 0..4 {
        log.append(&with(Action::Revoke, Outcome::Ok), Durability::Sync)
            .unwrap();
        log.append_urgent(&with(Action::Rotate, Outcome::Ok))
            .unwrap();
    }
    file.no_reserve.store(0, Ordering::Relaxed);
    log.check().unwrap();
    log.append(&read(2), Durability::Write).unwrap();
    log.stop(0, None).unwrap();
    home.verify().unwrap();
}

#[test]
fn a_start_that_failed_is_tried_again_under_one_certificate() {
    struct Once(Identity, Mutex<Option<(EpochClaim, [u8; 64])>>);
    impl Certify for Once {
        fn host(&self) -> HostId {
            self.0.host()
        }
        fn certify(&self, claim: &EpochClaim) -> Result<[u8; 64], KeyError> {
            let mut given = self.1.lock();
            let (first, signature) = given.get_or_insert((*claim, self.0.certify(claim)?));
            assert_eq!(first, claim);
            Ok(*signature)
        }
        fn certify_segment(&self, claim: &SegmentClaim) -> Result<[u8; 64], KeyError> {
            self.0.certify_segment(claim)
        }
    }
    let home = filled(3);
    let (key, signer) = (
        StartKey::generate().unwrap(),
        Once(identity(), Mutex::default()),
    );
    let opening = Opening {
        vault_seq: 7,
        ..Opening::default()
    };
    for counter in [0, 1] {
        let prepared = opening::prepare(home.path(), identity().host(), &opening).unwrap();
        let segment = prepared.directory.segment(prepared.resume.segment);
        let file = Arc::new(Failing::of(segment.unwrap()));
        [&file.no_sync, &file.short][counter].store(1, Ordering::Relaxed);
        let prepared = PreparedLog {
            file: Box::new(file),
            ..prepared
        };
        let setup = WriterSetup::default();
        assert!(Log::start(prepared, &signer, opening, key.0.clone(), setup).is_err());
    }
    Log::open_under(home.path(), &signer, opening, &key).unwrap();
    assert_eq!(home.verify().unwrap().starts, 2);
}

#[test]
fn a_full_disk_refuses_what_releases_and_records_refusals() {
    let home = LogHome::new();
    let (log, file) = failing(&home);
    log.append(&read(1), Durability::Write).unwrap();
    file.no_reserve.store(u32::MAX, Ordering::Relaxed);
    // More than what was asked for ahead: from here on there is only the reserve.
    let long = "x".repeat(30_000);
    let fill = Event {
        reason: Some(&long),
        ..read(2)
    };
    let refused = (0..100).find_map(|_| log.append(&fill, Durability::Write).err());
    let full = |error: &AppendError| matches!(error, AppendError::Io(e) if e.kind() == io::ErrorKind::StorageFull);
    assert!(full(&refused.expect("the disk is full")));
    let denied = Event {
        result: Outcome::Denied,
        ..Event::new(Action::Deny, Outcome::Denied, 7)
    };
    for _ in 0..100 {
        log.append(&denied, Durability::Sync).unwrap();
        assert!(full(&log.append(&read(3), Durability::Write).unwrap_err()));
    }
    file.no_reserve.store(0, Ordering::Relaxed);
    log.append(&read(4), Durability::Write).unwrap();
    log.stop(0, None).unwrap();
    let report = home.verify().unwrap();
    assert_eq!(report.counts[&(Action::Deny, Outcome::Denied)], 100);
    assert!(home.records().iter().all(|r| r.uid != Some(3)));
}

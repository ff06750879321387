//! Segments end and begin inside the chain, and old ones go.

use std::io;
use std::sync::atomic::AtomicBool;

use parking_lot::Condvar;

use super::broken_disk::{Failing, failing};
use super::file::{FileStatus, LogFile};
use super::rotation::certify_next;
use super::segment::Segment;
use super::*;
use crate::Identity;
use crate::checkpoint::Checkpoint;
use crate::receipt::{receipt, verify_receipt};
use crate::verify::verify_against;

/// A log of four segments: a read and the border in each, the last one open.
fn segmented() -> (LogHome, Log) {
    let home = LogHome::new();
    let log = home.open(7).unwrap();
    for uid in 1..=3 {
        log.append(&read(uid), Durability::Write).unwrap();
        assert_eq!(log.rotate_segment(&identity()).unwrap(), uid + 1);
    }
    log.append(&read(4), Durability::Write).unwrap();
    (home, log)
}

fn file(home: &LogHome, segment: u32) -> std::path::PathBuf {
    crate::read::segment_path(home.path(), segment)
}

#[test]
fn segments_are_one_chain() {
    let (home, log) = segmented();
    log.stop(7, None).unwrap();
    drop(log);
    let report = home.verify().unwrap();
    assert_eq!((report.segments, report.starts, report.epochs), (4, 1, 4));
    assert_eq!(report.counts[&(Action::Segment, Outcome::Ok)], 6);
    assert_eq!(home.segments(), [1, 2, 3, 4]);
    home.open(7).unwrap().stop(7, None).unwrap();
    let report = home.verify().unwrap();
    assert_eq!((report.starts, report.unclean_starts), (2, 0));
    assert_eq!(
        home.segments(),
        [1, 2, 3, 4],
        "a start goes on where the stop was"
    );
    for record in home.records() {
        let proof = receipt(home.path(), record.seq).unwrap();
        assert_eq!(
            verify_receipt(&proof, &identity().public()).unwrap(),
            record
        );
    }
}

#[test]
fn what_is_kept_for_a_segment_is_given_back() {
    use std::os::unix::fs::MetadataExt;
    let (home, _log) = segmented();
    let blocks = |segment| fs::metadata(file(&home, segment)).unwrap().blocks();
    assert!(blocks(1) < blocks(4), "{} {}", blocks(1), blocks(4));
}

#[test]
fn segments_turn_under_load() {
    let home = LogHome::new();
    let log = home.open(7).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|uid| {
                let (log, done) = (&log, &done);
                scope.spawn(move || {
                    let mut written = 0_u64;
                    while !done.load(Ordering::Relaxed) {
                        let durability = match written % 16 {
                            0 => Durability::Sync,
                            _ => Durability::Write,
                        };
                        log.append(&read(uid), durability).unwrap();
                        written += 1;
                    }
                    written
                })
            })
            .collect();
        for _ in 0..50 {
            log.rotate_segment(&identity()).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        let written: u64 = readers.into_iter().map(|r| r.join().unwrap()).sum();
        log.stop(7, None).unwrap();
        let report = home.verify().unwrap();
        assert_eq!(report.segments, 51);
        assert_eq!(report.counts[&(Action::Read, Outcome::Ok)], written);
    });
}

/// Two files whose border is written by a thread that didn't ask for it.
struct Border {
    file: fs::File,
    /// Set when there is somebody to wait for.
    writer: std::sync::OnceLock<Arc<Writer>>,
    written: AtomicBool,
    turned: (Mutex<bool>, Condvar),
}

impl Border {
    fn of(file: fs::File) -> Arc<Self> {
        Arc::new(Self {
            file,
            writer: std::sync::OnceLock::new(),
            written: AtomicBool::new(false),
            turned: (Mutex::new(false), Condvar::new()),
        })
    }
}

impl LogFile for Arc<Border> {
    /// The first one waits a while for the end of the turn, which must not come.
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.writer.get().is_some() && !self.written.swap(true, Ordering::Relaxed) {
            let mut turned = self.turned.0.lock();
            self.turned
                .1
                .wait_for(&mut turned, Duration::from_millis(100));
            assert!(!*turned, "the turn ended before its record was written");
        }
        self.file.append(bytes)
    }

    /// Waits until another thread has composed the record after the border.
    fn sync(&self) -> io::Result<()> {
        while let Some(writer) = self.writer.get()
            && writer.chain.lock().head().closed
        {
            std::thread::yield_now();
        }
        self.file.sync()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.file.reserve(len)
    }

    fn status(&self) -> io::Result<FileStatus> {
        self.file.status()
    }
}

/// A reader writes the first record of the next segment before who asked for it
/// comes to it: the answer waits for that.
#[test]
fn a_turn_ends_once_its_records_are_written() {
    let home = LogHome::new();
    let opening = Opening::default();
    let prepared = opening::prepare(home.path(), identity().host(), &opening).unwrap();
    let old = Border::of(prepared.directory.segment(1).unwrap());
    let prepared = PreparedLog {
        file: Box::new(old.clone()),
        ..prepared
    };
    let (key, setup) = (EpochKey::from_seed(4), WriterSetup::default());
    let log = Log::start(prepared, &identity(), opening, key, setup).unwrap();
    let next = Border::of(log.directory.segment(2).unwrap());
    let segment = Arc::new(Segment::new(Box::new(next.clone()), 2, 0));
    let beginning = certify_next(&identity(), 2, 2, EpochKey::from_seed(5)).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !log.writer.chain.lock().head().closed {
                std::thread::yield_now();
            }
            log.append(&read(1), Durability::Write).unwrap();
        });
        // The file before waits in its last sync, the next one in its first write.
        assert!(old.writer.set(log.writer.clone()).is_ok());
        assert!(next.writer.set(log.writer.clone()).is_ok());
        assert!(log.writer.rotate_to(segment, beginning).unwrap());
        *next.turned.0.lock() = true;
        next.turned.1.notify_all();
        reader.join().unwrap();
    });
    log.stop(0, None).unwrap();
    assert_eq!(home.verify().unwrap().segments, 2);
}

#[test]
fn a_segment_ends_by_size_and_age() {
    let home = LogHome::new();
    let turning = |bytes, age| Opening {
        vault_seq: 7,
        segment_limits: SegmentLimits { bytes, age },
        ..Opening::default()
    };
    let hour = Duration::from_secs(3600);
    let log = Log::open(home.path(), &identity(), turning(2000, hour)).unwrap();
    assert!(!log.await_segment_end(Duration::ZERO));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| log.await_segment_end(hour));
        for uid in 0..5 {
            log.append(&read(uid), Durability::Signed).unwrap();
        }
        assert!(waiting.join().unwrap());
    });
    log.rotate_segment(&identity()).unwrap();
    assert!(!log.await_segment_end(Duration::ZERO));
    drop(log);
    // The age is the first record's, not that of whoever goes on.
    let log = Log::open(
        home.path(),
        &identity(),
        turning(1 << 30, Duration::from_nanos(1)),
    );
    assert!(log.unwrap().await_segment_end(hour));
    let log = Log::open(home.path(), &identity(), turning(1 << 30, hour)).unwrap();
    assert!(!log.await_segment_end(Duration::ZERO));
}

/// The states that a crash can leave between two segments.
#[test]
fn a_crash_at_a_border_is_mended() {
    // The new file is there and nothing is in it; the old one may end within
    // the record that closes it.
    for keep in [0, 1, 100] {
        let (home, log) = segmented();
        drop(log);
        fs::write(file(&home, 4), "").unwrap();
        let closed = fs::read(file(&home, 3)).unwrap();
        let lines: Vec<_> = closed.split_inclusive(|&b| b == b'\n').collect();
        let (last, before) = lines.split_last().unwrap();
        fs::write(file(&home, 3), [&before.concat(), &last[..keep]].concat()).unwrap();
        home.open(7).unwrap().stop(7, None).unwrap();
        let log = home.open(7).unwrap();
        log.rotate_segment(&identity()).unwrap();
        log.stop(7, None).unwrap();
        let report = home.verify().unwrap();
        assert_eq!((report.starts, report.unclean_starts), (3, 1), "{keep}");
    }
    // The old one is closed, and of the new one's first record a part is there,
    // or not even its file.
    for keep in [None, Some(0), Some(50)] {
        let (home, log) = segmented();
        drop(log);
        let begun = fs::read(file(&home, 4)).unwrap();
        match keep {
            Some(keep) => fs::write(file(&home, 4), &begun[..keep]).unwrap(),
            None => fs::remove_file(file(&home, 4)).unwrap(),
        }
        home.open(7).unwrap().stop(7, None).unwrap();
        let report = home.verify().unwrap();
        assert_eq!((report.segments, report.unclean_starts), (4, 1), "{keep:?}");
        assert_eq!(home.segments(), [1, 2, 3, 4]);
    }
}

#[test]
fn what_a_failed_sync_left_is_not_written_on() {
    let home = filled(2);
    let opening = Opening {
        vault_seq: 7,
        new_segment: true,
        ..Opening::default()
    };
    for segment in [2, 3] {
        Log::open(home.path(), &identity(), opening).unwrap();
        assert_eq!(*home.segments().last().unwrap(), segment);
    }
    assert_eq!(home.verify().unwrap().records, 6);
}

#[test]
fn a_border_that_cannot_be_written_leaves_the_log_usable() {
    let home = LogHome::new();
    let (log, file) = failing(&home);
    file.no_space.store(1, Ordering::Relaxed);
    assert!(log.rotate_segment(&identity()).is_err());
    log.append(&read(1), Durability::Write).unwrap();
    // The old one is closed, the new one takes nothing for a while.
    let next = Arc::new(Failing::of(log.directory.segment(2).unwrap()));
    next.no_space.store(2, Ordering::Relaxed);
    let segment = Arc::new(Segment::new(Box::new(next.clone()), 2, 0));
    let epoch = log.writer.chain.lock().head().epoch.number + 1;
    let beginning = certify_next(&identity(), 2, epoch, EpochKey::from_seed(5)).unwrap();
    assert!(log.writer.rotate_to(segment, beginning).is_err());
    assert!(log.append(&read(2), Durability::Write).is_err());
    log.append(&read(3), Durability::Write).unwrap();
    log.rotate_segment(&identity()).unwrap();
    log.stop(0, None).unwrap();
    let report = home.verify().unwrap();
    assert_eq!((report.segments, report.starts), (3, 1));
    let uids: Vec<_> = home.records().iter().filter_map(|r| r.uid).collect();
    assert_eq!(uids, [1, 3]);
}

#[test]
fn a_segment_needs_its_certificate() {
    let (home, log) = segmented();
    log.rotate_segment(&Identity::from_seed(9)).unwrap();
    drop(log);
    let (_, kind) = home.verify().unwrap_err();
    assert_eq!(kind, FailureKind::Certificate);
}

fn tomorrow() -> Timestamp {
    Timestamp::now() + jiff::SignedDuration::from_hours(24)
}

#[test]
fn pruning_leaves_a_record_and_a_log_that_verifies() {
    let (home, log) = segmented();
    let early = log.checkpoint().unwrap();
    assert_eq!(log.prune(Timestamp::UNIX_EPOCH).unwrap(), 0);
    let before = home.records();
    assert_eq!(log.prune(tomorrow()).unwrap(), 3);
    assert_eq!(home.segments(), [4]);
    log.stop(7, None).unwrap();
    let late = log.checkpoint().unwrap();
    let records = home.records();
    let prune = records.iter().find_map(|r| r.prune.as_ref()).unwrap();
    let gone = before.iter().filter(|r| r.seq <= prune.seq).count();
    assert_eq!((prune.segment, gone), (3, before.len() - 3));
    let report = home.verify().unwrap();
    assert_eq!(report.first_seq, prune.seq + 1);
    let against = |note: &Checkpoint| verify_against(home.path(), &identity().public(), note);
    assert!(
        against(&early).unwrap().anchored,
        "its record is still there"
    );
    assert!(against(&late).unwrap().anchored);
    drop(log);
    home.open(7).unwrap().stop(7, None).unwrap();
    home.verify().unwrap();
}

#[test]
fn a_checkpoint_of_what_was_pruned_says_so() {
    let home = LogHome::new();
    let log = home.open(7).unwrap();
    let note = log.checkpoint().unwrap();
    log.rotate_segment(&identity()).unwrap();
    log.prune(tomorrow()).unwrap();
    let verdict = verify_against(home.path(), &identity().public(), &note);
    assert_eq!(verdict.unwrap_err().kind, FailureKind::CheckpointPruned);
}

#[test]
fn who_removes_more_than_was_pruned_is_found() {
    let (home, log) = segmented();
    // After a power loss the last of what was pruned may still be there.
    let third = fs::read(file(&home, 3)).unwrap();
    log.prune(tomorrow()).unwrap();
    fs::write(file(&home, 3), third).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(file(&home, 3), private).unwrap();
    home.verify().unwrap();
    assert_eq!(log.prune(tomorrow()).unwrap(), 1);
    home.verify().unwrap();
    log.rotate_segment(&identity()).unwrap();
    log.stop(7, None).unwrap();
    fs::remove_file(file(&home, 4)).unwrap();
    // With it the records of pruning went, too.
    assert_eq!(home.verify().unwrap_err().1, FailureKind::MissingSegment);
}

#[test]
fn a_pruned_log_may_begin_with_a_start() {
    let home = filled(1);
    let opening = Opening {
        vault_seq: 7,
        new_segment: true,
        ..Opening::default()
    };
    let log = Log::open(home.path(), &identity(), opening).unwrap();
    assert_eq!(log.prune(tomorrow()).unwrap(), 1);
    drop(log);
    home.verify().unwrap();
}

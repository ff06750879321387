//! Records that others know the log to have.

use super::*;
use crate::{HostId, Identity, KnownRecord, RecordMark};

fn knows(mark: RecordMark, host: HostId) -> [KnownRecord<'static>; 1] {
    [KnownRecord {
        source: "the vault",
        host,
        mark,
    }]
}

fn try_open(home: &LogHome, known: &[KnownRecord<'_>], accept: bool) -> Result<Log, OpenError> {
    let opening = Opening {
        vault_seq: 7,
        known,
        accept_lost_log: accept,
        ..Opening::default()
    };
    Log::open(home.path(), &identity(), opening)
}

/// A log of two segments, with what was known after each of its durable records.
fn two_segments() -> (LogHome, Vec<RecordMark>) {
    let home = LogHome::new();
    let log = home.open(7).unwrap();
    let mut marks = vec![log.durable_mark().unwrap()];
    for uid in 0..3 {
        marks.push(log.append_durable(&read(uid)).unwrap());
    }
    log.rotate_segment(&identity()).unwrap();
    for uid in 3..6 {
        log.append(&read(uid), Durability::Write).unwrap();
        marks.push(log.durable_mark().unwrap());
    }
    log.stop(7, None).unwrap();
    marks.push(log.durable_mark().unwrap());
    (home, marks)
}

#[test]
fn a_log_has_every_record_that_was_known() {
    let (home, marks) = two_segments();
    assert_eq!(marks.last().unwrap().seq, 10);
    for mark in marks {
        try_open(&home, &knows(mark, identity().host()), false).unwrap();
    }
}

#[test]
fn a_lost_end_is_refused_and_nothing_is_changed() {
    let (home, marks) = two_segments();
    let known = knows(*marks.last().unwrap(), identity().host());
    let second = crate::read::segment_path(home.path(), 2);
    let whole = fs::read(&second).unwrap();
    // What a crash leaves is cut off only by a log that goes on.
    let torn = &whole[..whole.len() - 3];
    for left in [Some(torn), None] {
        match left {
            Some(bytes) => fs::write(&second, bytes).unwrap(),
            None => fs::remove_file(&second).unwrap(),
        }
        let before = home.snapshot();
        let error = try_open(&home, &known, false).err().unwrap();
        assert!(
            matches!(error, OpenError::Lost { known: 10, .. }),
            "{error}"
        );
        assert!(home.snapshot() == before);
    }
    fs::remove_file(home.segment()).unwrap();
    let error = try_open(&home, &known, false).err().unwrap();
    assert!(matches!(error, OpenError::Lost { found: 0, .. }), "{error}");
    drop(try_open(&home, &known, true).unwrap());
    let reason = home.records()[0].reason.clone().unwrap();
    assert!(
        reason.contains("known to have had 10, accepted"),
        "{reason}"
    );
    home.verify().unwrap();
}

#[test]
fn an_older_copy_that_went_on_is_refused() {
    let (home, marks) = two_segments();
    let mut other = marks[2];
    other.head[0] ^= 1;
    let known = knows(other, identity().host());
    let error = try_open(&home, &known, false).err().unwrap();
    assert!(
        matches!(error, OpenError::Replaced { seq: 3, .. }),
        "{error}"
    );
    drop(try_open(&home, &known, true).unwrap());
    let reason = home.records().pop().unwrap().reason.unwrap();
    assert!(reason.starts_with("another log"), "{reason}");
}

#[test]
fn another_identity_is_refused_and_never_goes_on_in_the_log() {
    let (home, marks) = two_segments();
    let other = Identity::from_seed(9);
    let open = |known: &[KnownRecord<'_>], accept_lost_log| {
        let opening = Opening {
            vault_seq: 7,
            known,
            accept_lost_log,
            ..Opening::default()
        };
        Log::open(home.path(), &other, opening).err()
    };
    let known = knows(marks[0], identity().host());
    for accept in [false, true] {
        let error = open(&known, accept).unwrap();
        assert!(matches!(error, OpenError::ForeignLog { .. }), "{error}");
    }
    for file in home.snapshot().keys() {
        fs::remove_file(file).unwrap();
    }
    let error = open(&known, false).unwrap();
    assert!(matches!(error, OpenError::OtherIdentity { .. }), "{error}");
    assert!(open(&known, true).is_none());
}

#[test]
fn what_was_pruned_is_not_lost() {
    let (home, marks) = two_segments();
    let log = home.open(7).unwrap();
    let tomorrow = Timestamp::now() + jiff::SignedDuration::from_hours(24);
    assert_eq!(log.prune(tomorrow).unwrap(), 1);
    drop(log);
    for mark in marks {
        try_open(&home, &knows(mark, identity().host()), false).unwrap();
    }
}

/// Seconds of a test's clock.
static SECONDS: AtomicI64 = AtomicI64::new(0);

/// A segment begun while the clock was far back says nothing of the age of the one
/// before it.
#[test]
fn a_clock_that_went_back_makes_nothing_old() {
    let clock = || Timestamp::constant(SECONDS.load(Ordering::Relaxed), 0);
    let home = LogHome::new();
    SECONDS.store(1_800_000_000, Ordering::Relaxed);
    let opening = Opening {
        clock: Some(clock),
        ..Opening::default()
    };
    let log = Log::open(home.path(), &identity(), opening).unwrap();
    SECONDS.store(0, Ordering::Relaxed);
    log.rotate_segment(&identity()).unwrap();
    log.rotate_segment(&identity()).unwrap();
    let year_ago = Timestamp::constant(1_770_000_000, 0);
    assert_eq!(log.prune(year_ago).unwrap(), 0);
    assert_eq!(home.segments(), [1, 2, 3]);
}

//! A log that is written, ended and opened again.

use std::fs;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

use super::limits::EpochLimits;
use super::*;
use crate::keys::PublicIdentity;
use crate::line::MAX_LINE_BYTES;
use crate::record::PreviousEnd;
use crate::testing::{LogHome, check_vector, filled, identity, read, vectors};
use crate::verify::{FailureKind, LogEnd, verify};

mod broken_disk;
mod ends;
mod epochs;
mod head;
mod known;
mod presence;
mod segments;
mod signer;

/// Signatures follow as soon as they do in a worker.
fn signing_soon() -> WriterSetup {
    WriterSetup {
        signature_delay: Duration::from_millis(8),
        ..WriterSetup::default()
    }
}

#[test]
fn what_is_written_verifies() {
    let home = filled(5);
    let report = home.verify().unwrap();
    assert_eq!(
        (report.records, report.starts, report.unclean_starts),
        (7, 1, 0)
    );
    assert_eq!(report.counts[&(Action::Read, Outcome::Ok)], 5);
    assert_eq!(report.end, LogEnd::Stopped);
    assert_eq!((report.first_seq, report.last_seq), (1, 7));
    assert!(!report.anchored);
    let records = home.records();
    assert_eq!(records[3].uid, Some(2));
    assert_eq!(records[3].name.as_deref(), Some("team/db"));
}

#[test]
fn restarts_chain_and_tell_clean_from_unclean() {
    let home = filled(1);
    let log = home.open(7).unwrap();
    log.append(&read(1), Durability::Sync).unwrap();
    drop(log);
    home.open(7).unwrap().stop(7, None).unwrap();
    let report = home.verify().unwrap();
    assert_eq!(
        (report.starts, report.unclean_starts, report.records),
        (3, 1, 7)
    );
    assert_eq!((report.clean_starts, report.epochs), (1, 3));
    let previous: Vec<_> = home.records().into_iter().filter_map(|r| r.start).collect();
    let previous: Vec<_> = previous.iter().map(|s| s.previous).collect();
    assert_eq!(
        previous,
        [PreviousEnd::None, PreviousEnd::Clean, PreviousEnd::Unclean]
    );
}

#[test]
fn a_start_that_misreports_the_end_is_refused() {
    // Even the holder of the identity key cannot make a crash look orderly.
    let home = LogHome::new();
    drop(home.open(0).unwrap());
    let opening = Opening::default();
    let mut prepared = opening::prepare(home.path(), identity().host(), &opening).unwrap();
    if let Some(tail) = &mut prepared.resume.tail {
        tail.clean = true;
    }
    let (key, setup) = (EpochKey::from_seed(3), WriterSetup::default());
    let log = Log::start(prepared, &identity(), opening, key, setup).unwrap();
    drop(log);
    assert_eq!(home.verify().unwrap_err(), (2, FailureKind::Previous));
}

#[test]
fn a_second_writer_is_refused() {
    let home = LogHome::new();
    let first = home.open(0).unwrap();
    assert!(matches!(home.open(0), Err(OpenError::InUse(_))));
    drop(first);
    home.open(0).unwrap();
}

#[test]
fn inspecting_shows_the_tail_and_changes_nothing() {
    let home = LogHome::new();
    assert_eq!(Log::inspect(home.path(), None).unwrap(), None);
    assert!(home.snapshot().is_empty());
    let home = filled(3);
    let before = home.snapshot();
    let tail = Log::inspect(home.path(), None).unwrap().unwrap();
    assert_eq!(
        (tail.seq, tail.vault_seq, tail.epoch, tail.clean),
        (5, 7, 1, true)
    );
    assert_eq!(home.snapshot(), before);
}

#[test]
fn records_have_a_limit() {
    let home = LogHome::new();
    let log = home.open(0).unwrap();
    let long = "x".repeat(MAX_LINE_BYTES);
    let event = Event {
        reason: Some(&long),
        ..read(1)
    };
    assert!(matches!(
        log.append(&event, Durability::Write),
        Err(AppendError::TooLong)
    ));
    log.stop(0, None).unwrap();
    assert_eq!(home.verify().unwrap().records, 2);
    assert_eq!(
        log.counters(),
        Counters {
            records: 2,
            errors: 1
        }
    );
}

#[test]
fn many_threads_make_one_chain() {
    let home = LogHome::new();
    let log = home.open(0).unwrap();
    std::thread::scope(|scope| {
        for uid in 0..4 {
            let log = &log;
            scope.spawn(move || {
                for n in 0..50 {
                    let durability = if n % 10 == 0 {
                        Durability::Sync
                    } else {
                        Durability::Write
                    };
                    log.append(&read(uid), durability).unwrap();
                }
            });
        }
    });
    log.stop(0, None).unwrap();
    assert_eq!(home.verify().unwrap().records, 202);
}

#[test]
fn the_longest_record_is_read_back() {
    // Its line is exactly the longest: the writer's bound and the reader's agree.
    let home = LogHome::new();
    let log = home.open(0).unwrap();
    let padded = |len: usize| {
        let text = "x".repeat(len);
        let event = Event {
            reason: Some(&text),
            ..read(1)
        };
        log.append(&event, Durability::Signed)
    };
    padded(1).unwrap();
    let used = home.lines()[1].len() - 1;
    let fits = MAX_LINE_BYTES - used;
    assert!(matches!(padded(fits + 1), Err(AppendError::TooLong)));
    padded(fits).unwrap();
    assert_eq!(home.lines()[2].len(), MAX_LINE_BYTES);
    log.stop(0, None).unwrap();
    assert_eq!(home.verify().unwrap().records, 4);
}

#[test]
fn any_text_stays_within_its_field() {
    let home = LogHome::new();
    let log = home.open(0).unwrap();
    let name = "a\n\"},{\u{0}\u{2028}é\",\"sig\":\"";
    let event = Event {
        name: Some(name),
        ..read(1)
    };
    log.append(&event, Durability::Write).unwrap();
    log.stop(0, None).unwrap();
    assert_eq!(home.verify().unwrap().records, 3);
    assert_eq!(home.records()[1].name.as_deref(), Some(name));
}

#[test]
fn a_clock_that_goes_back_is_recorded_as_it_is() {
    static NOW: AtomicI64 = AtomicI64::new(1_800_000_000);
    let clock = || Timestamp::constant(NOW.fetch_sub(1, Ordering::Relaxed), 0);
    let home = LogHome::new();
    let key = EpochKey::from_seed(3);
    let setup = WriterSetup {
        clock,
        ..WriterSetup::default()
    };
    let log = Log::open_with(home.path(), &identity(), Opening::default(), key, setup).unwrap();
    log.stop(0, None).unwrap();
    let report = home.verify().unwrap();
    assert_eq!(report.first_time, "2027-01-15T08:00:00.000000Z");
    assert_eq!(report.last_time, "2027-01-15T07:59:59.000000Z");
    assert_eq!((report.times_back, report.first_back), (1, Some(2)));
}

fn fixed_clock() -> Timestamp {
    Timestamp::constant(1_800_000_000, 123_456_789)
}

/// The frozen log of tests/vectors: what release 0.1 wrote must stay readable,
/// and the same events must still give the same bytes (Ed25519 is deterministic).
#[test]
fn the_frozen_log_is_reproduced_and_verifies() {
    let home = LogHome::new();
    for seed in [11, 12] {
        let opening = Opening {
            reason: None,
            version: "0.1.0",
            vault_seq: 7,
            accept_older_vault: false,
            ..Opening::default()
        };
        let key = EpochKey::from_seed(seed);
        let setup = WriterSetup {
            clock: fixed_clock,
            ..WriterSetup::default()
        };
        let log = Log::open_with(home.path(), &identity(), opening, key, setup).unwrap();
        log.append(&read(1000), Durability::Sync).unwrap();
        let denied = Event {
            result: Outcome::Denied,
            errno: Some(13),
            rule: Some("default"),
            ..Event {
                action: Action::Deny,
                ..read(1001)
            }
        };
        log.append(&denied, Durability::Write).unwrap();
        log.append(&read(1002), Durability::Write).unwrap();
        log.writer.sign_pending().unwrap();
        log.stop(7, None).unwrap();
    }
    let written = String::from_utf8(home.bytes()).unwrap();
    check_vector("log-v2/00000001.jsonl", &written);
    let public = PublicIdentity::open(&vectors().join("log-v2-identity.pub")).unwrap();
    let report = verify(&vectors().join("log-v2"), &public).unwrap();
    check_vector("log-v2-head", &format!("{}\n", report.head));
}

/// The frozen log with epochs, segments and pruning, and a checkpoint of it.
#[test]
fn the_frozen_segments_are_reproduced_and_verify() {
    static SECONDS: AtomicI64 = AtomicI64::new(0);
    static SEED: AtomicU8 = AtomicU8::new(30);
    let clock = || {
        let seconds = SECONDS.fetch_add(1, Ordering::Relaxed);
        fixed_clock() + jiff::SignedDuration::from_secs(seconds)
    };
    let keys = || Ok(EpochKey::from_seed(SEED.fetch_add(1, Ordering::Relaxed)));
    let home = LogHome::new();
    let opening = Opening {
        version: "0.1.0",
        ..Opening::default()
    };
    let setup = WriterSetup {
        new_key: keys,
        clock,
        epoch_limits: EpochLimits {
            records: 2,
            age: Duration::from_secs(3600),
        },
        ..WriterSetup::default()
    };
    let first = keys().unwrap();
    let log = Log::open_with(home.path(), &identity(), opening, first, setup).unwrap();
    let mut borders = Vec::new();
    for uid in 1000..1003 {
        log.append(&read(uid), Durability::Write).unwrap();
        borders.push(clock());
        log.rotate_segment(&identity()).unwrap();
    }
    assert_eq!(log.prune(borders[1]).unwrap(), 1);
    log.stop(7, None).unwrap();
    let note = log.checkpoint().unwrap();
    assert_eq!(home.segments(), [2, 3, 4]);
    for segment in home.segments() {
        let written = fs::read_to_string(crate::read::segment_path(home.path(), segment)).unwrap();
        check_vector(&format!("log-segments/{segment:08}.jsonl"), &written);
    }
    check_vector("log-segments.checkpoint", &note.to_string());
    let public = PublicIdentity::open(&vectors().join("log-v2-identity.pub")).unwrap();
    let report = crate::verify_against(&vectors().join("log-segments"), &public, &note).unwrap();
    assert!(report.anchored && report.first_seq > 1);
}

#[test]
fn nothing_comes_after_the_stop_record() {
    let home = LogHome::new();
    let log = home.open(0).unwrap();
    log.stop(0, Some("upgrade")).unwrap();
    let late = log.append(&read(1), Durability::Write);
    assert!(matches!(late, Err(AppendError::Closed)));
    drop(log);
    assert_eq!(home.verify().unwrap().records, 2);
}

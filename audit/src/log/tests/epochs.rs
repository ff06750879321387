//! Epochs roll, and old keys are of no use.

use std::sync::Barrier;
use std::time::Duration;

use super::*;
use crate::line;

fn rolling(home: &LogHome, records: u64, age: Duration) -> Log {
    let key = EpochKey::generate().unwrap();
    let limits = EpochLimits { records, age };
    testing::open_with_epochs(home.path(), &identity(), Opening::default(), key, limits)
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn an_epoch_ends_after_its_records() {
    let home = LogHome::new();
    let log = rolling(&home, 4, LONG);
    for uid in 0..10 {
        log.append(&read(uid), Durability::Write).unwrap();
    }
    log.stop(0, None).unwrap();
    let report = home.verify().unwrap();
    let epochs: Vec<_> = home.records().iter().map(|r| (r.epoch, r.action)).collect();
    let rolls = epochs.iter().filter(|(_, action)| *action == Action::Epoch);
    // 1 start, 10 reads, 1 stop and the rolls themselves: four signed, then the roll.
    assert_eq!(rolls.clone().count(), 2, "{epochs:?}");
    assert_eq!((report.records, report.epochs), (14, 3));
    assert_eq!(epochs[4], (1, Action::Epoch));
    assert_eq!(epochs[5].0, 2);
}

#[test]
fn an_idle_epoch_ends_too_and_leaves_its_record() {
    let home = LogHome::new();
    let log = rolling(&home, 4096, Duration::from_millis(5));
    let rolls = || {
        let records = home.records();
        records.iter().filter(|r| r.action == Action::Epoch).count()
    };
    let begun = Instant::now();
    while rolls() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(10));
        std::thread::yield_now();
    }
    log.stop(0, None).unwrap();
    home.verify().unwrap();
    // Without its record an empty epoch is missed.
    let mut lines = home.lines();
    lines.remove(2);
    home.put(&lines.concat());
    assert_eq!(home.verify().unwrap_err().0, 3);
}

#[test]
fn many_threads_roll_together() {
    let home = LogHome::new();
    let log = rolling(&home, 7, LONG);
    let together = Barrier::new(8);
    std::thread::scope(|scope| {
        for uid in 0..8 {
            let (log, together) = (&log, &together);
            scope.spawn(move || {
                together.wait();
                for _ in 0..100 {
                    log.append(&read(uid), Durability::Write).unwrap();
                }
            });
        }
    });
    log.stop(0, None).unwrap();
    let report = home.verify().unwrap();
    assert_eq!(report.counts[&(Action::Read, Outcome::Ok)], 800);
    assert!(report.epochs > 100, "{}", report.epochs);
}

#[test]
fn a_start_follows_an_epoch_that_was_only_begun() {
    let home = LogHome::new();
    let log = rolling(&home, 2, LONG);
    log.append(&read(1), Durability::Write).unwrap();
    log.append(&read(2), Durability::Write).unwrap();
    drop(log);
    let lines = home.lines();
    // The crash came right after the roll.
    home.put(&lines[..3].concat());
    assert_eq!(home.records()[2].action, Action::Epoch);
    home.open(7).unwrap().stop(7, None).unwrap();
    home.verify().unwrap();
    assert_eq!(home.records()[3].epoch, 3);
}

/// A thief of an epoch's key can write on from there, which nothing can prevent,
/// but can't change what an earlier key signed.
#[test]
fn a_stolen_key_forges_nothing_before_its_epoch() {
    let home = filled(3);
    let honest = home.lines();
    // The thief has the key of epoch 2 and rewrites a record of epoch 1.
    let thief = EpochKey::from_seed(9);
    let opening = Opening {
        vault_seq: 7,
        ..Opening::default()
    };
    let setup = WriterSetup::default();
    let log = Log::open_with(home.path(), &identity(), opening, thief, setup).unwrap();
    log.append(&read(7), Durability::Sync).unwrap();
    drop(log);
    home.verify().unwrap();
    let whole = home.lines();
    let thief = EpochKey::from_seed(9);
    let forged = String::from_utf8(honest[2].clone()).unwrap();
    let payload = forged
        .rsplit_once(",\"sig\"")
        .unwrap()
        .0
        .replace("\"uid\":1", "\"uid\":2");
    let mut line = format!("{payload}}}").into_bytes();
    let digest = line::digest(&line);
    line::sign(&mut line, &digest, &thief);
    let mut lines = whole;
    lines[2] = line;
    home.put(&lines.concat());
    assert_eq!(home.verify().unwrap_err(), (3, FailureKind::Signature));
}

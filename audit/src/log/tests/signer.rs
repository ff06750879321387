//! Records whose signature follows.

use super::*;
use crate::read_records;
use crate::verify::UnsignedRecords;

/// Whether each line has a signature.
fn signed(home: &LogHome) -> Vec<bool> {
    let lines = home.lines().into_iter();
    lines.map(|line| crate::testing::is_signed(&line)).collect()
}

fn open_soon(home: &LogHome) -> Log {
    let (opening, key) = (Opening::default(), EpochKey::from_seed(3));
    Log::open_with(home.path(), &identity(), opening, key, signing_soon()).unwrap()
}

/// Waits for the records to be so many.
fn await_records(home: &LogHome, count: usize) {
    let begun = Instant::now();
    while read_records(home.path()).unwrap().count() < count {
        assert!(begun.elapsed() < Duration::from_secs(10), "no signature");
        std::thread::yield_now();
    }
}

#[test]
fn each_durability_has_its_signature() {
    let home = LogHome::new();
    let log = home.open(7).unwrap();
    for durability in [Durability::Write, Durability::Signed, Durability::Sync] {
        log.append(&read(1), durability).unwrap();
    }
    log.append_durable(&read(2)).unwrap();
    log.append(&read(3), Durability::Write).unwrap();
    log.stop(7, None).unwrap();
    assert_eq!(
        signed(&home),
        [true, false, true, true, true, false, true],
        "start, reads, stop"
    );
    assert_eq!(home.verify().unwrap().not_signed_yet, 0);
}

#[test]
fn a_signature_follows_and_vouches_for_all_before_it() {
    let home = LogHome::new();
    let log = open_soon(&home);
    for uid in 0..3 {
        log.append(&read(uid), Durability::Write).unwrap();
    }
    await_records(&home, 5);
    let last = home.records().pop().unwrap();
    assert_eq!(last.action, Action::Signature);
    let report = home.verify().unwrap();
    assert_eq!((report.not_signed_yet, report.unsigned), (0, Vec::new()));
    // A log that rests gets no more of them.
    log.append(&read(9), Durability::Signed).unwrap();
    log.stop(7, None).unwrap();
    let kinds = home.records().into_iter().map(|record| record.action);
    assert_eq!(kinds.filter(|&kind| kind == Action::Signature).count(), 1);
}

#[test]
fn changed_records_before_a_signature_are_found() {
    let home = LogHome::new();
    let log = home.open(7).unwrap();
    for uid in 0..4 {
        log.append(&read(uid), Durability::Write).unwrap();
    }
    log.stop(7, None).unwrap();
    let lines = home.lines();
    for record in 1..5 {
        let mut changed = lines.clone();
        let text = String::from_utf8(changed[record].clone()).unwrap();
        changed[record] = text.replace("team/db", "team/bd").into_bytes();
        home.put(&changed.concat());
        let next = record as u64 + 2;
        assert_eq!(home.verify().unwrap_err(), (next, FailureKind::Chain));
    }
    // And a chain that was made anew does not fit the signature.
    home.put(&crate::testing::relinked(&lines[..5], "team/db", "team/bd").concat());
    assert_eq!(home.verify().unwrap().not_signed_yet, 4, "nobody vouches");
    let mut all = crate::testing::relinked(&lines[..5], "team/db", "team/bd");
    all.push(lines[5].clone());
    home.put(&all.concat());
    assert_eq!(home.verify().unwrap_err(), (6, FailureKind::Chain));
}

/// Whoever takes a signature away from a record that needs one gains nothing.
#[test]
fn what_must_be_signed_is() {
    let home = LogHome::new();
    let log = home.open(7).unwrap();
    log.append(&read(1), Durability::Write).unwrap();
    log.writer.sign_pending().unwrap();
    log.rotate_segment(&identity()).unwrap();
    log.stop(7, None).unwrap();
    let lines = home.lines();
    for record in [0, 2, 3] {
        let mut changed = lines.clone();
        changed[record] = crate::testing::without_signature(&lines[record]);
        home.put(&changed.concat());
        let seq = record as u64 + 1;
        assert_eq!(home.verify().unwrap_err(), (seq, FailureKind::Unsigned));
    }
}

#[test]
fn a_start_counts_the_records_that_nobody_vouches_for() {
    let home = LogHome::new();
    let log = home.open(7).unwrap();
    log.append(&read(1), Durability::Sync).unwrap();
    for uid in 0..3 {
        log.append(&read(uid), Durability::Write).unwrap();
    }
    drop(log);
    let report = home.verify().unwrap();
    assert_eq!((report.not_signed_yet, report.unsigned.len()), (3, 0));
    home.open(7).unwrap().stop(7, None).unwrap();
    let start = home.records()[5].start.clone().unwrap();
    assert_eq!((start.unsigned, start.torn_bytes), (3, 0));
    let report = home.verify().unwrap();
    let three = UnsignedRecords { first: 3, count: 3 };
    assert_eq!((report.not_signed_yet, report.unsigned), (0, vec![three]));

    // One that counts less, or more, is found.
    let opening = Opening {
        vault_seq: 7,
        ..Opening::default()
    };
    for claimed in [1, 2, 4] {
        let home = LogHome::new();
        let log = home.open(7).unwrap();
        for uid in 0..3 {
            log.append(&read(uid), Durability::Write).unwrap();
        }
        drop(log);
        let mut prepared = opening::prepare(home.path(), identity().host(), &opening).unwrap();
        prepared.resume.unsigned = claimed;
        let (key, setup) = (EpochKey::from_seed(3), WriterSetup::default());
        drop(Log::start(prepared, &identity(), opening, key, setup).unwrap());
        assert_eq!(home.verify().unwrap_err(), (5, FailureKind::Previous));
    }
}

/// However long the signer was held up.
#[test]
fn the_last_signature_may_be_far_back() {
    let home = LogHome::new();
    let log = home.open(7).unwrap();
    for uid in 0..1000 {
        log.append(&read(uid), Durability::Write).unwrap();
    }
    drop(log);
    assert!(home.bytes().len() > 4 * MAX_LINE_BYTES);
    home.open(7).unwrap().stop(7, None).unwrap();
    let report = home.verify().unwrap();
    let all = UnsignedRecords {
        first: 2,
        count: 1000,
    };
    assert_eq!(report.unsigned, [all]);
}

/// Of records that nobody vouches for, only those that follow one another go on.
#[test]
fn what_does_not_follow_is_set_aside() {
    let home = LogHome::new();
    let log = home.open(7).unwrap();
    for uid in 0..4 {
        log.append(&read(uid), Durability::Write).unwrap();
    }
    drop(log);
    let mut lines = home.lines();
    let text = String::from_utf8(lines[2].clone()).unwrap();
    lines[2] = text.replace("team/db", "team/bd").into_bytes();
    home.put(&lines.concat());
    home.open(7).unwrap().stop(7, None).unwrap();
    let start = home.records()[3].start.clone().unwrap();
    let gone = lines[3..].concat();
    assert_eq!((start.unsigned, start.torn_bytes), (2, gone.len() as u64));
    let aside = home.path().join(format!("torn-{:020}-1", 4));
    assert_eq!(fs::read(aside).unwrap(), gone);
    home.verify().unwrap();
}

//! Faults that the verifier finds, one at a time.

use std::fs;

use super::*;
use crate::line::{MAX_LINE_BYTES, RecordLine};
use crate::testing::{Forger, LogHome, filled, identity, read};
use crate::{Durability, Identity, Log, Opening};

#[test]
fn every_flipped_byte_is_blamed_on_its_record() {
    let home = filled(2);
    let whole = home.bytes();
    // One bit low and high, the case of a letter, and all of them.
    for flip in [0x01, 0x20, 0x80, 0xff] {
        let mut seq = 1;
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            home.put(&bytes);
            let (blamed, kind) = home.verify().expect_err(&format!("byte {at}"));
            // Without its signature a record is one that the next does not follow.
            let next = blamed == seq + 1 && kind == FailureKind::Chain;
            assert!(blamed == seq || next, "byte {at} flipped by {flip:#x}");
            seq += u64::from(whole[at] == b'\n');
        }
    }
}

#[test]
fn removed_repeated_and_swapped_records_are_found() {
    let home = filled(4);
    let lines = home.lines();
    let attempt = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut changed = lines.clone();
        change(&mut changed);
        home.put(&changed.concat());
        home.verify().unwrap_err().0
    };
    assert_eq!(attempt(&|l| drop(l.remove(2))), 3);
    assert_eq!(attempt(&|l| l.insert(2, l[2].clone())), 4);
    assert_eq!(attempt(&|l| l.swap(2, 3)), 3);
    assert_eq!(attempt(&|l| drop(l.remove(0))), 1);
    assert_eq!(attempt(&Vec::clear), 1);
}

#[test]
fn a_cut_at_a_record_leaves_an_open_end() {
    let home = filled(2);
    let lines = home.lines();
    home.put(&lines[..3].concat());
    assert_eq!(home.verify().unwrap().end, LogEnd::Open);
}

#[test]
fn another_hosts_log_is_refused() {
    let home = filled(1);
    let other = Identity::from_seed(2).public();
    let failure = verify(home.path(), &other).unwrap_err();
    assert_eq!((failure.seq, failure.kind), (1, FailureKind::Host));
}

#[test]
fn an_epoch_key_without_certificate_is_refused() {
    // Somebody with file access but not the identity key begins an epoch.
    let home = filled(1);
    let forger = Forger(Identity::from_seed(9));
    let opening = Opening {
        reason: None,
        version: "forged",
        vault_seq: 7,
        accept_older_vault: false,
        ..Opening::default()
    };
    Log::open(home.path(), &forger, opening)
        .unwrap()
        .stop(7, None)
        .unwrap();
    assert_eq!(home.verify().unwrap_err(), (4, FailureKind::Certificate));
}

#[test]
fn a_cut_within_a_record_is_torn_and_a_long_line_too_long() {
    let home = filled(2);
    let (whole, lines) = (home.bytes(), home.lines());
    home.put(&whole[..whole.len() - 1]);
    assert_eq!(home.verify().unwrap_err(), (4, FailureKind::Torn));
    home.put(&whole[..whole.len() - lines[3].len() + 1]);
    assert_eq!(home.verify().unwrap_err(), (4, FailureKind::Torn));
    home.put(&[&lines[0][..], &[b'x'; MAX_LINE_BYTES], b"\n"].concat());
    assert_eq!(home.verify().unwrap_err(), (2, FailureKind::TooLong));
}

#[test]
fn the_place_of_a_failure_is_exact() {
    let home = filled(2);
    let lines = home.lines();
    let mut bytes = home.bytes();
    let offset = lines[0].len() + lines[1].len();
    bytes[offset + 20] ^= 1;
    home.put(&bytes);
    let failure = verify(home.path(), &identity().public()).unwrap_err();
    assert_eq!((failure.seq, failure.segment, failure.line), (3, 1, 3));
    assert_eq!(failure.offset, offset as u64);
}

#[test]
fn a_record_of_another_host_does_not_fit() {
    let (ours, theirs) = (filled(3), LogHome::new());
    let other = Identity::from_seed(2);
    let log = Log::open(theirs.path(), &other, Opening::default()).unwrap();
    for uid in 0..3 {
        log.append(&read(uid), Durability::Write).unwrap();
    }
    drop(log);
    let mut lines = ours.lines();
    lines[2] = theirs.lines().remove(2);
    ours.put(&lines.concat());
    assert_eq!(ours.verify().unwrap_err(), (3, FailureKind::Chain));
    // Nor does all of it, from its start on.
    ours.put(&[lines[..2].concat(), theirs.bytes()].concat());
    assert_eq!(ours.verify().unwrap_err(), (3, FailureKind::Sequence(1)));
}

#[test]
fn a_record_signed_by_an_earlier_epochs_key_is_refused() {
    // The same events under two epochs; only signatures and epochs differ.
    let home = filled(1);
    home.open(7).unwrap().stop(7, None).unwrap();
    let text = String::from_utf8(home.bytes()).unwrap();
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let old = lines[4].replace("\"epoch\":2", "\"epoch\":1");
    home.put([&lines[..4].concat(), &old[..]].concat().as_bytes());
    assert_eq!(home.verify().unwrap_err(), (5, FailureKind::Epoch));
}

#[test]
fn an_epoch_certified_for_another_place_is_refused() {
    // The identity's own start record, repeated where it was not certified for.
    let home = filled(1);
    let start = home.lines().remove(0);
    let digest = RecordLine::split(home.lines()[2].strip_suffix(b"\n").unwrap())
        .unwrap()
        .digest();
    let moved = String::from_utf8(start).unwrap();
    let moved = moved
        .replace("\"seq\":1", "\"seq\":4")
        .replace(&"0".repeat(64), &hex::encode(digest))
        .replace("\"previous\":\"none\"", "\"previous\":\"clean\"");
    home.put(&[&home.bytes(), moved.as_bytes()].concat());
    assert_eq!(home.verify().unwrap_err(), (4, FailureKind::Certificate));
}

#[test]
fn no_segment_may_be_missing() {
    let home = filled(1);
    let segment = |n: u32| home.path().join(format!("{n:08}.jsonl"));
    fs::write(segment(3), "").unwrap();
    let failure = verify(home.path(), &identity().public()).unwrap_err();
    assert_eq!(failure.kind, FailureKind::MissingSegment);
    assert_eq!((failure.seq, failure.segment), (4, 2));
    fs::rename(segment(1), segment(2)).unwrap();
    assert_eq!(home.verify().unwrap_err(), (1, FailureKind::Sequence(1)));
}

#[test]
fn records_stay_in_their_segment() {
    let home = filled(3);
    let lines = home.lines();
    home.put(&lines[..2].concat());
    fs::write(home.path().join("00000002.jsonl"), lines[2..].concat()).unwrap();
    assert_eq!(home.verify().unwrap_err(), (3, FailureKind::Border));
    assert_eq!(home.records().len(), 5);
    // A start must stand in the segment it names.
    home.put(&lines.concat());
    fs::remove_file(home.path().join("00000002.jsonl")).unwrap();
    home.open(7).unwrap().stop(7, None).unwrap();
    let again = home.lines();
    home.put(&again[..5].concat());
    fs::write(home.path().join("00000002.jsonl"), again[5..].concat()).unwrap();
    assert_eq!(home.verify().unwrap_err(), (6, FailureKind::Segment(1)));
}

#[test]
fn an_empty_log_is_not_good() {
    let home = filled(1);
    home.put(b"");
    assert_eq!(home.verify().unwrap_err(), (1, FailureKind::Empty));
}

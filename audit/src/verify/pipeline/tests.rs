//! Work that is done out of order does not show.

use std::cell::Cell;
use std::fs;
use std::time::Duration;

use curve25519_dalek::scalar::Scalar;
use ed25519_dalek::SigningKey;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha512};

use super::*;
use crate::keys::{EpochKey, PublicIdentity};
use crate::line::{self, RecordLine};
use crate::log::testing::{EpochLimits, open_with_epochs};
use crate::read::segment_path;
use crate::testing::{LogHome, identity, read, vectors};
use crate::verify::{VerifyOptions, verify_with};
use crate::{Durability, Opening, verify};

const READS: u32 = 600;
/// Seed of the first epoch's key.
const KEY: u8 = 21;

/// A log of some epochs, whose first `first` records are signed with [`KEY`].
fn log(first: u64) -> Vec<Vec<u8>> {
    let home = LogHome::new();
    let limits = EpochLimits {
        records: first,
        age: Duration::from_secs(3600),
    };
    let (opening, key) = (Opening::default(), EpochKey::from_seed(KEY));
    let log = open_with_epochs(home.path(), &identity(), opening, key, limits);
    for uid in 0..READS {
        log.append(&read(uid), Durability::Signed).unwrap();
    }
    drop(log);
    home.lines()
}

/// Small batches, so that there are many.
fn small(lines: usize) -> PipelineLimits {
    PipelineLimits {
        workers: 3,
        ahead: 2,
        lines,
        bytes: 8 * 1024,
        strict: false,
    }
}

/// The verifier's result on `lines`, which are one segment.
fn judge(lines: &[Vec<u8>], limits: PipelineLimits) -> Result<u64, (u64, FailureKind)> {
    let identity = identity().public();
    let mut verifier = Verifier::new(&identity, None);
    run(source(lines), &mut verifier, limits, &mut |_| {})
        .map(|()| verifier.records())
        .map_err(|failure| (failure.seq, failure.kind))
}

fn source(lines: &[Vec<u8>]) -> impl Iterator<Item = io::Result<LogLine>> {
    let mut offset = 0;
    (1..).zip(lines).map(move |(number, line)| {
        let bytes = line.strip_suffix(b"\n").unwrap_or(line).to_vec();
        let line = LogLine {
            segment: 1,
            number,
            offset,
            complete: line.ends_with(b"\n"),
            bytes,
        };
        offset += line.bytes.len() as u64 + 1;
        Ok(line)
    })
}

/// Another's signature in the place of the line's own.
fn missign(line: &mut Vec<u8>) {
    let mut payload = RecordLine::split(line.strip_suffix(b"\n").unwrap())
        .unwrap()
        .payload()
        .into_owned();
    let digest = line::digest(&payload);
    line::sign(&mut payload, &digest, &EpochKey::from_seed(99));
    assert_ne!(*line, payload);
    *line = payload;
}

/// The line with another payload, signed with the first epoch's key.
fn rewrite(line: &mut Vec<u8>, from: &str, to: &str) {
    let payload = RecordLine::split(line.strip_suffix(b"\n").unwrap())
        .unwrap()
        .payload()
        .into_owned();
    let payload = String::from_utf8(payload).unwrap();
    assert!(payload.contains(from), "{payload}");
    let mut payload = payload.replacen(from, to, 1).into_bytes();
    let digest = line::digest(&payload);
    line::sign(&mut payload, &digest, &EpochKey::from_seed(KEY));
    *line = payload;
}

#[test]
fn many_batches_are_as_good_as_one() {
    let lines = log(50);
    let records = lines.len() as u64;
    for batch in [1, 2, 7, 64, 10_000] {
        assert_eq!(judge(&lines, small(batch)), Ok(records), "{batch} a batch");
    }
    let strict = PipelineLimits {
        strict: true,
        ..small(7)
    };
    assert_eq!(judge(&lines, strict), Ok(records));
}

#[test]
fn a_bad_signature_is_blamed_wherever_it_is() {
    let lines = log(50);
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let batch = random.random_range(1..70);
        // Also both sides of a border.
        let border = random.random_range(0..lines.len() / batch) * batch;
        let any = random.random_range(0..lines.len());
        let bad = [any, border, border.saturating_sub(1)][random.random_range(0..3)];
        let mut changed = lines.clone();
        missign(&mut changed[bad]);
        // More of them behind it change nothing.
        for line in &mut changed[bad + 1..] {
            if random.random_ratio(1, 20) {
                missign(line);
            }
        }
        let limits = PipelineLimits {
            strict: random.random(),
            ..small(batch)
        };
        assert_eq!(
            judge(&changed, limits),
            Err((bad as u64 + 1, FailureKind::Signature)),
            "seed {seed}: {bad} in batches of {batch}"
        );
    }
}

/// A signature is found bad after the chain has long gone on, or not.
#[test]
fn of_two_kinds_of_failures_the_first_is_reported() {
    let lines = log(10_000);
    for seed in 0..100 {
        let mut random = StdRng::seed_from_u64(seed);
        let [one, other] = [0; 2].map(|_| random.random_range(1..lines.len()));
        let (first, second) = (one.min(other), one.max(other));
        if first == second {
            continue;
        }
        let limits = small(random.random_range(1..70));
        let mut changed = lines.clone();
        missign(&mut changed[first]);
        changed[second].insert(1, b' ');
        let signature = Err((first as u64 + 1, FailureKind::Signature));
        assert_eq!(judge(&changed, limits), signature, "seed {seed}");
        let mut changed = lines.clone();
        changed[first].insert(1, b'x');
        missign(&mut changed[second]);
        let form = Err((first as u64 + 1, FailureKind::NotARecord));
        assert_eq!(judge(&changed, limits), form, "seed {seed}");
    }
}

/// An epoch record's content counts only if it is signed.
#[test]
fn a_records_signature_comes_before_what_it_says_of_the_next() {
    let lines = log(50);
    let epoch = lines
        .iter()
        .position(|line| String::from_utf8_lossy(line).contains("\"next\":"))
        .unwrap();
    let seq = epoch as u64 + 1;
    let mut changed = lines.clone();
    rewrite(
        &mut changed[epoch],
        "\"next\":{\"epoch\":2",
        "\"next\":{\"epoch\":3",
    );
    assert_eq!(judge(&changed, small(7)), Err((seq, FailureKind::Epoch)));
    missign(&mut changed[epoch]);
    assert_eq!(
        judge(&changed, small(7)),
        Err((seq, FailureKind::Signature))
    );
}

/// Numbers are believed for a while before their signatures are checked. The
/// certificate of a segment is not for one sequence number.
#[test]
fn the_greatest_numbers_do_no_harm() {
    let segment = fs::read_to_string(vectors().join("log-segments/00000003.jsonl")).unwrap();
    let public = PublicIdentity::open(&vectors().join("log-v2-identity.pub")).unwrap();
    let (open, rest) = segment.split_once('\n').unwrap();
    let seq = open.find("\"seq\":").unwrap() + 6;
    let prev = open.find(",\"prev\"").unwrap();
    let home = LogHome::new();
    let greatest = format!("{}{}{}\n{rest}", &open[..seq], u64::MAX, &open[prev..]);
    fs::write(segment_path(home.path(), 3), greatest).unwrap();
    let failure = verify(home.path(), &public).unwrap_err();
    assert_eq!(
        (failure.seq, failure.kind),
        (u64::MAX, FailureKind::Signature)
    );
}

#[test]
fn memory_is_bounded_however_long_the_log_is() {
    let lines = log(10_000);
    let limits = PipelineLimits {
        workers: 2,
        ahead: 1,
        ..small(16)
    };
    let total: usize = lines.iter().map(Vec::len).sum();
    assert!(total > 2 * limits.memory(), "the log is too short to tell");
    let (given, most) = (Cell::new(0), Cell::new(0));
    let counted = source(&lines).inspect(|line| {
        given.set(given.get() + line.as_ref().unwrap().bytes.len() + 1);
    });
    let identity = identity().public();
    let mut verifier = Verifier::new(&identity, None);
    let mut done = 0;
    run(counted, &mut verifier, limits, &mut |checked| {
        done = usize::try_from(checked).unwrap();
        most.set(most.get().max(given.get() - done));
    })
    .unwrap();
    assert_eq!((done, given.get()), (total, total));
    assert!(most.get() <= limits.memory(), "{} in memory", most.get());
    assert!(most.get() > 0);
}

#[test]
fn a_log_that_cannot_be_read_on_is_not_good() {
    let lines = log(10_000);
    let broken = source(&lines[..20]).chain([Err(io::Error::other("worn out"))]);
    let identity = identity().public();
    let mut verifier = Verifier::new(&identity, None);
    let failure = run(broken, &mut verifier, small(7), &mut |_| {}).unwrap_err();
    assert_eq!(failure.seq, 21);
    assert!(matches!(failure.kind, FailureKind::Unreadable(_)));
}

#[test]
fn progress_comes_to_the_whole() {
    let home = crate::testing::filled(5);
    let mut told = Vec::new();
    let options = VerifyOptions {
        progress: Some(&mut |progress| told.push(progress)),
        ..VerifyOptions::default()
    };
    verify_with(home.path(), &identity().public(), options).unwrap();
    let last = told.last().unwrap();
    assert_eq!(
        (last.done, last.total),
        (last.total, home.bytes().len() as u64)
    );
}

/// A log of `lines` before strict eyes and others.
fn both(lines: &[Vec<u8>]) -> [Result<(), (u64, FailureKind)>; 2] {
    let home = LogHome::new();
    home.put(&lines.concat());
    let public: PublicIdentity = identity().public();
    [false, true].map(|strict| {
        let options = VerifyOptions {
            strict,
            ..VerifyOptions::default()
        };
        verify_with(home.path(), &public, options)
            .map(drop)
            .map_err(|failure| (failure.seq, failure.kind))
    })
}

/// A signature whose first half is the point that changes nothing: the key's holder
/// can make it and shows everybody the key with it. One equation for many does not
/// tell it from others.
#[test]
fn what_only_the_keys_holder_can_make_is_found_when_strict() {
    let mut lines = log(10_000);
    lines.truncate(20);
    let payload = RecordLine::split(lines[9].strip_suffix(b"\n").unwrap())
        .unwrap()
        .payload()
        .into_owned();
    let message = line::message(&line::digest(&payload));
    let key = SigningKey::from_bytes(&[KEY; 32]);
    let identity_point = [&[1][..], &[0; 31]].concat();
    let hash = Sha512::new()
        .chain_update(&identity_point)
        .chain_update(key.verifying_key().as_bytes())
        .chain_update(message);
    let hash = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
    let s = hash * key.to_scalar();
    let signature: Vec<u8> = [&identity_point[..], s.as_bytes()].concat();
    let sig = line::encode(&signature);
    let mut forged = payload;
    forged.pop();
    forged.extend_from_slice(format!(",\"sig\":\"{sig}\"}}\n").as_bytes());
    lines[9] = forged;
    assert_eq!(both(&lines), [Ok(()), Err((10, FailureKind::Signature))]);
}

/// For a key of small order everybody can sign, also the one before it: it is
/// refused before its signatures are looked at.
#[test]
fn a_weak_key_is_refused_at_its_first_record() {
    let mut lines = log(50);
    lines.truncate(52);
    let epoch = &mut lines[50];
    let text = String::from_utf8(epoch.clone()).unwrap();
    let (_, rest) = text
        .split_once("\"next\":{\"epoch\":2,\"epoch_key\":\"")
        .unwrap();
    let identity_point: Vec<u8> = [&[1][..], &[0; 31]].concat();
    rewrite(epoch, &rest[..43], &line::encode(&identity_point));
    let digest = RecordLine::split(epoch.strip_suffix(b"\n").unwrap())
        .unwrap()
        .digest();
    let next = &mut lines[51];
    let payload = RecordLine::split(next.strip_suffix(b"\n").unwrap()).unwrap();
    let payload = String::from_utf8(payload.payload().into_owned()).unwrap();
    let (before, after) = payload.split_once("\"prev\":\"").unwrap();
    let payload = format!("{before}\"prev\":\"{}{}", hex::encode(digest), &after[64..]);
    // 0 and the point that changes nothing sign everything for that key.
    let sig = line::encode(&[&identity_point[..], &[0; 32]].concat());
    let payload = payload.strip_suffix('}').unwrap();
    *next = format!("{payload},\"sig\":\"{sig}\"}}\n").into_bytes();
    let weak = Err((52, FailureKind::Signature));
    assert_eq!(both(&lines), [weak.clone(), weak]);
    lines.truncate(51);
    assert_eq!(both(&lines), [Ok(()), Ok(())], "it has signed nothing yet");
}

/// One log in a file, as it comes.
#[test]
fn the_limits_in_use_verify_a_log_of_several_batches() {
    let lines = log(10_000);
    assert!(lines.len() > 2 * PipelineLimits::default().lines);
    let home = LogHome::new();
    home.put(&lines.concat());
    let report = verify(home.path(), &identity().public()).unwrap();
    assert_eq!(report.records, lines.len() as u64);
}

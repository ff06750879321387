//! Attacks on real logs, a thousand of each kind, from fixed seeds.
//!
//! A log of three starts and several epochs is changed as its attacker could;
//! every change must be found, relative to what its attacker lacks: a key, or
//! reach to the checkpoint that was kept elsewhere.

use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::event::Action;
use crate::keys::EpochKey;
use crate::line::{self, RecordDigest, RecordLine};
use crate::log::testing::{EpochLimits, open_with_epochs};
use crate::testing::{Forger, LogHome, identity, read};
use crate::{Durability, Event, Identity, Opening, Outcome};

const ATTEMPTS: u64 = 1000;
/// Seed of the key that the last start brought, which the thief has.
const STOLEN: u8 = 13;

/// A log as its owner left it.
struct Original {
    lines: Vec<Vec<u8>>,
    /// Checkpoint of the very end, kept elsewhere.
    checkpoint: Checkpoint,
    /// Checkpoint of the middle.
    early: Checkpoint,
}

fn write(identity: &Identity) -> Original {
    let home = LogHome::new();
    let mut notes = Vec::new();
    for seed in 11..=STOLEN {
        let opening = Opening {
            vault_seq: 7,
            ..Opening::default()
        };
        let limits = EpochLimits {
            records: 4,
            age: Duration::from_secs(3600),
        };
        let key = EpochKey::from_seed(seed);
        let log = open_with_epochs(home.path(), identity, opening, key, limits);
        for uid in 0..5 {
            log.append(&read(uid), Durability::Signed).unwrap();
        }
        if seed == 11 {
            // The others end as after a crash.
            log.stop(7, None).unwrap();
        }
        notes.push(log.checkpoint().unwrap());
    }
    Original {
        lines: home.lines(),
        early: notes.remove(0),
        checkpoint: notes.pop().unwrap(),
    }
}

fn original() -> &'static Original {
    static ORIGINAL: OnceLock<Original> = OnceLock::new();
    ORIGINAL.get_or_init(|| write(&identity()))
}

/// The verifier's result on `lines`, with the checkpoint if there is one.
fn judge(lines: &[Vec<u8>], note: Option<&Checkpoint>) -> Result<VerifyReport, VerifyFailure> {
    let home = LogHome::new();
    home.put(&lines.concat());
    let public = identity().public();
    match note {
        None => verify(home.path(), &public),
        Some(note) => verify_against(home.path(), &public, note),
    }
}

/// Runs `attack` a thousand times; it changes the lines and says what it did.
fn attempts(mut attack: impl FnMut(&mut StdRng, &mut Vec<Vec<u8>>)) {
    let original = original();
    for seed in 0..ATTEMPTS {
        let mut lines = original.lines.clone();
        attack(&mut StdRng::seed_from_u64(seed), &mut lines);
        if lines != original.lines {
            assert!(judge(&lines, None).is_err(), "attempt {seed} was not found");
        }
    }
}

fn pick(random: &mut StdRng, range: Range<usize>) -> usize {
    random.random_range(range)
}

#[test]
fn the_original_is_good() {
    let original = original();
    let report = judge(&original.lines, Some(&original.checkpoint)).unwrap();
    assert_eq!((report.starts, report.unclean_starts), (3, 1));
    assert!(report.anchored && report.epochs > 3);
}

#[test]
fn flipped_bits_are_blamed_on_their_record() {
    let original = original();
    for seed in 0..ATTEMPTS {
        let mut random = StdRng::seed_from_u64(seed);
        let mut lines = original.lines.clone();
        let record = pick(&mut random, 0..lines.len());
        let byte = pick(&mut random, 0..lines[record].len());
        lines[record][byte] ^= 1 << pick(&mut random, 0..8);
        let failure = judge(&lines, None).unwrap_err();
        // Without its signature a record is one that the next does not follow.
        let after = record as u64 + u64::from(failure.kind == FailureKind::Chain);
        assert!(
            [record as u64, after].contains(&(failure.seq - 1)),
            "attempt {seed}: {failure}"
        );
    }
}

#[test]
fn deletions_in_the_middle_are_found() {
    attempts(|random, lines| {
        let from = pick(random, 0..lines.len() - 1);
        let to = pick(random, from + 1..lines.len());
        lines.drain(from..to);
    });
}

#[test]
fn reordering_is_found() {
    attempts(|random, lines| {
        let (a, b) = (pick(random, 0..lines.len()), pick(random, 0..lines.len()));
        lines.swap(a, b);
    });
}

#[test]
fn duplicates_are_found() {
    attempts(|random, lines| {
        let line = lines[pick(random, 0..lines.len())].clone();
        let at = pick(random, 0..lines.len());
        lines.insert(at, line);
    });
}

/// Without a checkpoint the verdict is not that all is there.
#[test]
fn a_cut_tail_is_found_with_a_later_checkpoint() {
    let original = original();
    for seed in 0..ATTEMPTS {
        let mut random = StdRng::seed_from_u64(seed);
        let keep = pick(&mut random, 1..original.lines.len());
        let cut = &original.lines[..keep];
        let failure = judge(cut, Some(&original.checkpoint)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::CutOff, "attempt {seed}");
        let alone = judge(cut, None).unwrap();
        assert!(!alone.anchored, "attempt {seed}: the tail is not anchored");
    }
}

/// An older snapshot of the same log in its place.
#[test]
fn an_older_snapshot_is_found_with_a_later_checkpoint() {
    let original = original();
    let early = usize::try_from(original.early.seq).unwrap();
    for seed in 0..ATTEMPTS {
        let mut random = StdRng::seed_from_u64(seed);
        let snapshot = &original.lines[..pick(&mut random, early..original.lines.len())];
        // It is consistent with what was noted before it, not with what came after.
        assert!(judge(snapshot, Some(&original.early)).is_ok());
        assert!(
            judge(snapshot, Some(&original.checkpoint)).is_err(),
            "attempt {seed}"
        );
    }
}

#[test]
fn another_hosts_log_is_found_from_any_record_on() {
    let other = write(&Identity::from_seed(2));
    attempts(|random, lines| {
        let from = pick(random, 0..lines.len());
        lines.splice(from.., other.lines[from..].iter().cloned());
    });
}

/// Signs `payload` anew with the thief's key.
fn forge(
    old: &[u8],
    change: impl FnOnce(&str) -> String,
    key: &EpochKey,
) -> (Vec<u8>, RecordDigest) {
    let payload = RecordLine::split(&old[..old.len() - 1]).unwrap().payload();
    let mut line = change(str::from_utf8(&payload).unwrap()).into_bytes();
    let digest = line::digest(&line);
    line::sign(&mut line, &digest, key);
    (line, digest)
}

/// Where the epoch of the stolen key begins.
fn stolen_from(lines: &[Vec<u8>]) -> usize {
    let start = |line: &Vec<u8>| String::from_utf8_lossy(line).contains("\"action\":\"start\"");
    lines.iter().rposition(start).unwrap()
}

/// With the key of a later epoch a record before it is changed, and everything
/// after it chained and signed anew.
#[test]
fn history_before_a_stolen_key_cannot_be_forged() {
    let thief = EpochKey::from_seed(STOLEN);
    attempts(|random, lines| {
        let changed = pick(random, 0..stolen_from(lines));
        let victim = random.random_range(0..u32::MAX);
        let mut before: Option<(String, RecordDigest)> = None;
        for (index, line) in lines.iter_mut().enumerate().skip(changed) {
            let (forged, digest) = forge(
                line,
                |payload| {
                    let mut payload = payload.to_owned();
                    if index == changed {
                        payload = payload.replace("\"host\"", &format!("\"by\":{victim},\"host\""));
                    }
                    if let Some((old, new)) = &before {
                        payload = payload.replace(old, &hex::encode(new));
                    }
                    payload
                },
                &thief,
            );
            before = Some((
                hex::encode(RecordLine::split(&line[..line.len() - 1]).unwrap().digest()),
                digest,
            ));
            *line = forged;
        }
    });
}

#[test]
fn a_new_key_on_an_old_record_is_found() {
    let thief = EpochKey::from_seed(STOLEN);
    attempts(|random, lines| {
        let at = pick(random, 0..stolen_from(lines));
        lines[at] = forge(&lines[at], str::to_owned, &thief).0;
    });
}

#[test]
fn a_missing_epoch_record_is_found() {
    attempts(|random, lines| {
        let rolls: Vec<_> = (0..lines.len())
            .filter(|&at| String::from_utf8_lossy(&lines[at]).contains("\"action\":\"epoch\""))
            .collect();
        let gone = rolls[pick(random, 0..rolls.len())];
        lines.remove(gone);
        // Also when what follows is made to look as if it followed.
        if random.random() && gone < lines.len() {
            let key = EpochKey::from_seed(STOLEN);
            let seq = format!("\"seq\":{}", gone + 1);
            let old = format!("\"seq\":{}", gone + 2);
            lines[gone] = forge(&lines[gone], |payload| payload.replace(&old, &seq), &key).0;
        }
    });
}

/// A start that pretends a crash, to hide what stood there: without the
/// identity key no new epoch begins.
#[test]
fn a_faked_restart_is_found() {
    attempts(|random, lines| {
        let keep = pick(random, 1..lines.len());
        let home = LogHome::new();
        home.put(&lines[..keep].concat());
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(home.segment(), private).unwrap();
        let opening = Opening {
            vault_seq: 7,
            ..Opening::default()
        };
        let forger = Forger(Identity::from_seed(99));
        let log = crate::Log::open(home.path(), &forger, opening).unwrap();
        let event = Event::new(Action::Read, Outcome::Ok, 7);
        log.append(&event, Durability::Signed).unwrap();
        drop(log);
        *lines = home.lines();
    });
}

/// Two attacks that the threat model says can't be found: the holder of the identity key
/// writes another history, and the holder of an epoch key its own epoch.
#[test]
fn what_cannot_be_found_is_known() {
    let original = original();
    let rewritten = write(&identity());
    assert_ne!(rewritten.lines, original.lines);
    assert!(judge(&rewritten.lines, None).is_ok());
    // A checkpoint that was kept elsewhere finds even that.
    assert!(judge(&rewritten.lines, Some(&original.early)).is_err());

    let thief = EpochKey::from_seed(STOLEN);
    let mut lines = original.lines.clone();
    let start = stolen_from(&lines);
    lines.truncate(start + 2);
    let last = lines.len() - 1;
    lines[last] = forge(
        &lines[last],
        |p| p.replace("\"uid\":0", "\"uid\":4711"),
        &thief,
    )
    .0;
    assert_ne!(lines[last], original.lines[last]);
    assert!(judge(&lines, None).is_ok());
}

#[test]
fn deleted_segments_are_found() {
    let home = LogHome::new();
    let log = home.open(7).unwrap();
    for uid in 1..8 {
        log.append(&read(uid), Durability::Signed).unwrap();
        log.rotate_segment(&identity()).unwrap();
    }
    log.append(&read(8), Durability::Signed).unwrap();
    let note = log.checkpoint().unwrap();
    drop(log);
    let original = home.snapshot();
    for seed in 0..ATTEMPTS {
        let mut random = StdRng::seed_from_u64(seed);
        let gone: Vec<_> = home.segments();
        let gone: Vec<_> = gone.into_iter().filter(|_| random.random()).collect();
        if gone.is_empty() {
            continue;
        }
        for &segment in &gone {
            std::fs::remove_file(crate::read::segment_path(home.path(), segment)).unwrap();
        }
        let public = identity().public();
        assert!(
            verify_against(home.path(), &public, &note).is_err(),
            "attempt {seed}: {gone:?}"
        );
        // Without the checkpoint only the end can go, and that can be told.
        if let Ok(report) = verify(home.path(), &public) {
            assert_eq!(report.end, LogEnd::Closed, "attempt {seed}: {gone:?}");
        }
        for (path, bytes) in &original {
            std::fs::write(path, bytes).unwrap();
        }
    }
}

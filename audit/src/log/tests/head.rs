//! Writers that die, and the memory that tells where they left the log.

use super::broken_disk::failing_with_head;
use super::*;
use crate::testing::{Lines, relinked, without_signature};
use crate::verify::UnsignedRecords;

/// A log whose writer is dead, and what that left in memory.
struct Left {
    home: LogHome,
    head: Arc<LogHead>,
}

impl Left {
    /// After a start and so many reads without a signature.
    fn after(reads: u32) -> Self {
        let left = Self {
            home: LogHome::new(),
            head: Arc::new(LogHead::create().unwrap()),
        };
        let log = left.open().unwrap();
        for uid in 0..reads {
            log.append(&read(uid), Durability::Write).unwrap();
        }
        left
    }

    fn opening(&self) -> Opening<'_> {
        Opening {
            vault_seq: 7,
            head: Some(&self.head),
            ..Opening::default()
        }
    }

    fn open(&self) -> Result<Log, OpenError> {
        Log::open(self.home.path(), &identity(), self.opening())
    }

    fn accept(&self) -> Log {
        let opening = Opening {
            accept_lost_log: true,
            ..self.opening()
        };
        Log::open(self.home.path(), &identity(), opening).unwrap()
    }

    fn lines(&self) -> Lines {
        self.home.lines()
    }

    /// The place of record `n`, from 1, in the first segment.
    fn mark(&self, n: usize) -> HeadMark {
        let lines = self.lines();
        let line = lines[n - 1].strip_suffix(b"\n").unwrap();
        HeadMark {
            seq: n as u64,
            digest: crate::line::RecordLine::split(line).unwrap().digest(),
            segment: 1,
            len: lines[..n].iter().map(|line| line.len() as u64).sum(),
        }
    }

    /// Opens the log; the start record that this makes.
    fn start(&self) -> crate::StartDetails {
        let log = self.open().unwrap();
        let seq = log.last_seq();
        log.stop(7, None).unwrap();
        drop(log);
        let records = self.home.records().into_iter();
        let mut start = records.filter(|record| record.seq == seq);
        start.next_back().unwrap().start.unwrap()
    }
}

#[test]
fn a_killed_writer_loses_nothing_and_the_next_one_vouches() {
    let left = Left::after(3);
    let start = left.start();
    assert_eq!((start.unsigned, start.torn_bytes, start.lost), (0, 0, None));
    let report = left.home.verify().unwrap();
    assert_eq!((report.records, report.not_signed_yet), (6, 0));
    assert!(report.unsigned.is_empty());
    assert_eq!(report.unclean_starts, 1);
}

#[test]
fn without_the_memory_nobody_vouches() {
    let left = Left::after(3);
    let start = Left {
        head: Arc::new(LogHead::create().unwrap()),
        ..left
    };
    assert_eq!(start.start().unsigned, 3);
    let three = UnsignedRecords { first: 2, count: 3 };
    assert_eq!(start.home.verify().unwrap().unsigned, [three]);
}

/// The kill came after the write and before the note of it.
#[test]
fn a_batch_that_is_whole_stays() {
    for written in 1..4 {
        let left = Left::after(3);
        left.head.note_written(&left.mark(written));
        let start = left.start();
        assert_eq!((start.unsigned, start.torn_bytes), (0, 0));
        assert_eq!(left.home.verify().unwrap().records, 6);
    }
}

/// The kill came within the write: nobody got anything for these records.
#[test]
fn part_of_a_batch_is_set_aside() {
    for (written, found, cut) in [(1, 2, 0), (1, 3, 0), (2, 3, 0), (2, 2, 9), (1, 3, 9)] {
        let left = Left::after(3);
        left.head.note_written(&left.mark(written));
        let (lines, end) = (left.lines(), left.mark(written).len);
        let mut bytes = lines[..found].concat();
        bytes.extend(&lines[found][..cut]);
        left.home.put(&bytes);
        let gone = bytes.split_off(usize::try_from(end).unwrap());
        let seq = written as u64;
        let inspected = Log::inspect(left.home.path(), Some(&left.head)).unwrap();
        assert_eq!(inspected.unwrap().seq, seq, "what is owed counts from here");
        let start = left.start();
        assert_eq!((start.unsigned, start.torn_bytes), (0, gone.len() as u64));
        let aside = left.home.path().join(format!("torn-{:020}-1", seq + 1));
        assert_eq!(fs::read(aside).unwrap(), gone);
        assert_eq!(left.home.verify().unwrap().records, seq + 2);
    }
}

/// Whoever can write to the file, and can't sign, adds records to it.
#[test]
fn records_that_nobody_wrote_are_set_aside() {
    let left = Left::after(2);
    let (lines, end) = (left.lines(), left.mark(3).len);
    let mut forged = relinked(
        &[&lines[..], &lines[2..]].concat(),
        "\"seq\":3",
        "\"seq\":4",
    );
    forged.drain(..3);
    left.home.put(&[lines.concat(), forged.concat()].concat());
    let start = left.start();
    assert_eq!(start.torn_bytes, forged.concat().len() as u64);
    let aside = left.home.path().join(format!("torn-{:020}-1", 4));
    assert_eq!(fs::read(aside).unwrap(), forged.concat());
    assert!(left.home.bytes().len() as u64 > end);
    assert_eq!(left.home.verify().unwrap().records, 5);

    // Also as a segment of their own.
    let left = Left::after(2);
    let (second, lines) = (crate::read::segment_path(left.home.path(), 2), left.lines());
    fs::write(&second, &lines[0]).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&second, private).unwrap();
    let start = left.start();
    assert_eq!(
        (start.segment, start.torn_bytes),
        (2, lines[0].len() as u64)
    );
    assert_eq!(left.home.verify().unwrap().records, 5);
}

type Change = fn(&mut Lines);

/// Changes between the death of a writer and the next one, and the last record found then.
const CHANGES: [(&str, Change, u64); 6] = [
    ("the last one is another", |lines| replace(lines, 4), 5),
    ("one in the middle is another", |lines| replace(lines, 2), 3),
    (
        "all are others",
        |lines| *lines = relinked(lines, "team/db", "team/bd"),
        5,
    ),
    ("the last one is gone", |lines| lines.truncate(4), 4),
    (
        "one in the middle is gone",
        |lines| drop(lines.remove(2)),
        2,
    ),
    ("all are gone", Vec::clear, 0),
];

fn replace(lines: &mut Lines, n: usize) {
    let text = String::from_utf8(lines[n].clone()).unwrap();
    lines[n] = text.replace("team/db", "team/bd").into_bytes();
}

#[test]
fn a_deleted_log_is_missed() {
    let left = Left::after(4);
    fs::remove_file(left.home.segment()).unwrap();
    let error = left.open().err().unwrap();
    assert!(
        matches!(
            error,
            OpenError::Lost {
                known: 5,
                found: 0,
                ..
            }
        ),
        "{error}"
    );
    left.accept().stop(7, None).unwrap();
    let report = left.home.verify().unwrap();
    let records = report.lost[0].records;
    assert_eq!((records.known, records.found), (5, 0));
}

#[test]
fn a_tail_that_was_changed_is_refused_unless_accepted() {
    for (what, change, found) in CHANGES {
        let left = Left::after(4);
        let mut lines = left.lines();
        change(&mut lines);
        left.home.put(&lines.concat());
        let before = left.home.snapshot();
        let error = left.open().err().expect(what);
        let named = match &error {
            OpenError::Lost { known, found, .. } => (*known, *found),
            OpenError::Replaced { seq, .. } => (*seq, *seq),
            other => panic!("{what}: {other}"),
        };
        assert_eq!(named, (5, found), "{what}");
        assert!(
            error.to_string().contains("its last writer left"),
            "{error}"
        );
        assert_eq!(left.home.snapshot(), before, "{what}");

        left.accept().stop(7, None).unwrap();
        let records = left.home.records();
        let start = records.iter().rev().find_map(|record| record.start.clone());
        let start = start.unwrap();
        let lost = start.lost.unwrap();
        assert_eq!((lost.known, lost.found), (5, found), "{what}");
        assert_eq!(start.unsigned, found.saturating_sub(1), "{what}");
        let report = left.home.verify().unwrap();
        assert_eq!(report.lost.len(), 1, "{what}");
        assert_eq!(report.lost[0].records, lost);
        // And the memory knows the log as it is now.
        assert_eq!(left.start().lost, None, "{what}");
    }
}

/// A signature that is taken away changes no digest: the next one vouches for the record.
#[test]
fn a_signature_that_was_taken_away_is_no_loss() {
    let left = Left::after(2);
    left.open().unwrap().writer.sign_pending().unwrap();
    let log = left.open().unwrap();
    log.append(&read(9), Durability::Signed).unwrap();
    drop(log);
    let mut lines = left.lines();
    let last = lines.pop().unwrap();
    lines.push(without_signature(&last));
    left.home.put(&lines.concat());
    assert_eq!(left.head.known().unwrap().written.seq, lines.len() as u64);
    let start = left.start();
    assert_eq!((start.unsigned, start.lost), (0, None));
    left.home.verify().unwrap();
}

#[test]
fn a_start_that_failed_leaves_the_end_as_it_was() {
    let left = Left::after(2);
    let before = left.head.known().unwrap().written;
    failing_with_head(&left.home, &left.head);
    assert_eq!(left.head.known().unwrap().written, before);
    assert_eq!(left.start().unsigned, 0);
    // Also that of a log without a record.
    let empty = Left {
        home: LogHome::new(),
        head: Arc::new(LogHead::create().unwrap()),
    };
    failing_with_head(&empty.home, &empty.head);
    assert_eq!(empty.head.known(), None);
    assert_eq!(empty.start().unsigned, 0);
}

#[test]
fn the_end_goes_on_over_segments() {
    let left = Left::after(2);
    let log = left.open().unwrap();
    log.rotate_segment(&identity()).unwrap();
    let known = left.head.known().unwrap().written;
    assert_eq!((known.segment, known.seq), (2, log.last_seq()));
    log.append(&read(1), Durability::Write).unwrap();
    drop(log);
    let start = left.start();
    assert_eq!((start.segment, start.unsigned), (2, 0));
    // Killed between the last record of one segment and the first of the next.
    let log = left.open().unwrap();
    let closed = log.writer.chain.lock().written().mark();
    log.rotate_segment(&identity()).unwrap();
    drop(log);
    let path = crate::read::segment_path(left.home.path(), 2);
    let end = tail::segment_end(left.home.path(), 2).unwrap();
    let end = end.tail.unwrap();
    assert_eq!(end.seq, closed.seq + 1);
    left.head.note_written(&HeadMark {
        seq: end.seq,
        digest: end.digest,
        segment: 2,
        len: fs::metadata(path).unwrap().len(),
    });
    fs::write(crate::read::segment_path(left.home.path(), 3), b"{\"v\"").unwrap();
    let start = left.start();
    assert_eq!((start.segment, start.torn_bytes), (3, 4));
    left.home.verify().unwrap();
}

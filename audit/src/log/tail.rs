//! The end of a log, found without changing anything.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use jarvis_sys::trust::{self, Rule};
use jiff::Timestamp;

use super::error::{OpenError, io_error};
use crate::event::Action;
use crate::keys::HostId;
use crate::line::{MAX_LINE_BYTES, RecordDigest, RecordLine};
use crate::read::{parse, segment_numbers, segment_path};
use crate::record::{FORMAT, Record};

/// Bytes looked at: a few records of the greatest length.
const WINDOW_BYTES: u64 = 4 * MAX_LINE_BYTES as u64;

/// The last record of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Sequence number.
    pub seq: u64,
    /// Last commit of the vault that is recorded.
    pub vault_seq: u64,
    /// Number of the last epoch that was begun.
    pub epoch: u64,
    /// True for a stop record.
    pub clean: bool,
    /// True if the segment ends with this record.
    pub(super) closed: bool,
    pub(super) digest: RecordDigest,
    /// Digest of the record before.
    prev: RecordDigest,
    /// The record has a signature.
    pub(super) signed: bool,
    /// Time as it stands in the record; none when it is none.
    pub(super) time: Option<Timestamp>,
    /// Host as it stands in the record; none when it is none.
    pub(super) host: Option<HostId>,
}

impl Tail {
    fn follows(&self, before: &Self) -> bool {
        self.prev == before.digest && Some(self.seq) == before.seq.checked_add(1)
    }
}

/// The place where writing goes on.
pub(super) struct ResumePoint {
    /// The last record; none in a new log.
    pub(super) tail: Option<Tail>,
    /// Number of the last segment, in which writing goes on.
    pub(super) segment: u32,
    /// The segment's first record, if it has one.
    pub(super) first: Option<FirstRecord>,
    /// Length of the segment in bytes, up to its last complete record.
    pub(super) len: u64,
    /// Bytes after that: a record that was cut by a crash.
    pub(super) torn: Vec<u8>,
    /// Records at the end, up to the last one, that have no signature.
    pub(super) unsigned: u64,
}

/// The first record of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct FirstRecord {
    pub(super) seq: u64,
    pub(super) time: Timestamp,
}

/// Finds where the log in `dir` ends and goes on.
pub(super) fn resume_point(dir: &Path) -> Result<ResumePoint, OpenError> {
    let numbers = segment_numbers(dir).map_err(io_error("list", dir))?;
    let Some((&last, earlier)) = numbers.split_last() else {
        return Ok(ResumePoint {
            tail: None,
            segment: 1,
            first: None,
            len: 0,
            torn: Vec::new(),
            unsigned: 0,
        });
    };
    let end = segment_end(dir, last)?;
    let Some(&previous) = earlier.last().filter(|_| end.tail.is_none()) else {
        return Ok(end);
    };
    // The last segment was made and nothing came of it.
    let before = segment_end(dir, previous)?;
    match (before.torn.is_empty(), end.torn.is_empty()) {
        (true, _) => Ok(ResumePoint {
            tail: before.tail,
            unsigned: before.unsigned,
            ..end
        }),
        // The crash came while the one before was being closed.
        (false, true) => Ok(before),
        (false, false) => Err(OpenError::Corrupt {
            path: segment_path(dir, previous),
        }),
    }
}

/// Reads the end of one segment, [`WINDOW_BYTES`] bytes of it or, where the last signature is
/// further back, more; and its first line.
pub(super) fn segment_end(dir: &Path, segment: u32) -> Result<ResumePoint, OpenError> {
    segment_end_within(dir, segment, u64::MAX)
}

/// Like [`segment_end`], as if the segment had no more than `most` bytes.
pub(super) fn segment_end_within(
    dir: &Path,
    segment: u32,
    most: u64,
) -> Result<ResumePoint, OpenError> {
    let path = segment_path(dir, segment);
    let corrupt = || OpenError::Corrupt { path: path.clone() };
    let file = trust::open_end(&path, Rule::PRIVATE_FILE)?;
    let size = file.metadata().map_err(io_error("stat", &path))?.len();
    let size = size.min(most);
    let mut window = size.min(WINDOW_BYTES);
    let (mut bytes, end) = loop {
        let mut bytes = vec![0; usize::try_from(window).map_err(|_| corrupt())?];
        file.read_exact_at(&mut bytes, size - window)
            .map_err(io_error("read", &path))?;
        let (tail, good) = last_record(&bytes).ok_or_else(corrupt)?;
        if tail.is_none() && window < size {
            return Err(corrupt());
        }
        let records = bytes.get(..good).unwrap_or_default();
        let end = linked_end(records, window == size).ok_or_else(corrupt)?;
        match end {
            LinkedEnd { signed: false, .. } if window < size => window = size.min(window * 4),
            end => break (bytes, end),
        }
    };
    let torn = bytes.split_off(end.good);
    let first = match end.tail {
        Some(_) => Some(first_record(&file, &path)?.ok_or_else(corrupt)?),
        None => None,
    };
    Ok(ResumePoint {
        tail: end.tail,
        segment,
        first,
        len: size - torn.len() as u64,
        torn,
        unsigned: end.unsigned,
    })
}

/// The first record of a segment; `None` when its first line is none.
pub(super) fn first_record(file: &File, path: &Path) -> Result<Option<FirstRecord>, OpenError> {
    let mut line = Vec::new();
    BufReader::new(file)
        .take(MAX_LINE_BYTES as u64)
        .read_until(b'\n', &mut line)
        .map_err(io_error("read", path))?;
    let record = line.strip_suffix(b"\n").and_then(RecordLine::split);
    let record = record.and_then(|signed| parse(&signed).ok());
    Ok(record.and_then(|record| {
        Some(FirstRecord {
            seq: record.seq,
            time: record.time.parse().ok()?,
        })
    }))
}

/// The last record in `bytes` and its end; no record when not even one line is
/// complete, as after a crash in the very first write. `None` when complete lines
/// hold no record, or one that is not ours to cut off.
fn last_record(bytes: &[u8]) -> Option<(Option<Tail>, usize)> {
    let mut torn_line = false;
    let mut rest = bytes;
    loop {
        let Some(newline) = rest.iter().rposition(|&b| b == b'\n') else {
            return (!torn_line).then_some((None, 0));
        };
        let (lines, _) = rest.split_at(newline);
        let before = lines.iter().rposition(|&b| b == b'\n');
        let (earlier, line) = lines.split_at(before.map_or(0, |at| at + 1));
        match classify(line) {
            LineKind::Record(tail) => return Some((Some(tail), newline + 1)),
            LineKind::Foreign => return None,
            LineKind::Torn => (rest, torn_line) = (earlier, true),
        }
    }
}

/// End of the records that follow one another from the last signature on.
#[derive(Default)]
struct LinkedEnd {
    /// The last of them.
    tail: Option<Tail>,
    /// Its end in bytes.
    good: usize,
    /// Number of those without a signature.
    unsigned: u64,
    /// A signed record is among them.
    signed: bool,
}

/// Follows the chain in `bytes`, which end with a record, from the last signed record on; what
/// does not follow the record before it stands behind one that was changed or lost.
/// `None` when a line is not ours to cut off. The first line is one if it is `whole`.
fn linked_end(bytes: &[u8], whole: bool) -> Option<LinkedEnd> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    while let Some((earlier, line)) = last_line(rest, whole) {
        let kind = classify(line);
        let signed = matches!(&kind, LineKind::Record(tail) if tail.signed);
        lines.push((rest.len(), kind));
        if signed {
            break;
        }
        rest = earlier;
    }
    let mut end = LinkedEnd::default();
    while let Some((good, kind)) = lines.pop() {
        match (kind, end.tail) {
            (LineKind::Record(tail), before)
                if before.is_none_or(|before| tail.follows(&before)) =>
            {
                end.signed |= tail.signed;
                end.unsigned += u64::from(!tail.signed);
                (end.tail, end.good) = (Some(tail), good);
            }
            (LineKind::Foreign, _) | (LineKind::Torn, None) => return None,
            (LineKind::Record(_) | LineKind::Torn, _) => break,
        }
    }
    Some(end)
}

/// The last line of `bytes`, without its newline, and what is before it; `None` when its
/// beginning is not there, unless `bytes` begin with a `whole` line.
fn last_line(bytes: &[u8], whole: bool) -> Option<(&[u8], &[u8])> {
    let lines = bytes.strip_suffix(b"\n")?;
    match lines.iter().rposition(|&b| b == b'\n') {
        Some(before) => Some(lines.split_at(before + 1)),
        None => whole.then_some((&[], lines)),
    }
}

/// Kinds of complete lines at the end of a log.
enum LineKind {
    Record(Tail),
    /// Signed JSON that this release cannot read: a later one may have meant it.
    Foreign,
    /// Nothing that any release wrote on purpose.
    Torn,
}

/// The greatest of the numbers that the next record must exceed.
fn greatest_number(record: &Record) -> u64 {
    let next = record.next.as_ref().map_or(0, |next| next.epoch);
    record.seq.max(record.epoch).max(next)
}

/// The host id that is written as `text`.
fn host(text: &str) -> Option<HostId> {
    let mut bytes = [0; 8];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(HostId::from_bytes(bytes))
}

/// The digest that is written as `text`; zeros for what is none.
fn digest_of(text: &str) -> RecordDigest {
    let mut digest = [0; 32];
    // A text of another length leaves zeros, and may leave them partly: neither is one that
    // a record has.
    let _ = hex::decode_to_slice(text, &mut digest);
    digest
}

fn classify(line: &[u8]) -> LineKind {
    let Some(line) = RecordLine::split(line).filter(|_| line.len() < MAX_LINE_BYTES) else {
        return LineKind::Torn;
    };
    match parse(&line) {
        // There must be a next number: what stands here is not verified yet.
        Ok(record) if record.v == FORMAT && greatest_number(&record) < u64::MAX => {
            LineKind::Record(Tail {
                seq: record.seq,
                vault_seq: record.vault_seq,
                // An epoch that was begun counts, also when nothing came of it.
                epoch: record.next.map_or(record.epoch, |next| next.epoch),
                clean: record.action == Action::Stop,
                closed: record.close.is_some(),
                digest: line.digest(),
                prev: digest_of(&record.prev),
                signed: line.signature.is_some(),
                time: record.time.parse().ok(),
                host: host(&record.host),
            })
        }
        Ok(_) => LineKind::Foreign,
        Err(error) if error.is_data() => LineKind::Foreign,
        Err(_) => LineKind::Torn,
    }
}

//! How a log ended, found without changing it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use jarvis_sys::private::{self, ModeLimit, PrivateError};
use jiff::Timestamp;

use crate::event::Action;
use crate::keys::KeyError;
use crate::line::{MAX_LINE_BYTES, RecordDigest, SignedLine};
use crate::read::{Record, parse, segment_numbers, segment_path};

/// Bytes looked at: a few records of the greatest length.
const WINDOW: u64 = 4 * MAX_LINE_BYTES as u64;

/// Why a log can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file system refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Directory or segment can't be opened, or others could read or change it.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// Another daemon writes it.
    #[error("the audit log {0} is in use by another jarvis-secretsd")]
    InUse(PathBuf),
    /// The last complete line is no record.
    #[error(
        "{path} ends with a line that is no audit record; run `jarvisctl audit verify`, then move the log's directory aside to start a new one"
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
    },
    /// The vault lacks commits that the log has.
    #[error(
        "the vault is older than its audit log: it has {vault} commits, the log knows of {log}; it was \
         probably restored from a copy. If that is meant, start once with --accept-restored-vault, \
         which is recorded"
    )]
    VaultOlder {
        /// Commits in the vault.
        vault: u64,
        /// Commits the log has recorded.
        log: u64,
    },
    /// No epoch key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The start record could not be written.
    #[error("cannot write the start record: {0}")]
    Start(String),
}

pub(crate) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { what, path, source }
}

/// The end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Sequence number of the last record.
    pub seq: u64,
    /// The vault commit it knows of.
    pub vault_seq: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Whether it is a stop record.
    pub clean: bool,
    /// Whether its segment ends with it.
    pub(crate) closed: bool,
    pub(crate) digest: RecordDigest,
}

/// The tail and what is behind it.
pub(crate) struct ResumePoint {
    pub(crate) tail: Option<Tail>,
    /// The last segment, in which writing goes on.
    pub(crate) segment: u32,
    /// Its first record, if it has one.
    pub(crate) first: Option<FirstRecord>,
    /// Its length up to its last complete record.
    pub(crate) len: u64,
    /// Bytes after it: a record that was cut by a crash.
    pub(crate) torn: Vec<u8>,
}

/// The first record of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstRecord {
    pub(crate) seq: u64,
    pub(crate) time: Timestamp,
}

/// Looks at the end of the log in `dir`; `None` when there is no record.
pub(crate) fn inspect(dir: &Path) -> Result<Option<Tail>, OpenError> {
    private::open(dir, ModeLimit::DIRECTORY)?;
    Ok(ending(dir)?.tail)
}

/// How the log in `dir` ends and where it goes on.
pub(crate) fn ending(dir: &Path) -> Result<ResumePoint, OpenError> {
    let numbers = segment_numbers(dir).map_err(io_error("list", dir))?;
    let Some((&last, earlier)) = numbers.split_last() else {
        return Ok(ResumePoint {
            tail: None,
            segment: 1,
            first: None,
            len: 0,
            torn: Vec::new(),
        });
    };
    let end = end_of(dir, last)?;
    let Some(&previous) = earlier.last().filter(|_| end.tail.is_none()) else {
        return Ok(end);
    };
    // It was made and nothing came of it.
    let before = end_of(dir, previous)?;
    match (before.torn.is_empty(), end.torn.is_empty()) {
        (true, _) => Ok(ResumePoint {
            tail: before.tail,
            ..end
        }),
        // The crash came while the one before was being closed.
        (false, true) => Ok(before),
        (false, false) => Err(OpenError::Corrupt {
            path: segment_path(dir, previous),
        }),
    }
}

/// Reads the end of one segment, at most [`WINDOW`] bytes of it, and its first line.
pub(crate) fn end_of(dir: &Path, segment: u32) -> Result<ResumePoint, OpenError> {
    let path = segment_path(dir, segment);
    let corrupt = || OpenError::Corrupt { path: path.clone() };
    let file = private::open(&path, ModeLimit::FILE)?;
    let size = file.metadata().map_err(io_error("stat", &path))?.len();
    let window = size.min(WINDOW);
    let mut bytes = vec![0; usize::try_from(window).map_err(|_| corrupt())?];
    file.read_exact_at(&mut bytes, size - window)
        .map_err(io_error("read", &path))?;
    let (tail, good) = last_record(&bytes).ok_or_else(corrupt)?;
    if tail.is_none() && window < size {
        return Err(corrupt());
    }
    let torn = bytes.split_off(good);
    let first = match tail {
        Some(_) => Some(first_of(&file, &path)?.ok_or_else(corrupt)?),
        None => None,
    };
    Ok(ResumePoint {
        tail,
        segment,
        first,
        len: size - torn.len() as u64,
        torn,
    })
}

/// The first record of a segment; `None` when its first line is none.
pub(crate) fn first_of(file: &File, path: &Path) -> Result<Option<FirstRecord>, OpenError> {
    let mut line = Vec::new();
    BufReader::new(file)
        .take(MAX_LINE_BYTES as u64)
        .read_until(b'\n', &mut line)
        .map_err(io_error("read", path))?;
    let record = line.strip_suffix(b"\n").and_then(SignedLine::split);
    let record = record.and_then(|signed| parse(&signed).ok());
    Ok(record.and_then(|record| {
        Some(FirstRecord {
            seq: record.seq,
            time: record.time.parse().ok()?,
        })
    }))
}

/// The last record in `bytes` and where it ends; no record when not even one
/// line is complete, as after a crash in the very first write. `None` when
/// complete lines hold no record, or one that is not ours to cut off.
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
        match look(line) {
            LineKind::Record(tail) => return Some((Some(tail), newline + 1)),
            LineKind::Foreign => return None,
            LineKind::Torn => (rest, torn_line) = (earlier, true),
        }
    }
}

/// What a complete line at the end is.
enum LineKind {
    Record(Tail),
    /// Signed JSON that this release cannot read: a later one may have meant it.
    Foreign,
    /// Nothing that any release wrote on purpose.
    Torn,
}

/// The greatest number that the next record must exceed.
fn latest(record: &Record) -> u64 {
    let next = record.next.as_ref().map_or(0, |next| next.epoch);
    record.seq.max(record.epoch).max(next)
}

fn look(line: &[u8]) -> LineKind {
    let Some(signed) = SignedLine::split(line).filter(|_| line.len() < MAX_LINE_BYTES) else {
        return LineKind::Torn;
    };
    match parse(&signed) {
        // There must be a next number: what stands here is not verified yet.
        Ok(record) if record.v == 1 && latest(&record) < u64::MAX => {
            LineKind::Record(Tail {
                seq: record.seq,
                vault_seq: record.vault_seq,
                // The one that was begun, also when nothing came of it.
                epoch: record.next.map_or(record.epoch, |next| next.epoch),
                clean: record.action == Action::Stop,
                closed: record.close.is_some(),
                digest: signed.digest(),
            })
        }
        Ok(_) => LineKind::Foreign,
        Err(error) if error.is_data() => LineKind::Foreign,
        Err(_) => LineKind::Torn,
    }
}

//! How a log ended, found without changing it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::event::Action;
use crate::keys::KeyError;
use crate::line::{Link, MAX_LINE, Signed};
use crate::read::{Record, parse, segment_path, segments};

/// Bytes looked at: a few records of the greatest length.
const WINDOW: u64 = 4 * MAX_LINE as u64;

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
    /// Others could read or change the log.
    #[error(
        "{path} has mode {mode:04o}, it must not be wider than {want:04o}; run: chmod {want:04o} {path}"
    )]
    TooWide {
        /// Directory or segment.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The widest accepted.
        want: u32,
    },
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
    /// A later release wrote it.
    #[error(
        "{path} was written by a newer jarvis-secretsd with several segments; this one would \
         break its chain. Run that version"
    )]
    Newer {
        /// A segment this release cannot have made.
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
    pub(crate) link: Link,
}

/// The tail and what is behind it.
pub(crate) struct Ending {
    pub(crate) tail: Option<Tail>,
    /// Length up to the last complete record.
    pub(crate) len: u64,
    /// Bytes after it: a record that was cut by a crash.
    pub(crate) torn: Vec<u8>,
}

/// Looks at the end of the log in `dir`; `None` when there is no record.
pub(crate) fn inspect(dir: &Path) -> Result<Option<Tail>, OpenError> {
    check_mode(dir, &File::open(dir).map_err(io_error("open", dir))?, 0o700)?;
    check_segments(dir)?;
    let path = segment_path(dir, 1);
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("open", &path)(error)),
        Ok(file) => Ok(ending(&path, &file)?.tail),
    }
}

/// Refuses a log with more than its first segment.
pub(crate) fn check_segments(dir: &Path) -> Result<(), OpenError> {
    let numbers = segments(dir).map_err(io_error("list", dir))?;
    match numbers.last() {
        Some(&last) if last > 1 => Err(OpenError::Newer {
            path: segment_path(dir, last),
        }),
        _ => Ok(()),
    }
}

/// Reads the end of `file`, at most [`WINDOW`] bytes of it.
pub(crate) fn ending(path: &Path, file: &File) -> Result<Ending, OpenError> {
    let corrupt = || OpenError::Corrupt {
        path: path.to_owned(),
    };
    check_mode(path, file, 0o600)?;
    let size = file.metadata().map_err(io_error("stat", path))?.len();
    let window = size.min(WINDOW);
    let mut bytes = vec![0; usize::try_from(window).map_err(|_| corrupt())?];
    file.read_exact_at(&mut bytes, size - window)
        .map_err(io_error("read", path))?;
    let (tail, good) = last_record(&bytes).ok_or_else(corrupt)?;
    if tail.is_none() && window < size {
        return Err(corrupt());
    }
    let torn = bytes.split_off(good);
    Ok(Ending {
        tail,
        len: size - torn.len() as u64,
        torn,
    })
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
            Piece::Record(tail) => return Some((Some(tail), newline + 1)),
            Piece::Foreign => return None,
            Piece::Torn => (rest, torn_line) = (earlier, true),
        }
    }
}

/// What a complete line at the end is.
enum Piece {
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

fn look(line: &[u8]) -> Piece {
    let Some(signed) = Signed::split(line).filter(|_| line.len() < MAX_LINE) else {
        return Piece::Torn;
    };
    match parse(&signed) {
        // There must be a next number: what stands here is not verified yet.
        Ok(record) if record.v == 1 && latest(&record) < u64::MAX => {
            Piece::Record(Tail {
                seq: record.seq,
                vault_seq: record.vault_seq,
                // The one that was begun, also when nothing came of it.
                epoch: record.next.map_or(record.epoch, |next| next.epoch),
                clean: record.action == Action::Stop,
                link: signed.link(),
            })
        }
        Ok(_) => Piece::Foreign,
        Err(error) if error.is_data() => Piece::Foreign,
        Err(_) => Piece::Torn,
    }
}

pub(crate) fn check_mode(path: &Path, file: &File, want: u32) -> Result<(), OpenError> {
    let metadata = file.metadata().map_err(io_error("stat", path))?;
    // Set-id and sticky bits of a directory let nobody in.
    let mode = metadata.mode() & 0o777;
    if mode & !want == 0 {
        return Ok(());
    }
    Err(OpenError::TooWide {
        path: path.to_owned(),
        mode,
        want,
    })
}

//! How a log ended, found without changing it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::event::Action;
use crate::keys::KeyError;
use crate::line::{Link, MAX_LINE, Signed};
use crate::read::{parse, segment_path};

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
    let path = segment_path(dir, 1);
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("open", &path)(error)),
        Ok(file) => Ok(ending(&path, &file)?.tail),
    }
}

/// Reads the end of `file`, never more than two lines' worth.
pub(crate) fn ending(path: &Path, file: &File) -> Result<Ending, OpenError> {
    let corrupt = || OpenError::Corrupt {
        path: path.to_owned(),
    };
    check_mode(path, file, 0o600)?;
    let size = file.metadata().map_err(io_error("stat", path))?.len();
    let window = size.min(2 * MAX_LINE as u64);
    let mut bytes = vec![0; usize::try_from(window).map_err(|_| corrupt())?];
    file.read_exact_at(&mut bytes, size - window)
        .map_err(io_error("read", path))?;
    let complete = bytes
        .iter()
        .rposition(|&b| b == b'\n')
        .map_or(0, |at| at + 1);
    let torn = bytes.split_off(complete);
    if torn.len() > MAX_LINE || (complete == 0 && window < size) {
        return Err(corrupt());
    }
    let tail = match bytes.strip_suffix(b"\n") {
        None => None,
        Some(lines) => Some(last_record(lines).ok_or_else(corrupt)?),
    };
    Ok(Ending {
        tail,
        len: size - torn.len() as u64,
        torn,
    })
}

fn last_record(lines: &[u8]) -> Option<Tail> {
    let line = lines.rsplit(|&b| b == b'\n').next()?;
    let signed = Signed::split(line)?;
    let record = parse(&signed).ok()?;
    Some(Tail {
        seq: record.seq,
        vault_seq: record.vault_seq,
        epoch: record.epoch,
        clean: record.action == Action::Stop,
        link: signed.link(),
    })
}

pub(crate) fn check_mode(path: &Path, file: &File, want: u32) -> Result<(), OpenError> {
    let metadata = file.metadata().map_err(io_error("stat", path))?;
    let mode = metadata.mode() & 0o7777;
    if mode & !want == 0 {
        return Ok(());
    }
    Err(OpenError::TooWide {
        path: path.to_owned(),
        mode,
        want,
    })
}

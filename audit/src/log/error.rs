//! Why a log is not opened, written, rotated or pruned.

use std::io;
use std::path::{Path, PathBuf};

use jarvis_sys::trust::TrustError;

use crate::keys::{HostId, KeyError};
use crate::line::MAX_LINE_BYTES;

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The write failed; the log is as before and can be tried again.
    #[error("cannot write the audit log: {0}")]
    Io(#[source] io::Error),
    /// A sync failed, or a failed write could not be undone: the content of the disk is
    /// not known, and nothing more is written until the daemon starts anew.
    #[error("the audit log failed earlier and takes no more records; restart the daemon")]
    Poisoned,
    /// The file that is written is not where the next start would look for it.
    #[error(
        "the audit log's file was removed, replaced, moved or shortened; no record is taken \
         until another segment is begun"
    )]
    Displaced,
    /// The stop record is written.
    #[error("the audit log is closed")]
    Closed,
    /// The record would be over 32 KiB.
    #[error("the audit record is over {MAX_LINE_BYTES} bytes")]
    TooLong,
}

/// Why a log can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// Step that failed.
        action: &'static str,
        /// Path that was used.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Directory or segment can't be opened, or others could read or change it.
    #[error(transparent)]
    Distrusted(#[from] TrustError),
    /// Another daemon writes the log.
    #[error("the audit log {0} is in use by another jarvis-secretsd")]
    InUse(PathBuf),
    /// The last complete line is no record.
    #[error(
        "{path} ends with a line that is no audit record; run `jarvisctl audit verify`, then move the log's directory aside to start a new one"
    )]
    Corrupt {
        /// Path of the segment.
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
    /// The log ends before a record that it is known to have had.
    #[error(
        "the audit log ends with record {found}, but {source_of} knows of record {known}: its end was \
         cut off, or it was deleted or restored from a copy. Put the log back; if it is gone for \
         good, start once with --accept-lost-log, which is recorded"
    )]
    Lost {
        /// The one that knows of the record.
        source_of: String,
        /// The record that is known.
        known: u64,
        /// The last record there is, 0 when there is none.
        found: u64,
    },
    /// The log has another record in the place of one that it is known to have had.
    #[error(
        "record {seq} of the audit log is not the one that {source_of} knows: this is another log, or \
         an older copy that went on. Put the log back; if it is gone for good, start once with \
         --accept-lost-log, which is recorded"
    )]
    Replaced {
        /// The one that knows of the record.
        source_of: String,
        /// Number of the record.
        seq: u64,
    },
    /// The log that is known was another identity's.
    #[error(
        "{source_of} knows an audit log of host {known}, but the identity key is that of host {own}. \
         Put that host's key back; if it is gone for good, move the log's directory aside and start \
         once with --accept-lost-log, which is recorded"
    )]
    OtherIdentity {
        /// The one that knows of the log.
        source_of: String,
        /// The host of that log.
        known: HostId,
        /// Number of the record of it that is known.
        seq: u64,
        /// The host whose key is used now.
        own: HostId,
    },
    /// The log in the directory is another host's: nobody could verify what went on in it.
    #[error(
        "the audit log {path} is that of host {found}, but the identity key is that of host {own}; put \
         that host's key back, or move the log's directory aside and start once with \
         --accept-lost-log, which is recorded"
    )]
    ForeignLog {
        /// The log's directory.
        path: PathBuf,
        /// The host in its last record.
        found: String,
        /// The host whose key is used now.
        own: HostId,
    },
    /// No epoch key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The start record could not be written.
    #[error("cannot write the start record: {0}")]
    Start(#[from] AppendError),
    /// A thread that signs or syncs records could not be started.
    #[error("cannot start a thread for the audit log: {0}")]
    Thread(#[source] io::Error),
}

/// Why the log takes no records, or not all.
#[derive(Debug, thiserror::Error)]
pub enum LogFault {
    /// A sync failed, or a failed write could not be undone.
    #[error("a write to the audit log failed and could not be undone, or a sync failed")]
    Poisoned,
    /// The segment's file is not where it must be, or not whole.
    #[error("{path} {what} while it was written")]
    Displaced {
        /// Path of the segment.
        path: PathBuf,
        /// Fate of the file.
        what: &'static str,
    },
    /// The segment's file can't be written.
    #[error("cannot write {path}: {source}")]
    Unwritable {
        /// Path of the segment.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Only what was kept for refusals and revocations is left.
    #[error("the disk of the audit log is full: there is room for refusals and revocations alone")]
    Full,
}

/// Why a segment was not ended; the log goes on in it.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The next segment's file can't be made.
    #[error("cannot begin a segment of the audit log: {0}")]
    Open(#[from] OpenError),
    /// The next segment's file is not empty.
    #[error("cannot begin segment {0} of the audit log: its file is not empty")]
    Exists(u32),
    /// No key for the next segment.
    #[error("cannot begin a segment of the audit log: {0}")]
    Key(#[from] KeyError),
    /// A record could not be written.
    #[error("cannot end a segment of the audit log: {0}")]
    Append(#[from] AppendError),
    /// Epochs follow each other too fast.
    #[error("cannot begin a segment of the audit log: other epochs began meanwhile; try again")]
    Busy,
}

/// Why nothing was removed.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The files can't be looked at or removed.
    #[error("cannot prune the audit log: {0}")]
    Files(#[from] OpenError),
    /// The record of it could not be written.
    #[error("cannot prune the audit log: {0}")]
    Append(#[from] AppendError),
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io {
        action,
        path,
        source,
    }
}

//! Checks and repairs before a log is written to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jarvis_sys::trust::{self, Rule};
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};

use super::ending::{self, LogEnding};
use super::error::{OpenError, io_error};
use super::file::LogFile;
use super::head::LogHead;
use super::known::{self, KnownRecord};
use super::limits::SegmentLimits;
use super::tail::ResumePoint;
use crate::keys::HostId;
use crate::read::segment_path;

/// Most torn records kept for one sequence number; each takes a crash of its own.
const MAX_TORN_FILES: u32 = 9999;

/// Circumstances under which a log is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opening<'a> {
    /// Version of the daemon, for the start record.
    pub version: &'a str,
    /// The vault's commits, as far as they are recorded.
    pub vault_seq: u64,
    /// Known reason for the end of the last writer, for the start record.
    pub reason: Option<&'a str>,
    /// Go on although the vault is older than the log.
    pub accept_older_vault: bool,
    /// Records that the log is known to have.
    pub known: &'a [KnownRecord<'a>],
    /// The log's end as its last writer left it, and where this one notes it.
    pub head: Option<&'a Arc<LogHead>>,
    /// Go on although such a record, or that end, is missing.
    pub accept_lost_log: bool,
    /// The clock of the records; the system's when there is none.
    pub clock: Option<fn() -> Timestamp>,
    /// Begin a segment: what the last writer's sync left on disk is not known.
    pub new_segment: bool,
    /// When a segment ends.
    pub segment_limits: SegmentLimits,
}

/// The log's directory, locked: one process writes there at a time.
pub(super) struct LogDirectory {
    path: PathBuf,
    handle: File,
}

impl LogDirectory {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let handle = trust::open_end(path, Rule::PRIVATE_DIRECTORY)?;
        lock(path, &handle)?;
        Ok(Self {
            path: path.to_owned(),
            handle,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens or makes the file of segment `number` for appending; its name is on
    /// disk afterwards.
    pub(super) fn segment(&self, number: u32) -> Result<File, OpenError> {
        let path = segment_path(&self.path, number);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        // Perhaps nobody has yet made its name durable.
        if file.metadata().map_err(io_error("stat", &path))?.len() == 0 {
            self.sync()?;
        }
        Ok(file)
    }

    /// Finds out whether the directory's disk takes what is written.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub(super) fn probe(&self) -> Result<(), OpenError> {
        let path = self.path.join("probe");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&path).map_err(io_error("create", &path))?;
        let written = file.write_all(b"probe\n").and_then(|()| file.sync_all());
        let removed = std::fs::remove_file(&path);
        written.and(removed).map_err(io_error("write", &path))
    }

    /// Makes new and removed names durable.
    pub(super) fn sync(&self) -> Result<(), OpenError> {
        let sync = self.handle.sync_all();
        sync.map_err(io_error("sync", &self.path))
    }
}

/// A log that is locked, checked and repaired.
pub(super) struct PreparedLog {
    pub(super) directory: LogDirectory,
    /// The segment to write to.
    pub(super) file: Box<dyn LogFile>,
    /// The log's end, and the place in `file` where writing goes on.
    pub(super) resume: ResumePoint,
    /// Loss of the log that was accepted.
    pub(super) lost: Option<OpenError>,
}

/// Locks, checks and repairs the log in `path`. Every refusal comes before a change.
pub(super) fn prepare(
    path: &Path,
    host: HostId,
    opening: &Opening<'_>,
) -> Result<PreparedLog, OpenError> {
    let directory = LogDirectory::open(path)?;
    let known_head = opening.head.and_then(|head| head.known());
    let LogEnding {
        mut resume,
        changed,
    } = ending::find(directory.path(), known_head.as_ref())?;
    check_host(directory.path(), &resume, host)?;
    let changed = match changed {
        Some(error) if !opening.accept_lost_log => return Err(error),
        changed => changed,
    };
    let lost = changed.or(check_known(directory.path(), &resume, host, opening)?);
    check_age(&resume, opening)?;
    let mut file = directory.segment(resume.segment)?;
    if !resume.torn.is_empty() {
        let copy = keep_torn(&directory, &resume)?;
        let path = segment_path(directory.path(), resume.segment);
        // A copy is kept of what goes, not of what stays: this may be tried again for days.
        file.set_len(resume.len).map_err(|error| {
            std::fs::remove_file(copy).ok();
            io_error("truncate", &path)(error)
        })?;
    }
    let closed = resume.tail.is_some_and(|tail| tail.closed);
    if resume.len > 0 && (closed || opening.new_segment) {
        resume = ResumePoint {
            segment: resume.segment + 1,
            len: 0,
            first: None,
            ..resume
        };
        file = directory.segment(resume.segment)?;
    }
    Ok(PreparedLog {
        directory,
        file: Box::new(file),
        resume,
        lost,
    })
}

fn lock(path: &Path, handle: &File) -> Result<(), OpenError> {
    flock(handle, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
        if errno == rustix::io::Errno::WOULDBLOCK {
            OpenError::InUse(path.to_owned())
        } else {
            io_error("lock", path)(errno.into())
        }
    })
}

/// Refuses to go on in another host's log.
fn check_host(path: &Path, resume: &ResumePoint, own: HostId) -> Result<(), OpenError> {
    match resume.tail {
        Some(tail) if tail.host != Some(own) => Err(OpenError::ForeignLog {
            path: path.to_owned(),
            found: tail
                .host
                .map_or_else(|| "unknown".to_owned(), |host| host.to_string()),
            own,
        }),
        _ => Ok(()),
    }
}

/// Refuses a log without a record that is known; gives what is missing where that is
/// accepted.
fn check_known(
    path: &Path,
    resume: &ResumePoint,
    host: HostId,
    opening: &Opening<'_>,
) -> Result<Option<OpenError>, OpenError> {
    let mut lost = None;
    for record in opening.known {
        match known::check(path, resume, host, record) {
            Ok(()) => {}
            Err(error @ OpenError::Io { .. }) => return Err(error),
            Err(error) if opening.accept_lost_log => {
                lost.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}

fn check_age(resume: &ResumePoint, opening: &Opening<'_>) -> Result<(), OpenError> {
    match resume.tail {
        Some(tail) if tail.vault_seq > opening.vault_seq && !opening.accept_older_vault => {
            Err(OpenError::VaultOlder {
                vault: opening.vault_seq,
                log: tail.vault_seq,
            })
        }
        _ => Ok(()),
    }
}

/// Copies what a crash left to `torn-<seq>-<n>`, a file of its own, durable
/// before the original goes.
fn keep_torn(directory: &LogDirectory, resume: &ResumePoint) -> Result<PathBuf, OpenError> {
    let seq = resume.tail.map_or(0, |tail| tail.seq) + 1;
    let (path, mut copy) = new_torn_file(directory.path(), seq)?;
    copy.write_all(&resume.torn)
        .and_then(|()| copy.sync_all())
        .map_err(|error| {
            // Half a copy only looks like evidence.
            std::fs::remove_file(&path).ok();
            io_error("write", &path)(error)
        })?;
    directory.sync()?;
    Ok(path)
}

/// Makes the file with the first free number: an earlier copy is never written to.
fn new_torn_file(directory: &Path, seq: u64) -> Result<(PathBuf, File), OpenError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut n = 1;
    loop {
        let path = directory.join(format!("torn-{seq:020}-{n}"));
        match options.open(&path) {
            Ok(copy) => return Ok((path, copy)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && n < MAX_TORN_FILES => {
                n += 1;
            }
            Err(error) => return Err(io_error("create", &path)(error)),
        }
    }
}

//! What is checked and repaired before a log is written to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jarvis_sys::private::{self, ModeLimit};
use rustix::fs::{FlockOperation, flock};

use super::Opening;
use super::tail::{self, OpenError, ResumePoint, io_error};
use crate::read::segment_path;

/// Torn records kept for one sequence number; each takes a crash of its own.
const MAX_TORN: u32 = 9999;

/// The log's directory, locked: one process writes there at a time.
pub(super) struct LogDirectory {
    path: PathBuf,
    handle: File,
}

impl LogDirectory {
    fn open(path: &Path) -> Result<Self, OpenError> {
        let handle = private::open(path, ModeLimit::DIRECTORY)?;
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

    /// Makes new and removed names durable.
    pub(super) fn sync(&self) -> Result<(), OpenError> {
        let sync = self.handle.sync_all();
        sync.map_err(io_error("sync", &self.path))
    }
}

/// The segment to write to, and how the log ends. Every refusal comes before a
/// change.
pub(super) fn prepare(
    dir: &Path,
    opening: &Opening<'_>,
) -> Result<(LogDirectory, File, ResumePoint), OpenError> {
    let dir = LogDirectory::open(dir)?;
    let ending = tail::ending(dir.path())?;
    check_age(&ending, opening)?;
    if !ending.torn.is_empty() {
        keep_torn(&dir, &ending)?;
    }
    let file = dir.segment(ending.segment)?;
    if !ending.torn.is_empty() {
        let path = segment_path(dir.path(), ending.segment);
        let cut = file.set_len(ending.len);
        cut.map_err(io_error("truncate", &path))?;
    }
    let closed = ending.tail.is_some_and(|tail| tail.closed);
    if ending.len == 0 || !(closed || opening.new_segment) {
        return Ok((dir, file, ending));
    }
    let ending = ResumePoint {
        segment: ending.segment + 1,
        len: 0,
        first: None,
        ..ending
    };
    let file = dir.segment(ending.segment)?;
    Ok((dir, file, ending))
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

fn check_age(ending: &ResumePoint, opening: &Opening<'_>) -> Result<(), OpenError> {
    match ending.tail {
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
fn keep_torn(dir: &LogDirectory, ending: &ResumePoint) -> Result<(), OpenError> {
    let seq = ending.tail.map_or(0, |tail| tail.seq) + 1;
    let (aside, mut copy) = new_torn(dir.path(), seq)?;
    copy.write_all(&ending.torn)
        .and_then(|()| copy.sync_all())
        .map_err(|error| {
            // Half a copy only looks like evidence.
            std::fs::remove_file(&aside).ok();
            io_error("write", &aside)(error)
        })?;
    dir.sync()
}

/// The first free number: an earlier copy is never written to.
fn new_torn(dir: &Path, seq: u64) -> Result<(PathBuf, File), OpenError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut n = 1;
    loop {
        let aside = dir.join(format!("torn-{seq:020}-{n}"));
        match options.open(&aside) {
            Ok(copy) => return Ok((aside, copy)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && n < MAX_TORN => n += 1,
            Err(error) => return Err(io_error("create", &aside)(error)),
        }
    }
}

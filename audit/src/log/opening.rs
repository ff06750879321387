//! What is checked and repaired before a log is written to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::{Opening, SEGMENT};
use crate::read::segment_path;
use crate::tail::{self, Ending, OpenError, io_error};

/// Torn records kept for one sequence number; each takes a crash of its own.
const MAX_TORN: u32 = 9999;

/// The segment, locked, and how it ends. Every refusal comes before a change.
pub(super) fn prepare(dir: &Path, opening: &Opening<'_>) -> Result<(File, Ending), OpenError> {
    let handle = File::open(dir).map_err(io_error("open", dir))?;
    tail::check_mode(dir, &handle, 0o700)?;
    tail::check_segments(dir)?;
    let path = segment_path(dir, SEGMENT);
    let new = !path.exists();
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("open", &path))?;
    lock(&path, &file)?;
    let ending = tail::ending(&path, &file)?;
    check_age(&ending, opening)?;
    if !ending.torn.is_empty() {
        keep_torn(dir, &ending)?;
    }
    if new || !ending.torn.is_empty() {
        // The segment's name must be on disk before its records; the copy's
        // before the original goes.
        handle.sync_all().map_err(io_error("sync", dir))?;
    }
    if !ending.torn.is_empty() {
        file.set_len(ending.len)
            .map_err(io_error("truncate", &path))?;
    }
    Ok((file, ending))
}

fn lock(path: &Path, file: &File) -> Result<(), OpenError> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
        if errno == rustix::io::Errno::WOULDBLOCK {
            OpenError::InUse(path.to_owned())
        } else {
            io_error("lock", path)(errno.into())
        }
    })
}

fn check_age(ending: &Ending, opening: &Opening<'_>) -> Result<(), OpenError> {
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

/// Copies what a crash left to `torn-<seq>-<n>`, a file of its own.
fn keep_torn(dir: &Path, ending: &Ending) -> Result<(), OpenError> {
    let seq = ending.tail.map_or(0, |tail| tail.seq) + 1;
    let (aside, mut copy) = new_torn(dir, seq)?;
    copy.write_all(&ending.torn)
        .and_then(|()| copy.sync_all())
        .map_err(|error| {
            // Half a copy only looks like evidence.
            std::fs::remove_file(&aside).ok();
            io_error("write", &aside)(error)
        })
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

//! Checkpoints of the audit log, kept where no worker can reach them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use jarvis_audit::{Checkpoint, EpochClaim, MAX_CHECKPOINT_BYTES};
use jarvis_sys::trust::{self, Rule};
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};

use super::error::{CheckpointRefusal, SupervisorError};
use crate::ipc::worker::KeptRecord;
use crate::process::spawn;

/// How long the last note may take when the supervisor ends.
const FINISH_LIMIT: Duration = Duration::from_secs(3);

/// Writer of a host's latest checkpoint to a directory. That may be far away: a
/// thread of its own writes there, so that a slow disk holds up nothing else.
pub(super) struct CheckpointWriter {
    notes: SyncSender<Checkpoint>,
    /// Closed once the thread has written its last note.
    done: Receiver<()>,
    /// The record that the latest note tells of.
    latest: Option<KeptRecord>,
}

impl CheckpointWriter {
    /// Starts the thread. What the note that is there tells of `host`'s log is
    /// remembered: over restarts, too, it can't go back unseen.
    ///
    /// # Errors
    /// [`SupervisorError::KeptCheckpoint`]; [`SupervisorError::Checkpoints`] when no thread
    /// can be had.
    pub(super) fn start(directory: PathBuf, host: &str) -> Result<Self, SupervisorError> {
        let latest = read_kept(&directory, host)?;
        let (notes, waiting) = sync_channel(1);
        let (finished, done) = channel();
        spawn("checkpoints", move || {
            write_all(&directory, &waiting);
            drop::<Sender<()>>(finished);
        })
        .map_err(SupervisorError::Checkpoints)?;
        Ok(Self {
            notes,
            done,
            latest,
        })
    }

    /// Takes `note`, to be kept in the place of the one before.
    ///
    /// # Errors
    /// [`CheckpointRefusal`], also of a note that goes back.
    pub(super) fn keep(&mut self, note: &str, host: &str) -> Result<(), CheckpointRefusal> {
        let checkpoint = Checkpoint::parse(note)?;
        if checkpoint.host != host {
            return Err(CheckpointRefusal::OtherHost(checkpoint.host));
        }
        let seq = checkpoint.seq;
        if self.latest.is_some_and(|latest| seq < latest.seq) {
            return Err(CheckpointRefusal::WentBack(seq));
        }
        self.latest = Some(KeptRecord {
            seq,
            head: checkpoint.head,
        });
        // While one is being written another may wait; a third is let go, for
        // newer ones come.
        self.notes.try_send(checkpoint).ok();
        Ok(())
    }

    /// Whether a worker that goes on as `claim` says has found what was noted.
    ///
    /// # Errors
    /// [`CheckpointRefusal::RecordsGone`].
    pub(super) fn check(&self, claim: &EpochClaim) -> Result<(), CheckpointRefusal> {
        let found = claim.first_seq.saturating_sub(1);
        match self.latest {
            Some(KeptRecord { seq: noted, head })
                if found < noted || (found == noted && claim.prev != head) =>
            {
                Err(CheckpointRefusal::RecordsGone { found, noted })
            }
            _ => Ok(()),
        }
    }

    /// The record that the latest note tells of.
    pub(super) fn latest(&self) -> Option<KeptRecord> {
        self.latest
    }

    /// Forgets what notes told so far: the log begins anew.
    pub(super) fn forget(&mut self) {
        self.latest = None;
    }

    /// Waits for the last note, not for ever.
    pub(super) fn finish(self) {
        drop(self.notes);
        self.done.recv_timeout(FINISH_LIMIT).ok();
    }
}

/// Name of the note about the log of `host`.
fn name_of(host: &str) -> String {
    format!("{host}.checkpoint")
}

/// The record that the note in `directory` about the log of `host` tells of; none when there
/// is no note.
fn read_kept(directory: &Path, host: &str) -> Result<Option<KeptRecord>, SupervisorError> {
    let name = name_of(host);
    let failed = |why: String| SupervisorError::KeptCheckpoint {
        path: directory.join(&name),
        why,
    };
    let file = trust::open(directory, Rule::DIRECTORY)
        .and_then(|handle| trust::open_in(handle, directory, &name, Rule::FILE));
    let file = match file {
        Err(error) if error.is_missing() => return Ok(None),
        file => file.map_err(SupervisorError::DistrustedCheckpoint)?,
    };
    let mut text = String::new();
    file.take(MAX_CHECKPOINT_BYTES as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(error.to_string()))?;
    let note = Checkpoint::parse(&text).map_err(|error| failed(error.to_string()))?;
    Ok(Some(KeptRecord {
        seq: note.seq,
        head: note.head,
    }))
}

/// Writes each of `notes` in the place of the one before.
fn write_all(directory: &Path, notes: &Receiver<Checkpoint>) {
    for note in notes {
        let name = name_of(&note.host);
        if let Err(error) = replace(directory, &name, &note.to_string()) {
            tracing::error!(%error, path = %directory.display(), "checkpoint not kept");
        }
    }
}

/// Puts `text` in the place of `name` in `directory`, where readers find the old text or the
/// new one.
fn replace(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let directory = trust::open(directory, Rule::DIRECTORY).map_err(io::Error::other)?;
    let beside = format!("{name}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    // One that was not finished may be there.
    unlinkat(&directory, &beside, AtFlags::empty()).ok();
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let mut file = File::from(openat(&directory, &beside, flags, mode)?);
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(renameat(&directory, &beside, &directory, name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_lost_what_was_noted_is_told() {
        let home = tempfile::tempdir().unwrap();
        let start = || CheckpointWriter::start(home.path().into(), "h");
        let mut writer = start().unwrap();
        let claim = |first_seq, prev| EpochClaim {
            epoch: 2,
            first_seq,
            prev: [prev; 32],
            key: [0; 32],
        };
        assert!(writer.check(&claim(1, 0)).is_ok(), "nothing is noted yet");
        let head = "05".repeat(32);
        let note = format!(
            "jarvis-audit-checkpoint v1\nhost h\nseq 7\nhead {head}\nepoch 1\ntime t\n\n{}\n",
            "A".repeat(86)
        );
        writer.keep(&note, "h").unwrap();
        assert!(writer.check(&claim(8, 5)).is_ok());
        assert!(writer.check(&claim(9, 6)).is_ok());
        for (first, prev) in [(7, 5), (8, 6), (1, 0), (0, 0)] {
            assert!(writer.check(&claim(first, prev)).is_err(), "{first}");
        }
        let back = note.replace("seq 7", "seq 6");
        assert!(writer.keep(&back, "h").is_err());
        writer.finish();
        let kept = std::fs::read_to_string(home.path().join("h.checkpoint")).unwrap();
        assert_eq!(kept, note);

        // The next supervisor knows of it.
        let mut writer = start().unwrap();
        assert!(writer.check(&claim(7, 5)).is_err());
        assert!(writer.keep(&back, "h").is_err());
        writer.forget();
        assert!(writer.check(&claim(7, 5)).is_ok());
        assert!(writer.keep(&back, "h").is_ok());
        writer.finish();
        std::fs::write(home.path().join("h.checkpoint"), "no note").unwrap();
        let error = start().err().unwrap().to_string();
        assert!(error.contains("h.checkpoint"), "{error}");
    }
}

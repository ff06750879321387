//! Checkpoints of the audit log, kept where the worker can't reach them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use jarvis_audit::{Checkpoint, EpochClaim};

/// How long the last note may take.
const FAREWELL: Duration = Duration::from_secs(3);

/// The latest checkpoint of a host, in a directory. It may be far away: a thread
/// of its own writes there, which only it can hold up.
pub(super) struct Witness {
    notes: SyncSender<Checkpoint>,
    done: Receiver<()>,
    latest: Option<(u64, [u8; 32])>,
}

impl Witness {
    /// # Errors
    /// When no thread can be had.
    pub(super) fn start(directory: PathBuf) -> std::io::Result<Self> {
        let (notes, waiting) = sync_channel(1);
        let (finished, done) = channel();
        let writer = std::thread::Builder::new().name("witness".into());
        writer.spawn(move || {
            keep_all(&directory, &waiting);
            drop::<Sender<()>>(finished);
        })?;
        Ok(Self {
            notes,
            done,
            latest: None,
        })
    }

    /// Takes `note`, to be kept in the place of the one before.
    ///
    /// # Errors
    /// A sentence; also for a note that goes back.
    pub(super) fn keep(&mut self, note: &str, host: &str) -> Result<(), String> {
        let checkpoint = Checkpoint::parse(note).map_err(|error| error.to_string())?;
        if checkpoint.host != host {
            return Err(format!("the checkpoint is of host {}", checkpoint.host));
        }
        let seq = checkpoint.seq;
        if self.latest.is_some_and(|(latest, _)| seq < latest) {
            return Err(format!(
                "the audit log went back to record {seq}; was it tampered with?"
            ));
        }
        self.latest = Some((seq, checkpoint.head));
        // While one is being written another may wait; a third is let go, for
        // newer ones come.
        self.notes.try_send(checkpoint).ok();
        Ok(())
    }

    /// Whether a worker that goes on as `claim` says has found what was noted.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn check(&self, claim: &EpochClaim) -> Result<(), String> {
        let found = claim.first_seq.saturating_sub(1);
        match self.latest {
            Some((seq, head)) if found < seq || (found == seq && claim.prev != head) => {
                Err(format!(
                    "the audit log ends with record {found}, but a checkpoint tells of another \
                     record {seq}: records are gone; was it tampered with?"
                ))
            }
            _ => Ok(()),
        }
    }

    /// Waits for the last note, not for ever.
    pub(super) fn finish(self) {
        drop(self.notes);
        self.done.recv_timeout(FAREWELL).ok();
    }
}

fn keep_all(directory: &Path, notes: &Receiver<Checkpoint>) {
    for note in notes {
        let path = directory.join(format!("{}.checkpoint", note.host));
        if let Err(error) = write(&path, &note.to_string()) {
            tracing::error!(%error, path = %path.display(), "checkpoint not kept");
        }
    }
}

/// Whoever reads `path` finds the old text or the new one.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_lost_what_was_noted_is_told() {
        let home = tempfile::tempdir().unwrap();
        let mut witness = Witness::start(home.path().into()).unwrap();
        let claim = |first_seq, prev| EpochClaim {
            epoch: 2,
            first_seq,
            prev: [prev; 32],
            key: [0; 32],
        };
        assert!(witness.check(&claim(1, 0)).is_ok(), "nothing is noted yet");
        let head = "05".repeat(32);
        let note = format!(
            "jarvis-audit-checkpoint v1\nhost h\nseq 7\nhead {head}\nepoch 1\ntime t\n\n{}\n",
            "A".repeat(86)
        );
        witness.keep(&note, "h").unwrap();
        assert!(witness.check(&claim(8, 5)).is_ok());
        assert!(witness.check(&claim(9, 6)).is_ok());
        for (first, prev) in [(7, 5), (8, 6), (1, 0), (0, 0)] {
            assert!(witness.check(&claim(first, prev)).is_err(), "{first}");
        }
        let back = note.replace("seq 7", "seq 6");
        assert!(witness.keep(&back, "h").is_err());
        witness.finish();
        let kept = std::fs::read_to_string(home.path().join("h.checkpoint")).unwrap();
        assert_eq!(kept, note);
    }
}

//! Checkpoints of the audit log, kept where the worker can't reach them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use jarvis_audit::Checkpoint;

/// The latest checkpoint of a host, in a directory.
pub(super) struct Witness {
    directory: PathBuf,
    latest: Option<u64>,
}

impl Witness {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            latest: None,
        }
    }

    /// Keeps `note` in the place of the one before.
    ///
    /// # Errors
    /// A sentence; also for a note that goes back.
    pub(super) fn keep(&mut self, note: &str, host: &str) -> Result<(), String> {
        let checkpoint = Checkpoint::parse(note).map_err(|error| error.to_string())?;
        if checkpoint.host != host {
            return Err(format!("the checkpoint is of host {}", checkpoint.host));
        }
        if self.latest.is_some_and(|latest| checkpoint.seq < latest) {
            let seq = checkpoint.seq;
            return Err(format!(
                "the audit log went back to record {seq}; it was tampered with"
            ));
        }
        let path = self.directory.join(format!("{host}.checkpoint"));
        write(&path, note).map_err(|error| format!("{}: {error}", path.display()))?;
        self.latest = Some(checkpoint.seq);
        Ok(())
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

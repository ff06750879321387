//! Old segments are removed, and a signed record says so.

use std::fs::File;

use jiff::Timestamp;

use super::tail::{self, OpenError, io_error};
use super::writer::RecordExtras;
use super::{AppendError, Durability, Log};
use crate::event::{Action, Event, Outcome};
use crate::read::{PruneDetails, segment_numbers, segment_path};

/// Why nothing was removed.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The files can't be looked at or removed.
    #[error("cannot prune the audit log: {0}")]
    Files(#[from] OpenError),
    /// There is no record of it.
    #[error("cannot prune the audit log: {0}")]
    Append(#[from] AppendError),
}

impl Log {
    /// Removes the segments whose last record is older than `before`, never the
    /// one that is written; gives how many. The record comes first: what it
    /// covers need not be there any more.
    ///
    /// # Errors
    /// [`PruneError`].
    pub fn prune(&self, before: Timestamp) -> Result<usize, PruneError> {
        let current = self.writer.chain.lock().written().segment;
        let numbers =
            segment_numbers(self.dir.path()).map_err(io_error("list", self.dir.path()))?;
        let mut old = Vec::new();
        for pair in numbers.windows(2) {
            let [number, next] = *pair else { continue };
            // Every record of a segment is older than the first one after it.
            if next > current || !self.begins_before(next, before)? {
                break;
            }
            old.push(number);
        }
        let Some(&last) = old.last() else {
            return Ok(0);
        };
        let end = tail::end_of(self.dir.path(), last)?;
        if let Some(tail) = end.tail {
            let prune = PruneDetails {
                segment: last,
                seq: tail.seq,
                head: hex::encode(tail.digest),
            };
            let extra = RecordExtras {
                prune: Some(&prune),
                ..RecordExtras::default()
            };
            let event = Event::new(Action::Prune, Outcome::Ok, tail.vault_seq);
            self.writer.append(&event, extra, Durability::Sync)?;
        }
        for number in &old {
            let path = segment_path(self.dir.path(), *number);
            std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        self.dir.sync()?;
        Ok(old.len())
    }

    fn begins_before(&self, segment: u32, before: Timestamp) -> Result<bool, OpenError> {
        let path = segment_path(self.dir.path(), segment);
        let file = File::open(&path).map_err(io_error("open", &path))?;
        let first = tail::first_of(&file, &path)?;
        Ok(first.is_some_and(|first| first.time < before))
    }
}

//! Suspicious activity, found in records alone.
//!
//! Runs in: the worker, as records are written; `jarvisctl`, over a log's history.
//! Touches: nothing but memory: no clock, no file, no secret.
//! Imported by: the crate's root.
//!
//! The detector is fed what the log says, in the log's order, and gives what it finds, so
//! that both find the same. Whoever makes records can't make it grow: everything kept is
//! bounded, and what was not asked for longest is given up first.

mod aging;
mod finding;
mod observation;
mod threshold;
mod windows;

use aging::AgingMap;
use observation::Activity;
use windows::{DenialWindow, ReadWindow};

pub use finding::{Finding, FindingKind, Findings};
pub use observation::Observation;
pub use threshold::{MAX_BULK_SECRETS, MAX_DENIALS, Threshold, Thresholds};

/// Most secrets whose readers are known; about 13 MiB when all have many.
const MAX_SECRETS: usize = 65_536;
/// Most readers known of one secret. One that has more is everybody's: nobody is new.
const MAX_READERS: usize = 32;
/// Most uids whose denials are watched.
const MAX_DENIED_UIDS: usize = 4096;
/// Most uids whose reads are watched; about 2 MiB when all read many secrets, 18 MiB
/// at [`MAX_BULK_SECRETS`].
const MAX_READING_UIDS: usize = 1024;

/// Memory of the records seen, within bounds.
pub struct Detector {
    thresholds: Thresholds,
    /// Uids that have read a secret, by its id.
    readers: AgingMap<u64, Vec<u32>>,
    /// Denials by uid.
    denied: AgingMap<u32, DenialWindow>,
    /// Reads by uid.
    reading: AgingMap<u32, ReadWindow>,
}

impl Detector {
    /// A detector that has seen nothing.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds: thresholds.capped(),
            readers: AgingMap::new(MAX_SECRETS),
            denied: AgingMap::new(MAX_DENIED_UIDS),
            reading: AgingMap::new(MAX_READING_UIDS),
        }
    }

    /// Gives what is suspicious about `seen`, after all before it.
    pub fn observe(&mut self, seen: &Observation) -> Findings {
        match seen.activity {
            Activity::Read { id } => [self.new_reader(seen, id), self.bulk_read(seen, id)],
            Activity::Denied { times } => [self.denial_burst(seen, times), None],
            Activity::HandlePassed { refused } => {
                let passed = Finding {
                    kind: FindingKind::HandlePassed,
                    uid: seen.uid,
                    id: seen.id,
                    count: 1,
                    seconds: 0,
                };
                let denial = refused.then(|| self.denial_burst(seen, 1)).flatten();
                [Some(passed), denial]
            }
        }
    }

    /// The first reader of a secret is whom it was made for; each one after it is
    /// told once.
    fn new_reader(&mut self, seen: &Observation, id: u64) -> Option<Finding> {
        let readers = self.readers.entry(id);
        if readers.contains(&seen.uid) || readers.len() >= MAX_READERS {
            return None;
        }
        readers.push(seen.uid);
        (readers.len() > 1).then_some(Finding {
            kind: FindingKind::NewReader,
            uid: seen.uid,
            id: Some(id),
            count: 1,
            seconds: 0,
        })
    }

    fn denial_burst(&mut self, seen: &Observation, times: u64) -> Option<Finding> {
        let threshold = self.thresholds.denials;
        if threshold.count == 0 {
            return None;
        }
        let window = self.denied.entry(seen.uid);
        let count = window.add(seen.at_ms, times, threshold)?;
        Some(Finding {
            kind: FindingKind::DenialBurst,
            uid: seen.uid,
            id: None,
            count,
            seconds: threshold.seconds,
        })
    }

    fn bulk_read(&mut self, seen: &Observation, id: u64) -> Option<Finding> {
        let threshold = self.thresholds.bulk;
        if threshold.count == 0 {
            return None;
        }
        let window = self.reading.entry(seen.uid);
        let count = window.add(seen.at_ms, id, threshold)?;
        Some(Finding {
            kind: FindingKind::BulkRead,
            uid: seen.uid,
            id: None,
            count,
            seconds: threshold.seconds,
        })
    }
}

#[cfg(test)]
mod tests;

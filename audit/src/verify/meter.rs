//! The progress of a verification, told while it runs.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::read::{segment_numbers, segment_path};

/// Progress of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Bytes of the log that are checked.
    pub done: u64,
    /// Bytes of the log in all.
    pub total: u64,
}

/// Tells of the progress, but not too often.
pub(super) struct ProgressMeter<'a> {
    total: u64,
    told: Instant,
    tell: &'a mut dyn FnMut(VerifyProgress),
}

impl<'a> ProgressMeter<'a> {
    /// Least time from one call of `tell` to the next.
    const INTERVAL: Duration = Duration::from_millis(100);

    pub(super) fn new(dir: &Path, tell: &'a mut dyn FnMut(VerifyProgress)) -> Self {
        Self {
            total: log_bytes(dir),
            told: Instant::now(),
            tell,
        }
    }

    pub(super) fn show(&mut self, done: u64) {
        // The log may have grown meanwhile.
        self.total = self.total.max(done);
        if self.told.elapsed() >= Self::INTERVAL {
            self.told = Instant::now();
            let total = self.total;
            (self.tell)(VerifyProgress { done, total });
        }
    }

    pub(super) fn finish(self) {
        let (done, total) = (self.total, self.total);
        (self.tell)(VerifyProgress { done, total });
    }
}

/// Length of the log's files. What can't be read counts as nothing here, and fails where
/// it is read.
fn log_bytes(dir: &Path) -> u64 {
    let numbers = segment_numbers(dir).unwrap_or_default().into_iter();
    let files = numbers.filter_map(|number| segment_path(dir, number).metadata().ok());
    files.map(|file| file.len()).sum()
}

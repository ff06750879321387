//! When an epoch ends, and when a segment.

use std::time::{Duration, Instant};

use super::chain::Position;

/// End of an epoch: whichever is reached first.
#[derive(Clone, Copy)]
pub(crate) struct EpochLimits {
    /// Records that one key vouches for.
    pub(crate) records: u64,
    /// Age of the key, also without a record.
    pub(crate) age: Duration,
}

impl EpochLimits {
    pub(super) const DEFAULT: Self = Self {
        records: 4096,
        age: Duration::from_secs(300),
    };

    pub(super) fn are_reached(self, head: &Position) -> bool {
        head.of_epoch >= self.records || head.epoch.began.elapsed() >= self.age
    }
}

/// End of a segment: whichever is reached first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentLimits {
    /// Length of the segment in bytes.
    pub bytes: u64,
    /// Time since the segment's first record.
    pub age: Duration,
}

impl SegmentLimits {
    pub(super) fn are_reached(self, bytes: u64, began: Instant) -> bool {
        bytes >= self.bytes || began.elapsed() >= self.age
    }
}

impl Default for SegmentLimits {
    fn default() -> Self {
        Self {
            bytes: 64 * 1024 * 1024,
            age: Duration::from_secs(24 * 3600),
        }
    }
}

//! Events of one uid within a window of time.

use std::collections::HashMap;

use super::threshold::Threshold;

/// Denials of one uid.
#[derive(Default)]
pub(super) struct DenialWindow {
    /// Time of the last finding; until the window after it is over, nothing counts.
    told_ms: Option<i64>,
    /// Times and numbers of denials; fewer entries than the threshold, for each stands for
    /// at least one.
    pub(super) recent: Vec<(i64, u64)>,
}

impl DenialWindow {
    /// Adds `times` denials; gives how many there are once that is suspicious.
    pub(super) fn add(&mut self, now_ms: i64, times: u64, threshold: Threshold) -> Option<u64> {
        if self.told_ms.is_some_and(|at| threshold.spans(at, now_ms)) {
            return None;
        }
        self.recent.retain(|(at, _)| threshold.spans(*at, now_ms));
        self.recent.push((now_ms, times));
        let total = self
            .recent
            .iter()
            .fold(0_u64, |sum, (_, times)| sum.saturating_add(*times));
        if total < u64::from(threshold.count) {
            return None;
        }
        *self = Self {
            told_ms: Some(now_ms),
            ..Self::default()
        };
        Some(total)
    }
}

/// Reads of one uid.
#[derive(Default)]
pub(super) struct ReadWindow {
    /// Time of the last finding, as in [`DenialWindow`].
    told_ms: Option<i64>,
    /// Time of the last read of each secret; never more than the threshold.
    pub(super) secrets: HashMap<u64, i64>,
}

impl ReadWindow {
    /// Adds a read of secret `id`; gives how many secrets there are once that is
    /// suspicious.
    pub(super) fn add(&mut self, now_ms: i64, id: u64, threshold: Threshold) -> Option<u64> {
        if self.told_ms.is_some_and(|at| threshold.spans(at, now_ms)) {
            return None;
        }
        self.secrets.insert(id, now_ms);
        let enough = usize::try_from(threshold.count).unwrap_or(usize::MAX);
        if self.secrets.len() < enough {
            return None;
        }
        // Old ones are looked for only when there could be enough new ones.
        self.secrets.retain(|_, at| threshold.spans(*at, now_ms));
        let total = self.secrets.len();
        if total < enough {
            return None;
        }
        *self = Self {
            told_ms: Some(now_ms),
            ..Self::default()
        };
        Some(total as u64)
    }
}

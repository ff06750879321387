//! Counts of what each account has open.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Refusals of one kind to one account closer together than this are one burst.
const BURST: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Counts {
    pub(super) open: usize,
    pub(super) by_account: HashMap<u32, AccountCounts>,
}

#[derive(Default)]
pub(super) struct AccountCounts {
    pub(super) open: u32,
    pub(super) pending: u32,
    /// When a refusal was last seen, and how many since the last report.
    refused: Option<(Instant, u64)>,
}

impl Counts {
    /// Applies `change` to the counts of `account`, and forgets one without any.
    pub(super) fn release(&mut self, account: u32, change: impl FnOnce(&mut AccountCounts)) {
        if let Some(own) = self.by_account.get_mut(&account) {
            change(own);
            let recent = own.refused.is_some_and(|(at, _)| at.elapsed() < BURST);
            if own.open == 0 && own.pending == 0 && !recent {
                self.by_account.remove(&account);
            }
        }
    }
}

impl AccountCounts {
    /// The first refusal of a burst is reported, with those the last burst hid.
    pub(super) fn refuse(&mut self, now: Instant) -> Option<u64> {
        let (last, hidden) = self.refused.map_or((None, 0), |(at, n)| (Some(at), n));
        if last.is_some_and(|at| now.duration_since(at) < BURST) {
            self.refused = Some((now, hidden + 1));
            return None;
        }
        self.refused = Some((now, 0));
        Some(hidden + 1)
    }
}

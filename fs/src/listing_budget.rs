//! Budgets of listings: how much work one request may do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::account_shares::{AccountShare, AccountShares};

/// Most entries looked at in one request: as many as a page of 4 KiB holds.
const ENTRIES: u32 = 128;
const TIME: Duration = Duration::from_micros(500);
/// Entries looked at while another listing of the same account runs.
const FEW_ENTRIES: u32 = 8;

/// Work that one request may do on a listing.
pub struct ListingBudget {
    entries: u32,
    until: Instant,
}

impl ListingBudget {
    fn new(entries: u32) -> Self {
        Self {
            entries,
            until: Instant::now() + TIME,
        }
    }

    /// Takes an entry that was looked at off the budget; gives whether anything is left.
    /// The first entry is always there: a listing goes on.
    #[must_use]
    pub fn spend(&mut self) -> bool {
        self.entries = self.entries.saturating_sub(1);
        self.entries > 0 && Instant::now() < self.until
    }
}

/// End of a piece of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListingEnd {
    /// The directory has no more, or the visitor did not want more.
    Done,
    /// The budget is used up: more may come after this inode.
    Spent(u64),
}

/// Listings at work, by account.
#[derive(Default)]
pub(crate) struct Listings(Arc<AccountShares>);

/// A listing at work, until dropped.
pub(crate) struct RunningListing {
    _share: Option<AccountShare>,
    pub(crate) budget: ListingBudget,
}

impl Listings {
    /// Counts a listing of `account` that is about to run.
    pub(crate) fn begin(&self, account: u32) -> RunningListing {
        let mut running = 0;
        let share = self.0.take(account, 1, |held| {
            running = held.own;
            true
        });
        let entries = if running == 1 { ENTRIES } else { FEW_ENTRIES };
        RunningListing {
            _share: share,
            budget: ListingBudget::new(entries),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_has_an_entry_and_an_end() {
        let mut few = ListingBudget::new(2);
        few.until = Instant::now() + Duration::from_secs(60);
        assert!(few.spend());
        assert!(!few.spend());
        let mut late = ListingBudget::new(ENTRIES);
        late.until = Instant::now();
        assert!(!late.spend());
    }

    #[test]
    fn an_account_has_one_listing_at_full_pace() {
        let listings = Listings::default();
        let first = listings.begin(7);
        assert_eq!(first.budget.entries, ENTRIES);
        assert_eq!(listings.begin(7).budget.entries, FEW_ENTRIES);
        assert_eq!(listings.begin(8).budget.entries, ENTRIES);
        drop(first);
        assert_eq!(listings.begin(7).budget.entries, ENTRIES);
    }
}

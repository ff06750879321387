//! Shares of what all accounts use together.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Amounts held, by account ([`crate::Caller::account`]); who holds nothing is not in it.
#[derive(Default)]
pub(crate) struct AccountShares(Mutex<HashMap<u32, usize>>);

/// Amount that an account holds, until dropped.
pub(crate) struct AccountShare {
    shares: Arc<AccountShares>,
    account: u32,
    amount: usize,
}

/// Amounts held, counted with one that is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeldAmounts {
    /// Those of the account.
    pub(crate) own: usize,
    /// Those of all.
    pub(crate) all: usize,
}

impl AccountShares {
    /// Takes `amount` for `account` if that `fits`.
    pub(crate) fn take(
        self: &Arc<Self>,
        account: u32,
        amount: usize,
        fits: impl FnOnce(HeldAmounts) -> bool,
    ) -> Option<AccountShare> {
        let mut held = self.0.lock();
        let own = held.get(&account).copied().unwrap_or_default();
        let all: usize = held.values().sum();
        let own = own.saturating_add(amount);
        let all = all.saturating_add(amount);
        if !fits(HeldAmounts { own, all }) {
            return None;
        }
        if amount > 0 {
            held.insert(account, own);
        }
        drop(held);
        let shares = self.clone();
        Some(AccountShare {
            shares,
            account,
            amount,
        })
    }
}

impl Drop for AccountShare {
    fn drop(&mut self) {
        let mut held = self.shares.0.lock();
        if let Some(own) = held.get_mut(&self.account) {
            *own -= self.amount;
            if *own == 0 {
                held.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_account_takes_is_counted_until_it_is_given_back() {
        let shares = Arc::new(AccountShares::default());
        let at_most = |most: usize| move |held: HeldAmounts| held.own <= most && held.all <= 9;
        let first = shares.take(7, 5, at_most(5)).unwrap();
        assert!(shares.take(7, 1, at_most(5)).is_none());
        assert!(shares.take(8, 5, at_most(5)).is_none(), "all of it");
        let second = shares.take(8, 4, at_most(5)).unwrap();
        drop(first);
        drop(shares.take(7, 5, at_most(5)).unwrap());
        drop(
            shares
                .take(7, 0, |held| held == HeldAmounts { own: 0, all: 4 })
                .unwrap(),
        );
        drop(second);
        assert!(shares.0.lock().is_empty());
    }
}

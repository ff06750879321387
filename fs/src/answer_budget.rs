//! Budget of the answers that control handles hold: memory that is locked, and stays until
//! the handle asks again or is closed.

use std::sync::Arc;

use crate::account_shares::{AccountShare, AccountShares};

/// Answers up to this length are in no budget: the number of handles bounds them.
const SMALL: usize = 4096;
/// Bytes for the answers of one account, and of all.
const EACH: usize = 32 * 1024 * 1024;
const ALL: usize = 128 * 1024 * 1024;

/// Bytes held, by account.
#[derive(Default)]
pub(crate) struct AnswerBudget(Arc<AccountShares>);

impl AnswerBudget {
    /// Takes room for an answer of `len` bytes to `account`, if there is any.
    pub(crate) fn take(&self, account: u32, len: usize) -> Option<AccountShare> {
        let len = if len > SMALL { len } else { 0 };
        self.0.take(account, len, |held| {
            len == 0 || held.own <= EACH && held.all <= ALL
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_and_all_have_so_much_until_it_is_given_back() {
        let budget = AnswerBudget::default();
        let first = budget.take(7, EACH).unwrap();
        assert!(budget.take(7, SMALL + 1).is_none());
        assert!(
            budget.take(7, SMALL).is_some(),
            "what is small is not counted"
        );
        let others: Vec<_> = (8..11).map(|uid| budget.take(uid, EACH).unwrap()).collect();
        assert!(budget.take(11, SMALL + 1).is_none(), "all of it is taken");
        assert!(budget.take(11, SMALL).is_some());
        drop(first);
        assert!(budget.take(11, EACH).is_some());
        drop(others);
    }
}

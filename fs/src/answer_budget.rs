//! Budget of the answers that control handles hold: memory that is locked, and stays until
//! the handle asks again or is closed.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Answers up to this length are in no budget: the number of handles bounds them.
const SMALL: usize = 4096;
/// Bytes for the answers of one uid, and of all.
const EACH: usize = 32 * 1024 * 1024;
const ALL: usize = 128 * 1024 * 1024;

/// Bytes held, by uid.
#[derive(Default)]
pub(crate) struct AnswerBudget(Mutex<HashMap<u32, usize>>);

/// Room for an answer, until dropped.
pub(crate) struct AnswerRoom {
    budget: Arc<AnswerBudget>,
    uid: u32,
    len: usize,
}

impl AnswerBudget {
    /// Takes room for an answer of `len` bytes to `uid`, if there is any.
    pub(crate) fn take(self: &Arc<Self>, uid: u32, len: usize) -> Option<AnswerRoom> {
        let mut held = self.0.lock();
        let len = if len > SMALL { len } else { 0 };
        let own = held.get(&uid).copied().unwrap_or_default();
        let all: usize = held.values().sum();
        let fits = own.saturating_add(len) <= EACH && all.saturating_add(len) <= ALL;
        if len > 0 && !fits {
            return None;
        }
        if len > 0 {
            held.insert(uid, own + len);
        }
        drop(held);
        let budget = self.clone();
        Some(AnswerRoom { budget, uid, len })
    }
}

impl Drop for AnswerRoom {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        let mut held = self.budget.0.lock();
        if let Some(own) = held.get_mut(&self.uid) {
            *own -= self.len;
            if *own == 0 {
                held.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_and_all_have_so_much_until_it_is_given_back() {
        let budget = Arc::new(AnswerBudget::default());
        let first = budget.take(7, EACH).unwrap();
        assert!(budget.take(7, SMALL + 1).is_none());
        assert!(
            budget.take(7, SMALL).is_some(),
            "what is small is not counted"
        );
        let others: Vec<_> = (8..11).map(|uid| budget.take(uid, EACH).unwrap()).collect();
        assert!(budget.take(11, SMALL + 1).is_none(), "all of it is taken");
        drop(first);
        assert!(budget.take(11, EACH).is_some());
        drop(others);
        assert!(budget.0.lock().is_empty());
    }
}

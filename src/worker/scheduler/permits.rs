//! One hook at a time for each secret, and which rollbacks are owed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

/// Secrets whose hooks are at work, and failures after which a rollback is owed.
#[derive(Default)]
pub(super) struct RotationPermits(Mutex<PermitState>);

#[derive(Default)]
struct PermitState {
    working: HashSet<u64>,
    /// Why the rotation of a secret failed whose rollback waits for a runner.
    rollback_owed: HashMap<u64, String>,
}

/// The right to work on the rotation of one secret, until it is dropped.
pub(super) struct RotationPermit {
    permits: Arc<RotationPermits>,
    id: u64,
}

impl RotationPermits {
    /// Takes secret `id` for work, unless somebody has it.
    pub(super) fn take(permits: &Arc<Self>, id: u64) -> Option<RotationPermit> {
        let free = permits.0.lock().working.insert(id);
        free.then(|| RotationPermit {
            permits: permits.clone(),
            id,
        })
    }
}

impl RotationPermit {
    /// The failure after which a rollback is owed.
    pub(super) fn rollback_owed(&self) -> Option<String> {
        self.permits.0.lock().rollback_owed.get(&self.id).cloned()
    }

    /// Notes that a rollback is owed, and after which failure.
    pub(super) fn owe_rollback(&mut self, why: String) {
        self.permits.0.lock().rollback_owed.insert(self.id, why);
    }

    /// Notes that nothing is owed any more.
    pub(super) fn settled(&mut self) {
        self.permits.0.lock().rollback_owed.remove(&self.id);
    }
}

impl Drop for RotationPermit {
    fn drop(&mut self) {
        self.permits.0.lock().working.remove(&self.id);
    }
}

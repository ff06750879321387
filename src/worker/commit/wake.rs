//! Wakes the scheduler.

use std::mem;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A bell for one waiter: the scheduler's thread.
#[derive(Default)]
pub(crate) struct SchedulerWake {
    calls: Mutex<WakeCalls>,
    changed: Condvar,
}

/// Work for the scheduler.
#[derive(Default)]
pub(crate) struct WakeCalls {
    /// Look at all secrets.
    pub(crate) look: bool,
    /// Run the hooks of these secrets: their rotations were begun.
    pub(crate) begun: Vec<u64>,
}

impl SchedulerWake {
    /// Something may be due that was not.
    pub(crate) fn look(&self) {
        self.calls.lock().look = true;
        self.changed.notify_one();
    }

    /// A rotation of this secret was begun.
    pub(crate) fn begun(&self, id: u64) {
        self.calls.lock().begun.push(id);
        self.changed.notify_one();
    }

    /// Waits for a call, at most `limit`; after that all secrets are looked at.
    pub(crate) fn wait(&self, limit: Duration) -> WakeCalls {
        let mut calls = self.calls.lock();
        if !calls.look && calls.begun.is_empty() {
            calls.look |= self.changed.wait_for(&mut calls, limit).timed_out();
        }
        mem::take(&mut *calls)
    }
}

//! When records get the signature that follows ([`super::signing`]).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Time from a record to the signature that vouches for it: with what writing it takes, the
/// signature is there within 10 ms. Tests of other things count their records.
pub(super) const DELAY: Duration = Duration::from_millis(if cfg!(test) { 3_600_000 } else { 8 });
/// Time until a signature that could not be written is tried again.
pub(super) const AGAIN: Duration = Duration::from_millis(250);

/// Reasons for the signer to wake up. Without a lock: who writes a record never waits for the
/// signer, however long that is held up.
#[derive(Default)]
pub(super) struct SignerTurn {
    /// Records were written since the last turn.
    due: AtomicBool,
    stopping: AtomicBool,
    thread: OnceLock<Thread>,
}

/// Next deed of the signer.
pub(super) enum Turn {
    Sign,
    End,
    /// End, and have what was written go to the disk.
    EndDirty,
}

impl SignerTurn {
    /// Has the signer see to a record that was written and that nobody waits for.
    pub(super) fn note_record(&self) {
        if !self.due.load(Ordering::Relaxed) && !self.due.swap(true, Ordering::AcqRel) {
            self.wake();
        }
    }

    /// Ends the thread. What has no signature then is vouched for by the next start.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // One that has not begun looks before it sleeps.
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Waits, in the signer's thread, for records and then, `delay` after the first of them,
    /// for their turn.
    pub(super) fn await_turn(&self, delay: Duration) -> Turn {
        self.thread.get_or_init(thread::current);
        while !self.due.load(Ordering::Acquire) && !self.stopping() {
            thread::park();
        }
        let until = Instant::now() + delay;
        while !self.stopping() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::park_timeout(left);
        }
        match (self.stopping(), self.due.swap(false, Ordering::AcqRel)) {
            (false, _) => Turn::Sign,
            (true, true) => Turn::EndDirty,
            (true, false) => Turn::End,
        }
    }
}

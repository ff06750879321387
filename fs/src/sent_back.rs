//! Threads that were told ESTALE: they walk their path again.
//!
//! They are known to this process alone. A successor sends nobody back at first: somebody
//! may come to it from the one before.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::errno::FsError;

/// Time in which who was sent back comes back, by far: it does nothing else meanwhile.
const MEMORY: Duration = Duration::from_secs(10);
/// Time in which a successor sends nobody back.
const BEGINNING: Duration = Duration::from_secs(2);
/// Most threads that are sent back at a time; more are not.
const MAX_SENT_BACK: usize = 1024;

/// Threads that were told to walk their path again.
pub(crate) struct SentBack {
    /// Nobody is sent back before.
    from: Instant,
    threads: Mutex<HashMap<u32, Instant>>,
    /// How many these are, to be known without the lock.
    count: AtomicUsize,
}

impl SentBack {
    /// Of a process that may be a `successor`.
    pub(crate) fn new(successor: bool) -> Self {
        let beginning = if successor { BEGINNING } else { Duration::ZERO };
        Self {
            from: Instant::now() + beginning,
            threads: Mutex::default(),
            count: AtomicUsize::new(0),
        }
    }

    /// Whether thread `tid` was sent back, and comes from there.
    pub(crate) fn returns(&self, tid: u32) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut threads = self.threads.lock();
        let sent = threads.remove(&tid);
        self.count.store(threads.len(), Ordering::Relaxed);
        sent.is_some_and(|at| at.elapsed() < MEMORY)
    }

    /// Sends thread `tid` back, if that can be kept in mind.
    ///
    /// # Errors
    /// [`FsError::Conflict`]: walk again.
    pub(crate) fn send(&self, tid: u32) -> Result<(), FsError> {
        let now = Instant::now();
        let mut threads = self.threads.lock();
        if threads.len() >= MAX_SENT_BACK {
            threads.retain(|_, at| now.duration_since(*at) < MEMORY);
        }
        if now < self.from || threads.len() >= MAX_SENT_BACK {
            return Ok(());
        }
        threads.insert(tid, now);
        self.count.store(threads.len(), Ordering::Relaxed);
        Err(FsError::Conflict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Result<(), FsError> = Err(FsError::Conflict);

    #[test]
    fn a_thread_that_was_sent_back_returns_once() {
        let threads = SentBack::new(false);
        assert!(!threads.returns(7));
        assert_eq!(threads.send(7), SENT);
        assert!(!threads.returns(8));
        assert!(threads.returns(7));
        assert!(!threads.returns(7));
        let long_ago = Instant::now().checked_sub(MEMORY).unwrap();
        threads.send(7).unwrap_err();
        threads.threads.lock().insert(7, long_ago);
        assert!(!threads.returns(7));
    }

    #[test]
    fn a_successor_sends_nobody_back_at_first() {
        let threads = SentBack::new(true);
        assert_eq!(threads.send(7), Ok(()));
        let later = SentBack {
            from: Instant::now(),
            ..threads
        };
        assert_eq!(later.send(7), SENT);
    }

    #[test]
    fn many_threads_make_nobody_forgotten() {
        let threads = SentBack::new(false);
        let many = 0..u32::try_from(MAX_SENT_BACK).unwrap();
        assert!(many.clone().all(|tid| threads.send(tid) == SENT));
        assert_eq!(threads.send(u32::MAX), Ok(()));
        assert!(many.clone().all(|tid| threads.returns(tid)));
    }
}

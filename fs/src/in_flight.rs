//! Which requests are being served, so that somebody else can tell.
//!
//! The words outlive the process: its successor sees which requests were at
//! work when it crashed, and refuses the one that crashed three in a row. The
//! process itself sees which of its threads does not come back.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::errno::FsError;
use crate::unique::Unique;

/// Threads that can be watched; more share.
const SLOTS: usize = 96;
/// Suspects remembered; a new one takes the place of the least suspect.
const SUSPECTS: usize = 32;
/// Size of the table in 64-bit words: request and start of each thread, then
/// request and crashes of each suspect.
pub const IN_FLIGHT_WORDS: usize = 2 * (SLOTS + SUSPECTS);

/// A request that was at work in this many crashes is answered EIO.
const LIMIT: u64 = 3;

/// The watched threads of this process.
pub struct InFlight {
    words: Box<dyn AsRef<[AtomicU64]> + Send + Sync>,
    start: Instant,
    resent: AtomicU64,
}

/// While it lives, its thread is at work on a request.
pub(crate) struct InFlightGuard<'w>(&'w AtomicU64);

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

thread_local! {
    static SLOT: Cell<Option<usize>> = const { Cell::new(None) };
}

fn slot() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    SLOT.with(|slot| match slot.get() {
        Some(number) => number,
        None => {
            let number = NEXT.fetch_add(1, Ordering::Relaxed) % SLOTS;
            slot.set(Some(number));
            number
        }
    })
}

impl InFlight {
    /// Over `words`, as the process before left them; with `crashed`, what it
    /// was at work on becomes suspect.
    ///
    /// # Errors
    /// [`FsError::Invalid`] when there are not [`IN_FLIGHT_WORDS`] words.
    pub fn new(
        words: impl AsRef<[AtomicU64]> + Send + Sync + 'static,
        crashed: bool,
    ) -> Result<Self, FsError> {
        if words.as_ref().len() != IN_FLIGHT_WORDS {
            return Err(FsError::Invalid);
        }
        let watch = Self {
            words: Box::new(words),
            start: Instant::now(),
            resent: AtomicU64::new(0),
        };
        for slot in 0..SLOTS {
            let request = watch.word(2 * slot).swap(0, Ordering::AcqRel);
            if request != 0 && crashed {
                watch.suspect(request);
            }
        }
        Ok(watch)
    }

    /// Marks this thread as at work on request number `request`, which is never
    /// refused.
    pub(crate) fn track(&self, request: u64) -> InFlightGuard<'_> {
        let slot = slot();
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.word(2 * slot + 1).store(now, Ordering::Relaxed);
        let word = self.word(2 * slot);
        word.store(request, Ordering::Release);
        InFlightGuard(word)
    }

    /// Marks this thread as at work on `unique`.
    ///
    /// # Errors
    /// [`FsError::Io`] for a request that crashed three processes.
    pub(crate) fn admit(&self, unique: Unique) -> Result<InFlightGuard<'_>, FsError> {
        if unique.resent() {
            self.resent.fetch_add(1, Ordering::Relaxed);
            if self.crashes(unique.request()) >= LIMIT {
                return Err(FsError::Io);
            }
        }
        Ok(self.track(unique.request()))
    }

    /// For how long the slowest thread has been at work on its request.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let busy = |&slot: &usize| self.word(2 * slot).load(Ordering::Acquire) != 0;
        let since = |slot: usize| self.word(2 * slot + 1).load(Ordering::Relaxed);
        let oldest = (0..SLOTS).filter(busy).map(since).min();
        oldest.map_or(Duration::ZERO, |since| {
            self.start
                .elapsed()
                .saturating_sub(Duration::from_millis(since))
        })
    }

    /// Requests so far that the kernel sent again.
    #[must_use]
    pub fn resent(&self) -> u64 {
        self.resent.load(Ordering::Relaxed)
    }

    fn crashes(&self, request: u64) -> u64 {
        let mut suspects = (0..SUSPECTS).map(|n| SLOTS + n);
        let found = suspects.find(|at| self.word(2 * at).load(Ordering::Acquire) == request);
        found.map_or(0, |at| self.word(2 * at + 1).load(Ordering::Acquire))
    }

    fn suspect(&self, request: u64) {
        let crashes = self.crashes(request);
        let load = |at: &usize| self.word(2 * at + 1).load(Ordering::Acquire);
        let is = |at: &usize| self.word(2 * at).load(Ordering::Acquire) == request;
        let mut suspects = SLOTS..SLOTS + SUSPECTS;
        let place = suspects
            .clone()
            .find(is)
            .or_else(|| suspects.by_ref().min_by_key(load));
        if let Some(at) = place {
            self.word(2 * at).store(request, Ordering::Release);
            self.word(2 * at + 1).store(crashes + 1, Ordering::Release);
        }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        // `new` checked the length; indices are below it.
        #[expect(clippy::indexing_slicing)]
        &(*self.words).as_ref()[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    struct Words(Arc<Vec<AtomicU64>>);

    impl AsRef<[AtomicU64]> for Words {
        fn as_ref(&self) -> &[AtomicU64] {
            &self.0
        }
    }

    fn words() -> Arc<Vec<AtomicU64>> {
        Arc::new((0..IN_FLIGHT_WORDS).map(|_| AtomicU64::new(0)).collect())
    }

    fn watch(words: &Arc<Vec<AtomicU64>>, crashed: bool) -> InFlight {
        InFlight::new(Words(words.clone()), crashed).unwrap()
    }

    fn again(request: u64) -> Unique {
        Unique::new(request | 1 << 63)
    }

    #[test]
    fn a_request_that_crashes_three_processes_is_refused() {
        let words = words();
        for _ in 0..3 {
            let watch = watch(&words, true);
            assert!(watch.admit(again(6)).is_ok());
            std::mem::forget(watch.admit(again(8)).unwrap());
        }
        let last = watch(&words, true);
        assert_eq!(last.admit(again(8)).err(), Some(FsError::Io));
        assert!(last.admit(again(6)).is_ok());
        assert!(
            last.admit(Unique::new(8)).is_ok(),
            "a new mount counts anew"
        );
        assert_eq!(last.resent(), 2);
    }

    #[test]
    fn who_was_killed_from_outside_is_no_suspect() {
        let words = words();
        for _ in 0..5 {
            std::mem::forget(watch(&words, false).admit(Unique::new(8)).unwrap());
        }
        assert!(watch(&words, false).admit(again(8)).is_ok());
    }

    #[test]
    fn the_longest_request_shows() {
        let watch = watch(&words(), false);
        assert_eq!(watch.longest(), Duration::ZERO);
        let busy = watch.admit(Unique::new(2)).unwrap();
        while watch.longest() < Duration::from_millis(3) {
            std::hint::spin_loop();
        }
        drop(busy);
        assert_eq!(watch.longest(), Duration::ZERO);
    }
}

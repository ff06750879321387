//! Requests being served, noted where another process can see them.
//!
//! The table outlives the process: its successor sees which requests were at
//! work when it crashed, and refuses the one that crashed three in a row. The
//! process itself sees which of its threads does not come back.
//!
//! A table is pairs of 64-bit words, first one for each thread (request, since
//! when), then one for each suspect (request, crashes).

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::errno::FsError;
use crate::unique::Unique;

/// Threads that have a pair of their own; more share.
const THREADS: usize = 96;
/// Suspects remembered; a new one takes the place of the least suspect.
const SUSPECTS: usize = 32;
/// Words of a pair.
const PAIR: usize = 2;
/// Size of the table in 64-bit words.
pub const IN_FLIGHT_WORDS: usize = PAIR * (THREADS + SUSPECTS);

/// Crashes that a request may be at work in before it is answered EIO.
const MAX_CRASHES: u64 = 3;

/// Requests that the threads of this process are at work on.
pub struct InFlight {
    words: Box<dyn AsRef<[AtomicU64]> + Send + Sync>,
    start: Instant,
    resent: AtomicU64,
    served_before: bool,
}

/// A thread's pair.
struct ThreadSlot<'w> {
    /// The request that the thread is at work on; 0 for none.
    request: &'w AtomicU64,
    /// Milliseconds from the start of this process until it began.
    since_ms: &'w AtomicU64,
}

impl<'w> ThreadSlot<'w> {
    fn of([request, since_ms]: &'w [AtomicU64; PAIR]) -> Self {
        Self { request, since_ms }
    }

    /// Enters a request. Its time is stored before it: who sees the request must
    /// not take the time of the one before for its own.
    fn enter(self, request: u64, since_ms: u64) -> InFlightGuard<'w> {
        self.since_ms.store(since_ms, Ordering::Relaxed);
        self.request.store(request, Ordering::Release);
        InFlightGuard(self.request)
    }

    /// The time of the request at work, if there is one.
    fn busy_since_ms(&self) -> Option<u64> {
        let busy = self.request.load(Ordering::Acquire) != 0;
        busy.then(|| self.since_ms.load(Ordering::Relaxed))
    }
}

/// A suspect's pair.
struct SuspectSlot<'w> {
    /// The request that was at work in crashes; 0 in a free pair.
    request: &'w AtomicU64,
    crashes: &'w AtomicU64,
}

impl<'w> SuspectSlot<'w> {
    fn of([request, crashes]: &'w [AtomicU64; PAIR]) -> Self {
        Self { request, crashes }
    }

    fn is(&self, request: u64) -> bool {
        self.request.load(Ordering::Acquire) == request
    }

    fn crashes(&self) -> u64 {
        self.crashes.load(Ordering::Acquire)
    }

    fn set(&self, request: u64, crashes: u64) {
        self.request.store(request, Ordering::Release);
        self.crashes.store(crashes, Ordering::Release);
    }
}

/// A thread at work on a request, until dropped.
pub(crate) struct InFlightGuard<'w>(&'w AtomicU64);

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

/// The number of this thread's pair. Threads that share one overwrite each
/// other's request: some of them are then not seen, and none is accused wrongly.
fn thread_index() -> usize {
    thread_local! {
        static INDEX: Cell<Option<usize>> = const { Cell::new(None) };
    }
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    INDEX.with(|index| match index.get() {
        Some(number) => number,
        None => {
            let number = NEXT.fetch_add(1, Ordering::Relaxed) % THREADS;
            index.set(Some(number));
            number
        }
    })
}

impl InFlight {
    /// A table over `words`, as the process before left them; with `crashed`,
    /// the requests that it was at work on become suspect.
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
        let served_before = words
            .as_ref()
            .iter()
            .any(|w| w.load(Ordering::Relaxed) != 0);
        let table = Self {
            served_before,
            words: Box::new(words),
            start: Instant::now(),
            resent: AtomicU64::new(0),
        };
        for thread in table.threads() {
            let request = thread.request.swap(0, Ordering::AcqRel);
            if request != 0 && crashed {
                table.count_crash(request);
            }
        }
        Ok(table)
    }

    /// Marks this thread as at work on request number `request`, which is never
    /// refused.
    pub(crate) fn track(&self, request: u64) -> InFlightGuard<'_> {
        self.own_thread().enter(request, self.now_ms())
    }

    /// Marks this thread as at work on `unique`.
    ///
    /// # Errors
    /// [`FsError::Io`] for a request that crashed three processes.
    pub(crate) fn admit(&self, unique: Unique) -> Result<InFlightGuard<'_>, FsError> {
        // Only a request that others had before can have crashed anybody; for the
        // others the suspects are not searched.
        if unique.resent() {
            self.resent.fetch_add(1, Ordering::Relaxed);
            if self.crashes(unique.request()) >= MAX_CRASHES {
                return Err(FsError::Io);
            }
        }
        Ok(self.track(unique.request()))
    }

    /// Notes that this thread gets on with its request: it is not stuck.
    pub fn note_progress(&self) {
        let thread = self.own_thread();
        if thread.busy_since_ms().is_some() {
            thread.since_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether another process served this mount before.
    pub(crate) fn served_before(&self) -> bool {
        self.served_before
    }

    /// For how long the slowest thread has been at work on its request.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let oldest = self.threads().filter_map(|thread| thread.busy_since_ms());
        oldest.min().map_or(Duration::ZERO, |since_ms| {
            self.start
                .elapsed()
                .saturating_sub(Duration::from_millis(since_ms))
        })
    }

    /// Requests so far that earlier processes had left.
    #[must_use]
    pub fn resent(&self) -> u64 {
        self.resent.load(Ordering::Relaxed)
    }

    /// Crashes in which `request` was at work.
    fn crashes(&self, request: u64) -> u64 {
        let mut suspects = self.suspects();
        let found = suspects.find(|suspect| suspect.is(request));
        found.map_or(0, |suspect| suspect.crashes())
    }

    /// Counts a crash in which `request` was at work.
    fn count_crash(&self, request: u64) {
        let known = self.suspects().find(|suspect| suspect.is(request));
        if let Some(suspect) = known {
            suspect.set(request, suspect.crashes() + 1);
        } else if let Some(least) = self.suspects().min_by_key(SuspectSlot::crashes) {
            least.set(request, 1);
        }
    }

    fn own_thread(&self) -> ThreadSlot<'_> {
        // `new` checked the length, of which `thread_index` stays below.
        #[expect(clippy::indexing_slicing)]
        ThreadSlot::of(&self.pairs()[thread_index()])
    }

    fn threads(&self) -> impl Iterator<Item = ThreadSlot<'_>> {
        self.pairs().iter().take(THREADS).map(ThreadSlot::of)
    }

    fn suspects(&self) -> impl Iterator<Item = SuspectSlot<'_>> {
        self.pairs().iter().skip(THREADS).map(SuspectSlot::of)
    }

    fn pairs(&self) -> &[[AtomicU64; PAIR]] {
        (*self.words).as_ref().as_chunks().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Words;

    fn words() -> Words {
        Words::zeroed(IN_FLIGHT_WORDS)
    }

    fn table(words: &Words, crashed: bool) -> InFlight {
        InFlight::new(words.clone(), crashed).unwrap()
    }

    fn again(request: u64) -> Unique {
        Unique::new(request).again()
    }

    #[test]
    fn a_request_that_crashes_three_processes_is_refused() {
        let words = words();
        for _ in 0..3 {
            let table = table(&words, true);
            assert!(table.admit(again(6)).is_ok());
            std::mem::forget(table.admit(again(8)).unwrap());
        }
        let last = table(&words, true);
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
            std::mem::forget(table(&words, false).admit(Unique::new(8)).unwrap());
        }
        assert!(table(&words, false).admit(again(8)).is_ok());
    }

    #[test]
    fn another_release_finds_every_word_in_its_place() {
        let words = words();
        let table = table(&words, false);
        let word = |index: usize| &words.as_ref()[index];
        let _guard = table.admit(Unique::new(6)).unwrap();
        let entered = (0..THREADS).filter(|thread| word(2 * thread).load(Ordering::Relaxed) == 6);
        assert_eq!(entered.count(), 1);
        word(192).store(8, Ordering::Relaxed);
        word(193).store(3, Ordering::Relaxed);
        assert_eq!(table.admit(again(8)).err(), Some(FsError::Io));
    }

    #[test]
    fn the_longest_request_shows() {
        let table = table(&words(), false);
        assert_eq!(table.longest(), Duration::ZERO);
        let guard = table.admit(Unique::new(2)).unwrap();
        while table.longest() < Duration::from_millis(3) {
            std::hint::spin_loop();
        }
        let before = table.longest();
        table.note_progress();
        assert!(table.longest() < before, "it gets on");
        drop(guard);
        table.note_progress();
        assert_eq!(table.longest(), Duration::ZERO);
    }
}

//! What is open: one table in memory that may outlive the process.
//!
//! A slot has four words: handle, inode, version and flags, opener's uid. A
//! handle is the `unique` of its OPEN request without bit 63, so that a resent
//! OPEN finds its own slot. Slots are published and removed by a single store
//! of the first word: another process that maps the table after a crash at any
//! instruction sees whole slots only. There is no plaintext in it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::errno::FsError;

const SLOT_WORDS: usize = 4;
const SLOTS: usize = 1 << 15;
/// Linear probing degrades when full; beyond this the table refuses.
const MOST: usize = SLOTS / 4 * 3;
/// Size of the table in 64-bit words (1 MiB).
pub const HANDLE_WORDS: usize = SLOTS * SLOT_WORDS;

const EMPTY: u64 = 0;
const REMOVED: u64 = u64::MAX;

/// Set once the audit record of the open is written.
const RECORDED: u64 = 1 << 32;
/// The handle is the control file's.
const CONTROL: u64 = 1 << 33;

/// Refusals of one kind to one uid closer together than this are one burst.
const BURST: Duration = Duration::from_secs(10);

/// What was read may be in the page cache.
const CACHED: u64 = 1 << 34;

/// Bounds on what one uid may hold.
#[derive(Clone, Copy, Debug)]
pub struct HandleLimits {
    /// Open handles.
    pub handles: u32,
    /// Opens being served.
    pub pending: u32,
}

/// One open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenFile {
    pub(crate) ino: u64,
    pub(crate) version: u32,
    pub(crate) uid: u32,
    pub(crate) control: bool,
    pub(crate) cached: bool,
}

/// The table, and counts a uid derived from it.
pub struct HandleTable {
    words: Box<dyn AsRef<[AtomicU64]> + Send + Sync>,
    limits: HandleLimits,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    used: usize,
    owners: HashMap<u32, Owner>,
}

#[derive(Default)]
struct Owner {
    open: u32,
    pending: u32,
    /// When a refusal was last seen, and how many since the last report.
    refused: Option<(Instant, u64)>,
}

/// A refused open; `report` says how many refusals to record now, if any.
pub(crate) struct Refused {
    pub(crate) error: FsError,
    pub(crate) report: Option<u64>,
}

impl HandleTable {
    /// A table over `words` ([`HANDLE_WORDS`] of them, zero or as another process left them).
    ///
    /// # Errors
    /// [`FsError::Invalid`] when there are not [`HANDLE_WORDS`] words.
    pub fn new(
        words: impl AsRef<[AtomicU64]> + Send + Sync + 'static,
        limits: HandleLimits,
    ) -> Result<Self, FsError> {
        if words.as_ref().len() != HANDLE_WORDS {
            return Err(FsError::Invalid);
        }
        let table = Self {
            words: Box::new(words),
            limits,
            inner: Mutex::default(),
        };
        table.recount();
        Ok(table)
    }

    fn recount(&self) {
        let mut inner = self.inner.lock();
        for slot in 0..SLOTS {
            if let Some(file) = self.file(slot) {
                inner.used += 1;
                inner.owners.entry(file.uid).or_default().open += 1;
            }
        }
    }

    /// Counts an OPEN that is about to be decided.
    pub(crate) fn begin(&self, uid: u32) -> Result<Pending<'_>, Refused> {
        let mut inner = self.inner.lock();
        let full = inner.used >= MOST;
        let owner = inner.owners.entry(uid).or_default();
        let over = owner.open + owner.pending >= self.limits.handles
            || owner.pending >= self.limits.pending;
        if !full && !over {
            owner.pending += 1;
            return Ok(Pending { table: self, uid });
        }
        let error = if full {
            FsError::TableFull
        } else {
            FsError::TooManyHandles
        };
        Err(Refused {
            error,
            report: owner.refuse(Instant::now()),
        })
    }

    /// Enters an open file under `handle`; again is the same as once.
    pub(crate) fn insert(&self, handle: u64, file: OpenFile) -> Result<(), FsError> {
        let mut inner = self.inner.lock();
        let (slot, fresh) = self.place(handle)?;
        let flag = |set, flag| if set { flag } else { 0 };
        let flags =
            flag(file.control, CONTROL) | flag(!file.control, RECORDED) | flag(file.cached, CACHED);
        let word = |index: usize| self.word(slot, index);
        word(1).store(file.ino, Ordering::Relaxed);
        word(2).store(u64::from(file.version) | flags, Ordering::Relaxed);
        word(3).store(u64::from(file.uid), Ordering::Relaxed);
        word(0).store(handle, Ordering::Release);
        if fresh {
            inner.used += 1;
            inner.owners.entry(file.uid).or_default().open += 1;
        }
        Ok(())
    }

    pub(crate) fn get(&self, handle: u64) -> Option<OpenFile> {
        let _guard = self.inner.lock();
        self.file(self.find(handle)?)
    }

    /// Whether `handle` is open.
    #[must_use]
    pub fn is_open(&self, handle: u64) -> bool {
        self.get(handle).is_some()
    }

    pub(crate) fn remove(&self, handle: u64) -> Option<OpenFile> {
        let mut inner = self.inner.lock();
        let slot = self.find(handle)?;
        let file = self.file(slot)?;
        self.word(slot, 0).store(REMOVED, Ordering::Release);
        self.sweep(slot);
        inner.used -= 1;
        inner.release(file.uid, |owner| owner.open -= 1);
        Some(file)
    }

    /// Whether an open handle still needs `version` of `ino`.
    #[must_use]
    pub fn pins(&self, ino: u64, version: u32) -> bool {
        self.versions().any(|open| open == (ino, version))
    }

    /// The inode and version of every open secret.
    pub fn versions(&self) -> impl Iterator<Item = (u64, u32)> {
        (0..SLOTS)
            .filter_map(|slot| self.file(slot))
            .filter(|file| !file.control)
            .map(|file| (file.ino, file.version))
    }

    /// Handles open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.inner.lock().used
    }

    /// Removed slots in front of an empty one end no probe: make them empty.
    fn sweep(&self, slot: usize) {
        let mut slot = slot;
        while self.key(next(slot)) == EMPTY && self.key(slot) == REMOVED {
            self.word(slot, 0).store(EMPTY, Ordering::Release);
            slot = slot.checked_sub(1).unwrap_or(SLOTS - 1);
        }
    }

    fn find(&self, handle: u64) -> Option<usize> {
        probe(handle)
            .take_while(|&slot| self.key(slot) != EMPTY)
            .find(|&slot| self.key(slot) == handle)
    }

    /// The slot for `handle`, and whether it is a new one.
    fn place(&self, handle: u64) -> Result<(usize, bool), FsError> {
        if let Some(slot) = self.find(handle) {
            return Ok((slot, false));
        }
        probe(handle)
            .find(|&slot| matches!(self.key(slot), EMPTY | REMOVED))
            .map(|slot| (slot, true))
            .ok_or(FsError::TableFull)
    }

    fn file(&self, slot: usize) -> Option<OpenFile> {
        if matches!(self.key(slot), EMPTY | REMOVED) {
            return None;
        }
        let load = |index| self.word(slot, index).load(Ordering::Relaxed);
        let state = load(2);
        Some(OpenFile {
            ino: load(1),
            version: low_half(state),
            uid: low_half(load(3)),
            control: state & CONTROL != 0,
            cached: state & CACHED != 0,
        })
    }

    fn key(&self, slot: usize) -> u64 {
        self.word(slot, 0).load(Ordering::Acquire)
    }

    fn word(&self, slot: usize, index: usize) -> &AtomicU64 {
        // `new` checked the length; slots come from `probe`, indices are below 4.
        #[expect(clippy::indexing_slicing)]
        &(*self.words).as_ref()[slot * SLOT_WORDS + index]
    }
}

fn next(slot: usize) -> usize {
    (slot + 1) % SLOTS
}

fn low_half(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default()
}

/// Slots to look at for `handle`, each once: multiplicative hash, then linear.
fn probe(handle: u64) -> impl Iterator<Item = usize> {
    let hash = handle.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - SLOTS.ilog2());
    let start = usize::try_from(hash).unwrap_or_default();
    (0..SLOTS).map(move |step| (start + step) % SLOTS)
}

impl Inner {
    fn release(&mut self, uid: u32, change: impl FnOnce(&mut Owner)) {
        if let Some(owner) = self.owners.get_mut(&uid) {
            change(owner);
            let recent = owner.refused.is_some_and(|(at, _)| at.elapsed() < BURST);
            if owner.open == 0 && owner.pending == 0 && !recent {
                self.owners.remove(&uid);
            }
        }
    }
}

impl Owner {
    /// The first refusal of a burst is reported, with those the last burst hid.
    fn refuse(&mut self, now: Instant) -> Option<u64> {
        let (last, hidden) = self.refused.map_or((None, 0), |(at, n)| (Some(at), n));
        if last.is_some_and(|at| now.duration_since(at) < BURST) {
            self.refused = Some((now, hidden + 1));
            return None;
        }
        self.refused = Some((now, 0));
        Some(hidden + 1)
    }
}

/// An OPEN being decided; counts until dropped.
pub(crate) struct Pending<'t> {
    table: &'t HandleTable,
    uid: u32,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut inner = self.table.inner.lock();
        inner.release(self.uid, |owner| owner.pending -= 1);
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
        Arc::new((0..HANDLE_WORDS).map(|_| AtomicU64::new(0)).collect())
    }

    fn table(words: &Arc<Vec<AtomicU64>>, handles: u32, pending: u32) -> HandleTable {
        HandleTable::new(Words(words.clone()), HandleLimits { handles, pending }).unwrap()
    }

    fn file(ino: u64, uid: u32) -> OpenFile {
        OpenFile {
            ino,
            version: 3,
            uid,
            control: false,
            cached: false,
        }
    }

    #[test]
    fn keeps_files_apart() {
        let table = table(&words(), 10_000, 64);
        for handle in (2..6000).step_by(2) {
            table.insert(handle, file(handle * 7, 1)).unwrap();
        }
        for handle in (2..6000).step_by(4) {
            assert!(table.remove(handle).is_some());
        }
        for handle in (2..6000).step_by(2) {
            let expected = (handle % 4 == 0).then(|| file(handle * 7, 1));
            assert_eq!(table.get(handle), expected, "{handle}");
        }
        assert_eq!(table.open(), 1499);
    }

    #[test]
    fn a_resent_open_is_the_same_handle() {
        let table = table(&words(), 2, 64);
        table.insert(8, file(1, 1)).unwrap();
        table.insert(8, file(1, 1)).unwrap();
        assert_eq!(table.open(), 1);
        assert!(table.begin(1).is_ok());
    }

    #[test]
    fn another_process_finds_what_was_open() {
        let words = words();
        table(&words, 10, 64).insert(8, file(99, 5)).unwrap();
        let successor = table(&words, 1, 64);
        assert_eq!(successor.get(8), Some(file(99, 5)));
        assert!(successor.pins(99, 3) && !successor.pins(99, 2));
        assert!(successor.begin(5).is_err(), "the cap holds over the change");
    }

    #[test]
    fn caps_are_per_uid_and_reported_once_a_burst() {
        let table = table(&words(), 2, 64);
        table.insert(2, file(1, 7)).unwrap();
        table.insert(4, file(1, 7)).unwrap();
        let reports: Vec<_> = (0..5)
            .map(|_| table.begin(7).err().unwrap().report)
            .collect();
        assert_eq!(reports, [Some(1), None, None, None, None]);
        assert!(table.begin(8).is_ok());
        table.remove(2).unwrap();
        assert!(table.begin(7).is_ok());
    }

    #[test]
    fn pending_opens_are_capped() {
        let table = table(&words(), 100, 2);
        let first = table.begin(7);
        let second = table.begin(7);
        assert!(first.is_ok() && second.is_ok());
        assert!(matches!(table.begin(7), Err(r) if r.error == FsError::TooManyHandles));
        drop(first);
        assert!(table.begin(7).is_ok());
    }

    #[test]
    fn a_full_table_refuses_and_recovers() {
        let table = table(&words(), u32::MAX, 64);
        for handle in 1..=MOST as u64 {
            table.insert(handle * 2, file(1, 1)).unwrap();
        }
        assert!(matches!(table.begin(9), Err(r) if r.error == FsError::TableFull));
        for handle in 1..=MOST as u64 {
            table.remove(handle * 2).unwrap();
        }
        assert!(table.begin(9).is_ok());
        assert_eq!(table.open(), 0);
    }
}

//! Open files: one table in memory that may outlive the process.
//!
//! A handle is the number of its OPEN request, so that a resent OPEN finds its
//! own slot.
//!
//! Runs in: worker.
//! Touches: the handle table.
//! Imported by: adapter, control, filesystem, open_handles, stale_nodes.

mod counts;
mod slot;

use std::sync::atomic::AtomicU64;
use std::time::Instant;

use parking_lot::Mutex;

use crate::errno::FsError;
use crate::handles::counts::Counts;
use crate::handles::slot::{EMPTY, HandleSlot, REMOVED, SLOT_WORDS};

pub(crate) use slot::OpenFile;

const SLOTS: usize = 1 << 15;
/// Slots in use at most: linear probing degrades when the table is full.
const MAX_OPEN: usize = SLOTS / 4 * 3;
/// Size of the table in 64-bit words (1 MiB).
pub const HANDLE_WORDS: usize = SLOTS * SLOT_WORDS;

/// Handles from which on the rest is for who has few.
const CROWDED: usize = MAX_OPEN / 4 * 3;
/// Part of its cap that an account may have while the table is crowded: one of so many.
const FEW: u32 = 16;

/// Bounds on what one account may hold: a user, with what it has in user namespaces of its
/// own, or one such namespace that root made.
#[derive(Clone, Copy, Debug)]
pub struct HandleLimits {
    /// Open handles.
    pub handles: u32,
    /// Opens being served.
    pub pending: u32,
}

/// The table, and counts an account derived from it.
pub struct HandleTable {
    words: Box<dyn AsRef<[AtomicU64]> + Send + Sync>,
    limits: HandleLimits,
    /// Held while a slot is entered or removed, too: there is one writer.
    counts: Mutex<Counts>,
}

/// A refused open; `report` says how many refusals to record now, if any.
pub(crate) struct OpenRefusal {
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
            counts: Mutex::default(),
        };
        table.recount();
        Ok(table)
    }

    fn recount(&self) {
        let mut counts = self.counts.lock();
        for file in self.files() {
            counts.open += 1;
            counts.by_account.entry(file.account).or_default().open += 1;
        }
    }

    /// Counts an OPEN that is about to be decided.
    pub(crate) fn begin_open(&self, account: u32) -> Result<PendingOpen<'_>, OpenRefusal> {
        let mut counts = self.counts.lock();
        let (full, crowded) = (counts.open >= MAX_OPEN, counts.open >= CROWDED);
        let own = counts.by_account.entry(account).or_default();
        let full = full || crowded && own.open >= (self.limits.handles / FEW).max(1);
        let over =
            own.open + own.pending >= self.limits.handles || own.pending >= self.limits.pending;
        if !full && !over {
            own.pending += 1;
            return Ok(PendingOpen {
                table: self,
                account,
            });
        }
        let error = if full {
            FsError::TableFull
        } else {
            FsError::TooManyHandles
        };
        Err(OpenRefusal {
            error,
            report: own.refuse(Instant::now()),
        })
    }

    /// Enters an open file under `handle`; again is the same as once.
    pub(crate) fn insert(&self, handle: u64, file: OpenFile) -> Result<(), FsError> {
        let mut counts = self.counts.lock();
        // A resent OPEN has a slot already: a second one would outlive RELEASE.
        let known = self.find(handle);
        let index = match known {
            Some(index) => index,
            None => self.find_free(handle).ok_or(FsError::TableFull)?,
        };
        self.slot(index).publish(handle, file);
        if known.is_none() {
            counts.open += 1;
            counts.by_account.entry(file.account).or_default().open += 1;
        }
        Ok(())
    }

    pub(crate) fn get(&self, handle: u64) -> Option<OpenFile> {
        let _guard = self.counts.lock();
        self.slot(self.find(handle)?).file()
    }

    /// Whether the control handle takes `request`: one that is open for writing only takes
    /// one, and that one again from another process.
    pub(crate) fn takes_request(&self, handle: u64, request: u64) -> bool {
        let _guard = self.counts.lock();
        self.find(handle)
            .is_some_and(|index| self.slot(index).takes(request))
    }

    /// Whether `handle` is open.
    #[must_use]
    pub fn is_open(&self, handle: u64) -> bool {
        self.get(handle).is_some()
    }

    pub(crate) fn remove(&self, handle: u64) -> Option<OpenFile> {
        let mut counts = self.counts.lock();
        let index = self.find(handle)?;
        let slot = self.slot(index);
        let file = slot.file()?;
        // Not EMPTY: handles that were entered behind it must still be found.
        slot.free(REMOVED);
        self.sweep(index);
        counts.open -= 1;
        counts.release(file.account, |own| own.open -= 1);
        Some(file)
    }

    /// Whether an open handle still needs `version` of `ino`.
    #[must_use]
    pub fn pins(&self, ino: u64, version: u32) -> bool {
        self.versions().any(|open| open == (ino, version))
    }

    /// The inode and version of every open secret.
    pub fn versions(&self) -> impl Iterator<Item = (u64, u32)> {
        self.files()
            .filter(|file| !file.control)
            .map(|file| (file.ino, file.version))
    }

    /// Handles of the control file that `account` has open.
    pub(crate) fn control_handles(&self, account: u32) -> usize {
        let own = |file: &OpenFile| file.control && file.account == account;
        self.files().filter(own).count()
    }

    /// The secrets that are open by way of `node`, with their handles.
    pub(crate) fn opened_by(&self, node: u64) -> Vec<(u64, OpenFile)> {
        let _guard = self.counts.lock();
        let slots = self.slots().iter().map(HandleSlot::of);
        slots
            .filter_map(|slot| Some((slot.key(), slot.file()?)))
            .filter(|(_, file)| !file.control && file.node() == node)
            .collect()
    }

    /// The nodes by which pages of `ino` may be in the page cache.
    pub(crate) fn cached_nodes(&self, ino: u64) -> Vec<u64> {
        let open = self.files().filter(|file| file.cached && file.ino == ino);
        let mut nodes: Vec<_> = open.map(OpenFile::node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Handles open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.counts.lock().open
    }

    fn files(&self) -> impl Iterator<Item = OpenFile> {
        let slots = self.slots().iter();
        slots.filter_map(|words| HandleSlot::of(words).file())
    }

    /// Removed slots in front of an empty one end no probe: make them empty.
    fn sweep(&self, index: usize) {
        let mut index = index;
        while self.slot(next(index)).key() == EMPTY && self.slot(index).key() == REMOVED {
            self.slot(index).free(EMPTY);
            index = index.checked_sub(1).unwrap_or(SLOTS - 1);
        }
    }

    /// The slot of `handle`, if it is open.
    fn find(&self, handle: u64) -> Option<usize> {
        probe(handle)
            .map(|index| (index, self.slot(index).key()))
            .take_while(|&(_, key)| key != EMPTY)
            .find(|&(_, key)| key == handle)
            .map(|(index, _)| index)
    }

    /// The first slot that `handle` can be entered in.
    fn find_free(&self, handle: u64) -> Option<usize> {
        probe(handle).find(|&index| self.slot(index).is_free())
    }

    fn slot(&self, index: usize) -> HandleSlot<'_> {
        // `new` checked the length, below which `probe` and `next` stay.
        #[expect(clippy::indexing_slicing)]
        HandleSlot::of(&self.slots()[index])
    }

    fn slots(&self) -> &[[AtomicU64; SLOT_WORDS]] {
        (*self.words).as_ref().as_chunks().0
    }
}

fn next(index: usize) -> usize {
    (index + 1) % SLOTS
}

/// Slots to look at for `handle`, each once: multiplicative hash, then linear.
fn probe(handle: u64) -> impl Iterator<Item = usize> {
    let hash = handle.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - SLOTS.ilog2());
    let start = usize::try_from(hash).unwrap_or_default();
    (0..SLOTS).map(move |step| (start + step) % SLOTS)
}

/// An OPEN being decided; counts until dropped.
pub(crate) struct PendingOpen<'t> {
    table: &'t HandleTable,
    account: u32,
}

impl Drop for PendingOpen<'_> {
    fn drop(&mut self) {
        let mut counts = self.table.counts.lock();
        counts.release(self.account, |own| own.pending -= 1);
    }
}

#[cfg(test)]
mod tests;

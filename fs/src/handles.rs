//! Open files: one table in memory that may outlive the process.
//!
//! A slot has four 64-bit words: handle, inode (of a control handle for one request: that
//! request, once there is one; of a secret the opener's process in the bits above), version
//! with flags and the node's turn, opener. The last one has the uid in its low half; in the
//! high half that XOR the account which the handle counts for, so that nothing is there for
//! most.
//! A handle is the number of its OPEN request, so that a resent OPEN finds its
//! own slot. Slots are published and removed by a single store of the first
//! word: another process that maps the table after a crash at any instruction
//! sees whole slots only. There is no plaintext in it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::errno::FsError;
use crate::inode::{self, ID, ID_BITS, Inode, turn};

const SLOT_WORDS: usize = 4;
const SLOTS: usize = 1 << 15;
/// Slots in use at most: linear probing degrades when the table is full.
const MAX_OPEN: usize = SLOTS / 4 * 3;
/// Size of the table in 64-bit words (1 MiB).
pub const HANDLE_WORDS: usize = SLOTS * SLOT_WORDS;

/// First word of a slot that was never used, or may count as such: it ends a
/// search.
const EMPTY: u64 = 0;
/// First word of a slot whose handle was removed: a search goes on behind it.
const REMOVED: u64 = u64::MAX;

/// Handles from which on the rest is for who has few.
const CROWDED: usize = MAX_OPEN / 4 * 3;
/// Part of its cap that an account may have while the table is crowded: one of so many.
const FEW: u32 = 16;

/// Flag beside the version: the audit record of the open is written.
const RECORDED: u64 = 1 << 32;
/// Flag beside the version: the handle is the control file's.
const CONTROL: u64 = 1 << 33;
/// Flag beside the version: bytes that were read may be in the page cache.
const CACHED: u64 = 1 << 34;
/// Flag beside the version: the control handle takes one request.
const ONE_REQUEST: u64 = 1 << 35;
/// Bits beside the version from here on: the turn of the node that was opened.
const TURN_SHIFT: u32 = 40;

/// Refusals of one kind to one account closer together than this are one burst.
const BURST: Duration = Duration::from_secs(10);

/// Bounds on what one account may hold: a user, with what it has in user namespaces of its
/// own, or one such namespace that root made.
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
    /// Account that it counts for ([`crate::Caller::account`]).
    pub(crate) account: u32,
    /// The process that opened it.
    pub(crate) process: u32,
    /// The turn of the node that was opened; 0 where nodes have none.
    pub(crate) turn: u32,
    pub(crate) control: bool,
    /// Bytes that are read may enter the page cache.
    pub(crate) cached: bool,
    /// Whether the handle takes one request, ever.
    pub(crate) one_request: bool,
}

impl OpenFile {
    /// The node that was opened.
    pub(crate) fn node(self) -> u64 {
        let inode = match self.turn {
            0 => Inode::Plain(self.ino),
            turn => Inode::File { id: self.ino, turn },
        };
        inode.number().unwrap_or(self.ino)
    }

    /// Whether the node is that of the version. If not, others may have another version
    /// of it open, so that its size and pages are nobody's.
    pub(crate) fn owns_node(self) -> bool {
        self.turn == turn(self.version)
    }

    /// The third word of the file's slot.
    fn version_and_flags(self) -> u64 {
        let flag = |set, flag| if set { flag } else { 0 };
        u64::from(self.version)
            | u64::from(self.turn) << TURN_SHIFT
            | flag(self.control, CONTROL)
            | flag(!self.control, RECORDED)
            | flag(self.cached, CACHED)
            | flag(self.one_request, ONE_REQUEST)
    }

    /// The fourth word of the file's slot.
    fn opener(self) -> u64 {
        u64::from(self.uid) | u64::from(self.uid ^ self.account) << 32
    }
}

/// Four words of the table.
struct HandleSlot<'t> {
    handle: &'t AtomicU64,
    ino: &'t AtomicU64,
    version_and_flags: &'t AtomicU64,
    opener: &'t AtomicU64,
}

impl<'t> HandleSlot<'t> {
    fn of([handle, ino, version_and_flags, opener]: &'t [AtomicU64; SLOT_WORDS]) -> Self {
        Self {
            handle,
            ino,
            version_and_flags,
            opener,
        }
    }

    /// The handle, [`EMPTY`] or [`REMOVED`].
    fn key(&self) -> u64 {
        self.handle.load(Ordering::Acquire)
    }

    fn is_free(&self) -> bool {
        matches!(self.key(), EMPTY | REMOVED)
    }

    /// Enters a file. The handle is stored last: whoever sees it sees the rest.
    fn publish(&self, handle: u64, file: OpenFile) {
        // A process has a number of at most 23 bits.
        let process = if file.control { 0 } else { file.process };
        let ino = file.ino | u64::from(process) << ID_BITS;
        self.ino.store(ino, Ordering::Relaxed);
        self.version_and_flags
            .store(file.version_and_flags(), Ordering::Relaxed);
        self.opener.store(file.opener(), Ordering::Relaxed);
        self.handle.store(handle, Ordering::Release);
    }

    fn file(&self) -> Option<OpenFile> {
        if self.is_free() {
            return None;
        }
        let state = self.version_and_flags.load(Ordering::Relaxed);
        let opener = self.opener.load(Ordering::Relaxed);
        let control = state & CONTROL != 0;
        let ino = self.ino.load(Ordering::Relaxed);
        Some(OpenFile {
            ino: if control { inode::CONTROL } else { ino & ID },
            version: low_half(state),
            uid: low_half(opener),
            account: low_half(opener) ^ low_half(opener >> 32),
            process: if control { 0 } else { low_half(ino >> ID_BITS) },
            turn: low_half(state >> TURN_SHIFT),
            control,
            cached: state & CACHED != 0,
            one_request: state & ONE_REQUEST != 0,
        })
    }

    /// Whether the handle takes `request`, whose number is never that of the control file:
    /// that one is INIT's.
    fn takes(&self, request: u64) -> bool {
        if self.version_and_flags.load(Ordering::Relaxed) & ONE_REQUEST == 0 {
            return true;
        }
        let taken = self.ino.load(Ordering::Relaxed);
        if taken == inode::CONTROL {
            self.ino.store(request, Ordering::Relaxed);
        }
        taken == inode::CONTROL || taken == request
    }
}

/// The table, and counts an account derived from it.
pub struct HandleTable {
    words: Box<dyn AsRef<[AtomicU64]> + Send + Sync>,
    limits: HandleLimits,
    /// Held while a slot is entered or removed, too: there is one writer.
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    open: usize,
    by_account: HashMap<u32, AccountCounts>,
}

#[derive(Default)]
struct AccountCounts {
    open: u32,
    pending: u32,
    /// When a refusal was last seen, and how many since the last report.
    refused: Option<(Instant, u64)>,
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
        slot.handle.store(REMOVED, Ordering::Release);
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

    /// Handles of the control file that `uid` has open.
    pub(crate) fn control_handles(&self, uid: u32) -> usize {
        let own = |file: &OpenFile| file.control && file.uid == uid;
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
            self.slot(index).handle.store(EMPTY, Ordering::Release);
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

fn low_half(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default()
}

/// Slots to look at for `handle`, each once: multiplicative hash, then linear.
fn probe(handle: u64) -> impl Iterator<Item = usize> {
    let hash = handle.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - SLOTS.ilog2());
    let start = usize::try_from(hash).unwrap_or_default();
    (0..SLOTS).map(move |step| (start + step) % SLOTS)
}

impl Counts {
    /// Applies `change` to the counts of `account`, and forgets one without any.
    fn release(&mut self, account: u32, change: impl FnOnce(&mut AccountCounts)) {
        if let Some(own) = self.by_account.get_mut(&account) {
            change(own);
            let recent = own.refused.is_some_and(|(at, _)| at.elapsed() < BURST);
            if own.open == 0 && own.pending == 0 && !recent {
                self.by_account.remove(&account);
            }
        }
    }
}

impl AccountCounts {
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
mod tests {
    use super::*;
    use crate::testing::Words;

    fn words() -> Words {
        Words::zeroed(HANDLE_WORDS)
    }

    fn table(words: &Words, handles: u32, pending: u32) -> HandleTable {
        HandleTable::new(words.clone(), HandleLimits { handles, pending }).unwrap()
    }

    fn file(ino: u64, uid: u32) -> OpenFile {
        OpenFile {
            ino,
            version: 3,
            uid,
            account: uid,
            process: 77,
            turn: 3,
            control: false,
            cached: false,
            one_request: false,
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
        assert!(table.begin_open(1).is_ok());
    }

    #[test]
    fn another_process_finds_what_was_open() {
        let words = words();
        table(&words, 10, 64).insert(8, file(99, 5)).unwrap();
        let successor = table(&words, 1, 64);
        assert_eq!(successor.get(8), Some(file(99, 5)));
        assert!(successor.pins(99, 3) && !successor.pins(99, 2));
        assert!(
            successor.begin_open(5).is_err(),
            "the cap holds over the change"
        );
    }

    #[test]
    fn another_release_finds_every_word_in_its_place() {
        let words = words();
        let cached = OpenFile {
            cached: true,
            ..file(99, 5)
        };
        table(&words, 10, 64).insert(8, cached).unwrap();
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let all: Vec<_> = words.as_ref().iter().map(load).collect();
        let slot = all.chunks(4).find(|slot| slot[0] != 0).unwrap();
        let words = [8, 99 | 77 << 40, 3 | 1 << 32 | 1 << 34 | 3 << 40, 5];
        assert_eq!(slot, words);
        // An earlier release knows the uid alone.
        let foreign = OpenFile {
            account: 4,
            ..cached
        };
        assert_eq!(foreign.opener(), 5 | 1 << 32);
    }

    #[test]
    fn files_are_found_by_the_node_that_was_opened() {
        let table = table(&words(), 10, 64);
        let cached = OpenFile {
            cached: true,
            ..file(99, 5)
        };
        let behind = OpenFile { turn: 2, ..cached };
        let early = OpenFile { turn: 0, ..cached };
        table.insert(8, file(99, 5)).unwrap();
        table.insert(10, behind).unwrap();
        table.insert(12, early).unwrap();
        table.insert(14, cached).unwrap();
        table.insert(16, file(98, 5)).unwrap();
        let node = |turn| Inode::File { id: 99, turn }.number().unwrap();
        assert_eq!(table.opened_by(node(2)), [(10, behind)]);
        assert_eq!(table.opened_by(99), [(12, early)]);
        let mut handles: Vec<_> = table.opened_by(node(3)).iter().map(|open| open.0).collect();
        handles.sort_unstable();
        assert_eq!(handles, [8, 14]);
        assert_eq!(table.cached_nodes(99), [99, node(2), node(3)]);
        assert!(cached.owns_node() && !behind.owns_node() && !early.owns_node());
    }

    #[test]
    fn a_handle_for_one_request_takes_it_again_from_another_process() {
        let words = words();
        let control = OpenFile {
            control: true,
            one_request: true,
            process: 0,
            ..file(inode::CONTROL, 5)
        };
        let first = table(&words, 10, 64);
        first.insert(8, control).unwrap();
        first.insert(10, file(99, 5)).unwrap();
        assert!(first.takes_request(8, 20));
        for table in [first, table(&words, 10, 64)] {
            assert_eq!(table.get(8), Some(control));
            assert!(table.takes_request(8, 20) && !table.takes_request(8, 22));
            assert!(table.takes_request(10, 20) && table.takes_request(10, 22));
        }
    }

    #[test]
    fn caps_are_per_uid_and_reported_once_a_burst() {
        let table = table(&words(), 2, 64);
        table.insert(2, file(1, 7)).unwrap();
        table.insert(4, file(1, 7)).unwrap();
        let reports: Vec<_> = (0..5)
            .map(|_| table.begin_open(7).err().unwrap().report)
            .collect();
        assert_eq!(reports, [Some(1), None, None, None, None]);
        assert!(table.begin_open(8).is_ok());
        table.remove(2).unwrap();
        assert!(table.begin_open(7).is_ok());
    }

    #[test]
    fn pending_opens_are_capped() {
        let table = table(&words(), 100, 2);
        let first = table.begin_open(7);
        let second = table.begin_open(7);
        assert!(first.is_ok() && second.is_ok());
        assert!(matches!(table.begin_open(7), Err(r) if r.error == FsError::TooManyHandles));
        drop(first);
        assert!(table.begin_open(7).is_ok());
    }

    #[test]
    fn what_one_account_has_under_many_uids_is_counted_together() {
        let words = words();
        let foreign = |uid| OpenFile {
            account: 7,
            ..file(1, uid)
        };
        let before = table(&words, 3, 64);
        before.insert(2, foreign(200_000)).unwrap();
        before.insert(4, foreign(200_001)).unwrap();
        before.insert(6, file(1, 7)).unwrap();
        for table in [&before, &table(&words, 3, 64)] {
            assert_eq!(table.get(2), Some(foreign(200_000)));
            assert!(table.begin_open(7).is_err());
            assert!(table.begin_open(200_000).is_ok());
        }
        before.remove(4).unwrap();
        assert!(before.begin_open(7).is_ok());
    }

    #[test]
    fn the_last_quarter_is_for_who_has_few() {
        let table = table(&words(), 1024, 64);
        let mut handles = (1u64..).map(|n| n * 2);
        let mut open = |account| {
            let pending = table.begin_open(account).map_err(|refused| refused.error)?;
            table.insert(handles.next().unwrap(), file(1, account))?;
            drop(pending);
            Ok(())
        };
        for account in 1..=18 {
            for _ in 0..1024 {
                open(account).unwrap();
            }
        }
        assert_eq!(table.open(), CROWDED);
        for account in 1..=18 {
            assert_eq!(open(account), Err(FsError::TableFull));
        }
        for _ in 0..64 {
            open(0).unwrap();
        }
        assert_eq!(open(0), Err(FsError::TableFull));
        open(19).unwrap();
    }

    #[test]
    fn a_full_table_refuses_and_recovers() {
        let table = table(&words(), u32::MAX, 64);
        for handle in 1..=MAX_OPEN as u64 {
            table.insert(handle * 2, file(1, 1)).unwrap();
        }
        assert!(matches!(table.begin_open(9), Err(r) if r.error == FsError::TableFull));
        for handle in 1..=MAX_OPEN as u64 {
            table.remove(handle * 2).unwrap();
        }
        assert!(table.begin_open(9).is_ok());
        assert_eq!(table.open(), 0);
    }
}

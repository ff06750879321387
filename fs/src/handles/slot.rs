//! A slot of the table: one open file.
//!
//! It has four 64-bit words: handle, inode (of a control handle for one request: that
//! request, once there is one; of a secret the opener's process in the bits above), version
//! with flags and the node's turn, opener. The last one has the uid in its low half; in the
//! high half that XOR the account which the handle counts for, so that nothing is there for
//! most.
//! Slots are published and removed by a single store of the first
//! word: another process that maps the table after a crash at any instruction
//! sees whole slots only. There is no plaintext in it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::inode::{self, ID, ID_BITS, Inode, turn};

pub(super) const SLOT_WORDS: usize = 4;
/// First word of a slot that was never used, or may count as such: it ends a
/// search.
pub(super) const EMPTY: u64 = 0;
/// First word of a slot whose handle was removed: a search goes on behind it.
pub(super) const REMOVED: u64 = u64::MAX;

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
    pub(super) fn opener(self) -> u64 {
        u64::from(self.uid) | u64::from(self.uid ^ self.account) << 32
    }
}

/// Four words of the table.
pub(super) struct HandleSlot<'t> {
    handle: &'t AtomicU64,
    ino: &'t AtomicU64,
    version_and_flags: &'t AtomicU64,
    opener: &'t AtomicU64,
}

impl<'t> HandleSlot<'t> {
    pub(super) fn of(
        [handle, ino, version_and_flags, opener]: &'t [AtomicU64; SLOT_WORDS],
    ) -> Self {
        Self {
            handle,
            ino,
            version_and_flags,
            opener,
        }
    }

    /// The handle, [`EMPTY`] or [`REMOVED`].
    pub(super) fn key(&self) -> u64 {
        self.handle.load(Ordering::Acquire)
    }

    pub(super) fn is_free(&self) -> bool {
        matches!(self.key(), EMPTY | REMOVED)
    }

    /// Enters a file. The handle is stored last: whoever sees it sees the rest.
    pub(super) fn publish(&self, handle: u64, file: OpenFile) {
        // A process has a number of at most 23 bits.
        let process = if file.control { 0 } else { file.process };
        let ino = file.ino | u64::from(process) << ID_BITS;
        self.ino.store(ino, Ordering::Relaxed);
        self.version_and_flags
            .store(file.version_and_flags(), Ordering::Relaxed);
        self.opener.store(file.opener(), Ordering::Relaxed);
        self.handle.store(handle, Ordering::Release);
    }

    /// Ends the slot's use: what is left of it is [`EMPTY`] or [`REMOVED`].
    pub(super) fn free(&self, key: u64) {
        self.handle.store(key, Ordering::Release);
    }

    pub(super) fn file(&self) -> Option<OpenFile> {
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
    pub(super) fn takes(&self, request: u64) -> bool {
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

fn low_half(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default()
}

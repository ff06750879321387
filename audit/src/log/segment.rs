//! A segment's file, and the room kept for what must be recorded on a full disk.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::file::LogFile;
use crate::event::{Action, Event, Outcome};

/// Room that only refusals, revocations and the log's own records may use.
const REFUSAL_BYTES: u64 = 256 * 1024;
/// Room beyond that, which refusals may not use.
const REVOCATION_BYTES: u64 = 256 * 1024;
/// Room asked for at once, beyond the two.
const AHEAD_BYTES: u64 = 1024 * 1024;

/// Claim of a record on the room that is kept for a full disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoomClaim {
    /// None: the record releases something.
    Ordinary,
    /// A refusal, or what follows from several.
    Refusal,
    /// A revocation, or what is changed together with one.
    Revocation,
    /// All there is: the log's own record.
    Own,
}

impl RoomClaim {
    pub(super) fn of(event: &Event<'_>) -> Self {
        match event.action {
            Action::Start | Action::Stop | Action::Signature | Action::Epoch | Action::Segment => {
                Self::Own
            }
            Action::Limit | Action::Suspicious => Self::Refusal,
            _ if event.result != Outcome::Ok => Self::Refusal,
            Action::Revoke | Action::Approve => Self::Revocation,
            _ => Self::Ordinary,
        }
    }
}

/// A file that is appended to.
pub(super) struct Segment {
    pub(super) file: Box<dyn LogFile>,
    /// Number of the segment, which names its file.
    pub(super) number: u32,
    /// Bytes of the file that are records.
    written: AtomicU64,
    /// Bytes from the file's beginning that need no more room on the disk.
    allocated: AtomicU64,
    /// The disk is full: only what was kept is left.
    scarce: AtomicBool,
    /// The file is not where it must be and is given up.
    lost: AtomicBool,
}

impl Segment {
    /// Segment `number` in `file`, which has `len` bytes of records.
    pub(super) fn new(file: Box<dyn LogFile>, number: u32, len: u64) -> Self {
        Self {
            file,
            number,
            written: AtomicU64::new(len),
            allocated: AtomicU64::new(0),
            scarce: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        }
    }

    /// Bytes of the file that are records.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Notes that the first `len` bytes are records.
    pub(super) fn note_written(&self, len: u64) {
        self.written.store(len, Ordering::Release);
    }

    /// Gives the file up, or not: a lost one need not take the record that ends it.
    pub(super) fn set_lost(&self, lost: bool) {
        self.lost.store(lost, Ordering::Release);
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Sees to it that the file can grow to `len` bytes with the kept room beyond.
    pub(super) fn make_room(&self, len: u64) {
        let least = len.saturating_add(REFUSAL_BYTES + REVOCATION_BYTES);
        if least <= self.allocated.load(Ordering::Relaxed) {
            return;
        }
        let wanted = least.saturating_add(AHEAD_BYTES);
        match self.file.reserve(wanted) {
            Ok(()) => self.set_allocated(wanted),
            Err(error) if is_full(&error) => match self.file.reserve(least) {
                Ok(()) => self.set_allocated(least),
                Err(_) => self.scarce.store(true, Ordering::Relaxed),
            },
            // A file system that keeps no room: a full disk shows in the write.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.set_allocated(u64::MAX);
            }
            // The write will tell.
            Err(_) => {}
        }
    }

    fn set_allocated(&self, len: u64) {
        self.allocated.store(len, Ordering::Relaxed);
        self.scarce.store(false, Ordering::Relaxed);
    }

    /// True if no more than the kept room was left when room was last asked for.
    pub(super) fn is_scarce(&self) -> bool {
        self.scarce.load(Ordering::Relaxed)
    }

    /// Whether a record with `claim` may be written behind `len` bytes.
    pub(super) fn has_room(&self, claim: RoomClaim, len: u64) -> bool {
        let left = self.allocated.load(Ordering::Relaxed).saturating_sub(len);
        match claim {
            _ if !self.is_scarce() => true,
            RoomClaim::Ordinary => false,
            RoomClaim::Refusal => left > REVOCATION_BYTES,
            RoomClaim::Revocation | RoomClaim::Own => true,
        }
    }

    /// Gives back what was kept for a file that has its final length.
    pub(super) fn release(&self, len: u64) {
        // An append-only file (chattr +a) keeps its room: no harm is done.
        self.file.truncate(len).ok();
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

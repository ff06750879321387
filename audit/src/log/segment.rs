//! A segment's file, and the room kept for what must be recorded on a full disk.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::file::LogFile;

/// Room that only refusals and the log's own records may use.
const RESERVE_BYTES: u64 = 256 * 1024;
/// Room asked for at once, beyond the reserve.
const AHEAD_BYTES: u64 = 1024 * 1024;

/// A file that is appended to.
pub(super) struct Segment {
    pub(super) file: Box<dyn LogFile>,
    /// Bytes from the file's beginning that need no more room on the disk.
    allocated: AtomicU64,
    /// The disk is full: only the reserve is left.
    scarce: AtomicBool,
}

impl Segment {
    pub(super) fn new(file: Box<dyn LogFile>) -> Self {
        Self {
            file,
            allocated: AtomicU64::new(0),
            scarce: AtomicBool::new(false),
        }
    }

    /// Sees to it that the file can grow to `len` bytes with the reserve beyond.
    pub(super) fn make_room(&self, len: u64) {
        let least = len.saturating_add(RESERVE_BYTES);
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
            Err(_) => self.set_allocated(u64::MAX),
        }
    }

    fn set_allocated(&self, len: u64) {
        self.allocated.store(len, Ordering::Relaxed);
        self.scarce.store(false, Ordering::Relaxed);
    }

    /// True if no more than the reserve was left when room was last asked for.
    pub(super) fn is_scarce(&self) -> bool {
        self.scarce.load(Ordering::Relaxed)
    }

    /// Gives back what was kept for a file that has its final length.
    pub(super) fn release(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

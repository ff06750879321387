//! A table of 64-bit words in a memfd, shared between processes.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use rustix::io;

use super::memory::SharedMemory;

const WORD_BYTES: usize = size_of::<AtomicU64>();

/// Zero-initialised atomic words in a sealed memfd: whoever holds the fd maps
/// the same words, so they outlive the process that wrote them.
///
/// Only what single-word atomics can express is visible to other processes in a
/// defined order.
pub struct SharedWords(SharedMemory);

impl SharedWords {
    /// A new table of `count` zero words. Pages take memory once touched.
    ///
    /// # Errors
    /// The kernel's errno from memfd_create, ftruncate, seal or mmap; EINVAL
    /// for `count` 0.
    pub fn create(name: &str, count: usize) -> io::Result<Self> {
        SharedMemory::create(name, count * WORD_BYTES).map(Self)
    }

    /// Maps the table behind `fd`, as made by [`SharedWords::create`].
    ///
    /// # Errors
    /// EINVAL when the fd is not such a table; otherwise the errno of mmap.
    pub fn map(fd: OwnedFd) -> io::Result<Self> {
        let memory = SharedMemory::map(fd)?;
        if memory.bytes().is_multiple_of(WORD_BYTES) {
            Ok(Self(memory))
        } else {
            Err(io::Errno::INVAL)
        }
    }

    /// The memfd, to be passed to another process.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

impl AsRef<[AtomicU64]> for SharedWords {
    fn as_ref(&self) -> &[AtomicU64] {
        let (start, count) = (self.0.start(), self.0.bytes() / WORD_BYTES);
        // SAFETY: the mapping holds `count` aligned, zero-initialised words and
        // lives as long as `self`; all who have it use atomics only.
        unsafe { std::slice::from_raw_parts(start.cast().as_ptr(), count) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    #[test]
    fn two_mappings_see_the_same_words() {
        let first = SharedWords::create("test", 1024).unwrap();
        let second = SharedWords::map(first.fd().try_clone_to_owned().unwrap()).unwrap();
        first.as_ref()[1023].store(42, Ordering::Release);
        assert_eq!(second.as_ref()[1023].load(Ordering::Acquire), 42);
        assert_eq!(second.as_ref().len(), 1024);
    }

    #[test]
    fn a_table_cannot_be_truncated_under_us() {
        let table = SharedWords::create("test", 8).unwrap();
        assert_eq!(ftruncate(table.fd(), 0), Err(io::Errno::PERM));
    }

    #[test]
    fn an_unsealed_file_is_refused() {
        let fd = memfd_create("plain", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, 64).unwrap();
        assert!(SharedWords::map(fd).is_err());
    }
}

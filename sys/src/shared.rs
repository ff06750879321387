//! A table of 64-bit words in a memfd, shared between processes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::io;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

const WORD_BYTES: usize = size_of::<AtomicU64>();

/// Zero-initialised atomic words in a sealed memfd: whoever holds the fd maps
/// the same words, so they outlive the process that wrote them.
///
/// Only what single-word atomics can express is visible to other processes in a
/// defined order.
pub struct SharedWords {
    fd: OwnedFd,
    words: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping is owned by this value and consists of atomics, which may
// be used from any thread (and any process).
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// A new table of `count` zero words. Pages take memory once touched.
    ///
    /// # Errors
    /// The kernel's errno from memfd_create, ftruncate, seal or mmap; EINVAL
    /// for `count` 0.
    pub fn create(name: &str, count: usize) -> io::Result<Self> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, (count * WORD_BYTES) as u64)?;
        // Without the shrink seal another holder of the fd could truncate it
        // and turn our next access into SIGBUS.
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::map(fd)
    }

    /// Maps the table behind `fd`, as made by [`SharedWords::create`].
    ///
    /// # Errors
    /// EINVAL when the fd is not such a table; otherwise the errno of mmap.
    pub fn map(fd: OwnedFd) -> io::Result<Self> {
        let sealed = rustix::fs::fcntl_get_seals(&fd)?;
        let bytes = usize::try_from(fstat(&fd)?.st_size).map_err(|_| io::Errno::INVAL)?;
        if bytes == 0 || bytes % WORD_BYTES != 0 || !sealed.contains(SealFlags::SHRINK) {
            return Err(io::Errno::INVAL);
        }
        // SAFETY: a new shared mapping at an address the kernel picks; the seal
        // guarantees that `bytes` stay backed. Unsafe is needed: a shared
        // mapping is the only memory that survives its process.
        let page = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &fd,
                0,
            )?
        };
        Ok(Self {
            fd,
            words: NonNull::new(page.cast()).ok_or(io::Errno::NOMEM)?,
            count: bytes / WORD_BYTES,
        })
    }

    /// The memfd, to be passed to another process.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRef<[AtomicU64]> for SharedWords {
    fn as_ref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping holds `count` aligned, zero-initialised words and
        // lives as long as `self`; concurrent writers use atomics only.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `map` mapped; no borrow outlives `self`.
        unsafe {
            let _ = munmap(self.words.as_ptr().cast(), self.count * WORD_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

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

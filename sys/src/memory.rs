//! Memory of a memfd, mapped: whoever holds the fd maps the same memory, so it outlives the
//! process that wrote it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::io;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// Zero-initialised memory that cannot be resized and is in no core dump. Pages take memory
/// once touched, and are locked where the process locks all of its own.
pub(crate) struct SharedMemory {
    fd: OwnedFd,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is owned by this value, which gives out nothing but its address.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// New memory of `bytes`.
    ///
    /// # Errors
    /// The kernel's errno from memfd_create, ftruncate, seal or mmap; EINVAL
    /// for no bytes.
    pub(crate) fn create(name: &str, bytes: usize) -> io::Result<Self> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, bytes as u64)?;
        // Without the shrink seal another holder of the fd could truncate it
        // and turn our next access into SIGBUS.
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::map(fd)
    }

    /// Maps the memory behind `fd`, as made by [`SharedMemory::create`].
    ///
    /// # Errors
    /// EINVAL when the fd is nothing like it; otherwise the errno of mmap or madvise.
    pub(crate) fn map(fd: OwnedFd) -> io::Result<Self> {
        let sealed = rustix::fs::fcntl_get_seals(&fd)?;
        let bytes = usize::try_from(fstat(&fd)?.st_size).map_err(|_| io::Errno::INVAL)?;
        if bytes == 0 || !sealed.contains(SealFlags::SHRINK) {
            return Err(io::Errno::INVAL);
        }
        // SAFETY: a new shared mapping at an address the kernel picks; the seal
        // guarantees that `bytes` stay backed. The advice changes no content. Unsafe is
        // needed: a shared mapping is the only memory that survives its process.
        let start = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            let start = mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                MapFlags::SHARED,
                &fd,
                0,
            )?;
            madvise(start, bytes, Advice::LinuxDontDump)?;
            start
        };
        Ok(Self {
            fd,
            start: NonNull::new(start.cast()).ok_or(io::Errno::NOMEM)?,
            bytes,
        })
    }

    /// The memfd, to be passed to another process.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where it begins, at a page; valid for [`SharedMemory::bytes`] as long as `self`.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// How much it is.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `map` mapped; no borrow outlives `self`.
        unsafe {
            let _ = munmap(self.start.as_ptr().cast(), self.bytes);
        }
    }
}

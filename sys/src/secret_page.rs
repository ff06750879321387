//! Secrets that outlive the process that put them there.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create,
};
use rustix::io;
use rustix::mm::{MapFlags, ProtFlags, mlock, mmap, munmap};
use zeroize::{Zeroize, Zeroizing};

/// Longest content of a cell in bytes.
pub const MAX_CELL_BYTES: usize = CELL_SPAN_BYTES - size_of::<AtomicU64>();
/// Bytes from one cell to the next: a length, then the content.
const CELL_SPAN_BYTES: usize = 8192;
const CELLS: usize = 2;
const MEMORY_BYTES: usize = CELLS * CELL_SPAN_BYTES;

/// Content of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Cell {
    /// The vault's root key, put there by the process that unlocked it.
    RootKey = 0,
    /// Key or passphrase that unlocks the vault, until that is done; then the number of the
    /// key slot that it opened.
    Credential = 1,
}

/// Two cells of memory that are never swapped or dumped, behind an fd that is
/// handed from process to process.
///
/// The memory is that of `memfd_secret(2)`, which the kernel itself does not map;
/// where that is switched off, of a memfd whose pages are locked by everybody who
/// maps it. A cell has one writer at a time.
pub struct SecretPage {
    fd: OwnedFd,
    memory: NonNull<u8>,
}

// SAFETY: the mapping is owned by this value; the length of a cell is an atomic
// that is released after its bytes, and the protocol gives it one writer.
unsafe impl Send for SecretPage {}
// SAFETY: as above.
unsafe impl Sync for SecretPage {}

impl SecretPage {
    /// New, empty cells.
    ///
    /// # Errors
    /// The kernel's errno; EPERM, ENOMEM or EAGAIN when the limit on locked
    /// memory is too low.
    pub fn create() -> io::Result<Self> {
        if let Ok(fd) = memfd_secret() {
            ftruncate(&fd, MEMORY_BYTES as u64)?;
            return Self::map(fd);
        }
        Self::map(ordinary()?)
    }

    /// Maps the cells behind `fd`, as made by [`SecretPage::create`].
    ///
    /// # Errors
    /// EINVAL when the fd is nothing like it; otherwise the errno of mmap or mlock.
    pub fn map(fd: OwnedFd) -> io::Result<Self> {
        if usize::try_from(fstat(&fd)?.st_size) != Ok(MEMORY_BYTES) {
            return Err(io::Errno::INVAL);
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh shared mapping at an address the kernel picks; neither
        // kind of fd can be shrunk (secret memory cannot be resized). Unsafe is
        // needed: no safe wrapper maps shared memory.
        let memory = unsafe {
            mmap(
                std::ptr::null_mut(),
                MEMORY_BYTES,
                protection,
                MapFlags::SHARED,
                &fd,
                0,
            )?
        };
        let page = Self {
            fd,
            memory: NonNull::new(memory.cast()).ok_or(io::Errno::NOMEM)?,
        };
        // Secret memory, which has no seals, is locked by nature.
        if fcntl_get_seals(&page.fd).is_ok() {
            // SAFETY: locks exactly the mapping just made.
            unsafe { mlock(memory, MEMORY_BYTES)? };
        }
        Ok(page)
    }

    /// The fd, to be passed to another process.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Fills `cell`.
    ///
    /// # Errors
    /// EMSGSIZE for more than [`MAX_CELL_BYTES`] bytes.
    pub fn put(&self, cell: Cell, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > MAX_CELL_BYTES {
            return Err(io::Errno::MSGSIZE);
        }
        self.len(cell).store(0, Ordering::Release);
        // SAFETY: the cell has MAX_CELL_BYTES bytes behind its length, and `bytes` is not
        // part of the mapping, which is only reached through this type.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.bytes(cell), bytes.len()) };
        self.len(cell).store(bytes.len() as u64, Ordering::Release);
        Ok(())
    }

    /// Copies the content of `cell`; `None` when it is empty.
    #[must_use]
    pub fn get(&self, cell: Cell) -> Option<Zeroizing<Vec<u8>>> {
        let len = usize::try_from(self.len(cell).load(Ordering::Acquire)).ok()?;
        if len == 0 || len > MAX_CELL_BYTES {
            return None;
        }
        let mut bytes = Zeroizing::new(vec![0; len]);
        // SAFETY: `len` bytes of the cell were written before its length was.
        unsafe { std::ptr::copy_nonoverlapping(self.bytes(cell), bytes.as_mut_ptr(), len) };
        Some(bytes)
    }

    /// Empties `cell`.
    pub fn wipe(&self, cell: Cell) {
        self.len(cell).store(0, Ordering::Release);
        // SAFETY: the cell's own bytes; readers look at the length first.
        unsafe { std::slice::from_raw_parts_mut(self.bytes(cell), MAX_CELL_BYTES).zeroize() };
    }

    fn len(&self, cell: Cell) -> &AtomicU64 {
        // SAFETY: cells begin at multiples of 8192 in a page-aligned mapping.
        unsafe {
            self.memory
                .add(cell as usize * CELL_SPAN_BYTES)
                .cast()
                .as_ref()
        }
    }

    fn bytes(&self, cell: Cell) -> *mut u8 {
        let at = cell as usize * CELL_SPAN_BYTES + size_of::<AtomicU64>();
        // SAFETY: within the mapping.
        unsafe { self.memory.add(at).as_ptr() }
    }
}

impl Drop for SecretPage {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `map` mapped; no borrow outlives `self`.
        // The contents stay for whoever else holds the fd.
        unsafe {
            let _ = munmap(self.memory.as_ptr().cast(), MEMORY_BYTES);
        }
    }
}

fn ordinary() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create("jarvis-keys", flags)?;
    ftruncate(&fd, MEMORY_BYTES as u64)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

fn memfd_secret() -> io::Result<OwnedFd> {
    // SAFETY: the call takes flags (here FD_CLOEXEC, which it defines as its
    // own) and gives a new fd or -1. Unsafe is needed: no library wraps it.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    match i32::try_from(fd) {
        // SAFETY: a new fd that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Errno::NOSYS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_puts_another_gets() {
        hand_over(SecretPage::create().unwrap());
        hand_over(SecretPage::map(ordinary().unwrap()).unwrap());
    }

    fn hand_over(first: SecretPage) {
        let second = SecretPage::map(first.fd().try_clone_to_owned().unwrap()).unwrap();
        assert!(second.get(Cell::RootKey).is_none());
        first.put(Cell::RootKey, &[7; 32]).unwrap();
        first.put(Cell::Credential, b"x").unwrap();
        drop(first);
        assert_eq!(*second.get(Cell::RootKey).unwrap(), [7; 32]);
        second.wipe(Cell::Credential);
        assert!(second.get(Cell::Credential).is_none());
        assert_eq!(*second.get(Cell::RootKey).unwrap(), [7; 32]);
    }

    #[test]
    fn cells_are_bounded_and_foreign_fds_refused() {
        let page = SecretPage::create().unwrap();
        assert_eq!(
            page.put(Cell::RootKey, &[0; MAX_CELL_BYTES + 1]),
            Err(io::Errno::MSGSIZE)
        );
        assert!(page.put(Cell::Credential, &[1; MAX_CELL_BYTES]).is_ok());
        let other = memfd_create("other", MemfdFlags::CLOEXEC).unwrap();
        assert!(SecretPage::map(other).is_err());
    }
}

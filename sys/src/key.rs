//! Key memory: one page of its own, locked, left out of dumps and forks.

use std::ptr::NonNull;

use rustix::io;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use zeroize::Zeroize;

/// Length of a key in bytes (AES-256).
pub const KEY_LEN: usize = 32;

/// A 256-bit key in a page that is locked in RAM, not dumped, not inherited by
/// a child, and wiped on drop.
///
/// There is no `Debug`, `Clone` or `Serialize` for this type; [`LockedKey::expose`] is the one
/// way to its bytes.
pub struct LockedKey {
    page: NonNull<[u8; KEY_LEN]>,
}

// SAFETY: the page is owned by this value alone and is reached through `&self`
// (shared reads) or `&mut self`, like a `Box<[u8; 32]>`.
unsafe impl Send for LockedKey {}
// SAFETY: as above; there is no interior mutability.
unsafe impl Sync for LockedKey {}

impl LockedKey {
    /// A key filled by `fill`, which gets the zeroed 32 bytes.
    ///
    /// # Errors
    /// The kernel's errno when a page can't be mapped or locked (ENOMEM or
    /// EPERM: RLIMIT_MEMLOCK), or whatever `fill` returned.
    pub fn build<E>(fill: impl FnOnce(&mut [u8; KEY_LEN]) -> Result<(), E>) -> Result<Self, E>
    where
        E: From<io::Errno>,
    {
        let mut key = Self::zeroed()?;
        // SAFETY: `page` points to KEY_LEN mapped, writable bytes that only
        // `key`, which we own, can reach.
        fill(unsafe { key.page.as_mut() })?;
        Ok(key)
    }

    fn zeroed() -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping at an address the kernel picks
        // aliases nothing. Unsafe is needed: no safe allocator can lock a page.
        let page = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                KEY_LEN,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        // From here on Drop unmaps, also when a step below fails.
        let key = Self {
            page: NonNull::new(page.cast()).ok_or(io::Errno::NOMEM)?,
        };
        // SAFETY: the range is the mapping just made; locking and advising it
        // changes no contents.
        unsafe {
            mlock(page, KEY_LEN)?;
            madvise(page, KEY_LEN, Advice::LinuxDontDump)?;
            madvise(page, KEY_LEN, Advice::LinuxDontFork)?;
        }
        Ok(key)
    }

    /// The key's bytes. Every use of a raw key in the code base is a call of
    /// this method.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        // SAFETY: `page` stays mapped and initialised until drop.
        unsafe { self.page.as_ref() }
    }
}

impl Drop for LockedKey {
    fn drop(&mut self) {
        // SAFETY: we have `&mut self`, so nobody else looks at the page; after
        // munmap `self` is gone. munmap of our own mapping cannot fail in a way
        // that could be handled here.
        unsafe {
            self.page.as_mut().zeroize();
            let _ = munmap(self.page.as_ptr().cast(), KEY_LEN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_fill_wrote() {
        let key = LockedKey::build::<io::Errno>(|bytes| {
            bytes.fill(7);
            Ok(())
        })
        .unwrap();
        assert_eq!(key.expose(), &[7; KEY_LEN]);
    }

    #[test]
    fn page_is_locked_and_not_dumped() {
        let key = LockedKey::build::<io::Errno>(|_| Ok(())).unwrap();
        let start = format!("{:x}-", key.page.as_ptr() as usize);
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let flags = smaps
            .lines()
            .skip_while(|line| !line.starts_with(&start))
            .find_map(|line| line.strip_prefix("VmFlags:"))
            .unwrap();
        for flag in ["lo", "dd", "dc"] {
            assert!(
                flags.split_whitespace().any(|f| f == flag),
                "{flag} not in {flags}"
            );
        }
    }

    #[test]
    fn a_failing_fill_is_passed_on() {
        let result = LockedKey::build::<io::Errno>(|_| Err(io::Errno::BADF));
        assert!(matches!(result, Err(io::Errno::BADF)));
    }
}

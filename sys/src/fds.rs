//! File descriptors that come from elsewhere.

use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{self, DupFlags, dup3};

/// Makes `target`'s number mean what `with` means; what it meant is closed.
/// Whoever owns `target` owns the new meaning.
///
/// # Errors
/// The kernel's errno.
pub fn replace_fd(target: BorrowedFd<'_>, with: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: `target` is open for as long as it is borrowed and is not closed
    // here: its owner stays its owner. Unsafe is needed: dup3 wants the owner,
    // which a library holds.
    let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(target.as_raw_fd()) });
    dup3(with, &mut target, DupFlags::CLOEXEC)
}

/// Another device for the FUSE connection of `device` (FUSE_DEV_IOC_CLONE): an open file
/// of its own, with requests of its own.
///
/// # Errors
/// The kernel's errno.
pub fn clone_fuse_device(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // _IOR(229, 0, uint32_t), from linux/fuse.h.
    const FUSE_DEV_IOC_CLONE: libc::Ioctl = 0x8004_e500_u32 as libc::Ioctl;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let clone = rustix::fs::open("/dev/fuse", flags, Mode::empty())?;
    let mut of = device.as_raw_fd();
    // SAFETY: reads one 32-bit number, that of an fd which is open as long as it is
    // borrowed. Unsafe is needed: no library wraps the call.
    match unsafe { libc::ioctl(clone.as_raw_fd(), FUSE_DEV_IOC_CLONE, &raw mut of) } {
        0 => Ok(clone),
        _ => Err(std::io::Error::last_os_error()
            .raw_os_error()
            .map_or(io::Errno::IO, io::Errno::from_raw_os_error)),
    }
}

/// Keeps every fd that is open now, but the standard ones, from programs that
/// this process starts: whoever started us may have left some open.
///
/// # Errors
/// The kernel's errno (ENOSYS before Linux 5.11).
pub fn keep_fds_from_children() -> io::Result<()> {
    let (first, last) = (3_u32, u32::MAX);
    // SAFETY: only sets FD_CLOEXEC (CLOSE_RANGE_CLOEXEC); nothing is closed
    // here. Unsafe is needed: no library wraps the call.
    match unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            last,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    } {
        0 => Ok(()),
        _ => Err(io::Errno::NOSYS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[test]
    fn a_replaced_fd_keeps_its_number_and_changes_its_meaning() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let (_other_reader, mut target) = std::io::pipe().unwrap();
        let number = target.as_raw_fd();
        replace_fd(target.as_fd(), writer.as_fd()).unwrap();
        drop(writer);
        target.write_all(b"here").unwrap();
        assert_eq!(target.as_raw_fd(), number);
        drop(target);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "here");
    }
}

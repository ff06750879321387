//! File descriptors that come from elsewhere.

use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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

//! The device as requests are received from it and answered on it.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::wire::abi::{InvalInodeOut, OutHeader, notify};

/// A connection to the kernel.
pub struct Connection(OwnedFd);

impl From<OwnedFd> for Connection {
    /// The connection of a device that is mounted.
    fn from(device: OwnedFd) -> Self {
        Self(device)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Connection {
    /// Receives a request into `buffer`; gives its length.
    ///
    /// # Errors
    /// ENODEV once the mount is gone, EAGAIN when the device's reads don't wait and there
    /// is none, and what else the system says.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        loop {
            match rustix::io::read(&self.0, &mut *buffer) {
                // Whoever waited was killed in between.
                Err(Errno::NOENT | Errno::INTR) => {}
                result => return result,
            }
        }
    }

    /// Has reads wait for a request, or not, whoever reads.
    ///
    /// # Errors
    /// The system's answer.
    pub(crate) fn set_waiting(&self, waits: bool) -> Result<(), Errno> {
        let flags = if waits {
            OFlags::empty()
        } else {
            OFlags::NONBLOCK
        };
        rustix::fs::fcntl_setfl(&self.0, flags)
    }

    /// Looks whether a request waits, or none will come any more.
    pub(crate) fn poll(&self, limit: Option<&Timespec>) -> PollFlags {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        // Interrupted, it is ready for nothing.
        poll(&mut fds, limit).ok();
        let [device] = &fds;
        device.revents()
    }

    /// Answers the request called `unique` with `body`.
    ///
    /// # Errors
    /// ENOENT when nobody waits for it, and what else the system says.
    pub(crate) fn answer(&self, unique: u64, body: &[u8]) -> Result<(), Errno> {
        self.send(0, unique, body)
    }

    /// Answers the request called `unique` with the errno `code`.
    ///
    /// # Errors
    /// As [`Connection::answer`].
    pub(crate) fn refuse(&self, unique: u64, code: i32) -> Result<(), Errno> {
        self.send(-code, unique, &[])
    }

    /// Has the kernel drop all pages that it keeps of `ino`.
    ///
    /// # Errors
    /// ENOENT when it knows of no such inode, and what else the system says.
    pub(crate) fn invalidate_pages(&self, ino: u64) -> Result<(), Errno> {
        // Length 0 is all of it.
        let all = InvalInodeOut {
            ino,
            off: 0,
            len: 0,
        };
        self.send(notify::INVAL_INODE, 0, all.as_bytes())
    }

    /// A message goes with one write, or not at all.
    fn send(&self, error: i32, unique: u64, body: &[u8]) -> Result<(), Errno> {
        let header = OutHeader {
            len: u32::try_from(size_of::<OutHeader>() + body.len()).map_err(|_| Errno::TOOBIG)?,
            error,
            unique,
        };
        let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(body)];
        rustix::io::retry_on_intr(|| rustix::io::writev(&self.0, &parts)).map(drop)
    }
}

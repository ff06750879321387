//! Answers for who must not wait, while nobody serves.
//!
//! PID 1 that looks into the tree would wait for an answer that only a service could give
//! which PID 1 alone can start. So somebody reads the device in the meantime, answers PID 1
//! with EINTR, and leaves all other requests unanswered: the next server has the kernel send
//! them again (`FUSE_NOTIFY_RESEND`). A LOOKUP that fails with EINTR fails the walk and
//! invalidates nothing: neither the entry nor what is mounted on it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use zeroize::Zeroize;

use crate::connection::{Connection, MAX_REQUEST_BYTES};
use crate::wire::RequestHeader;
use crate::wire::abi::opcode;

/// Thread id of PID 1's only thread that looks at files, in the mount's pid namespace.
const INIT_PID: u32 = 1;

/// Treatment of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarded {
    /// PID 1's: it was answered EINTR.
    Answered,
    /// Somebody else's: it waits for the next server.
    Left,
    /// One that needs no answer.
    Dropped,
}

/// A device that nobody serves, through a device of the guard's own for the same
/// connection (FUSE_DEV_IOC_CLONE): its reads don't wait, and a server's still do. Closing it
/// fails what was read from it and not sent again since, so it stays open with the mount.
pub struct DeviceGuard {
    connection: Connection,
    /// Wiped after each request: a control request may carry a value.
    buffer: Vec<u8>,
}

impl DeviceGuard {
    /// Guards the connection of `device`, which nobody else may have. Nothing is read
    /// before [`DeviceGuard::take_next`].
    ///
    /// # Errors
    /// The system's answer.
    pub fn new(device: OwnedFd) -> io::Result<Self> {
        rustix::fs::fcntl_setfl(&device, OFlags::NONBLOCK)?;
        Ok(Self {
            connection: Connection::from(device),
            buffer: vec![0; MAX_REQUEST_BYTES],
        })
    }

    /// Whether the mount is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.poll().contains(PollFlags::ERR)
    }

    fn poll(&self) -> PollFlags {
        let mut fds = [PollFd::new(&self.connection, PollFlags::IN)];
        let now = Timespec::try_from(Duration::ZERO).unwrap_or_default();
        match poll(&mut fds, Some(&now)) {
            Ok(_) => fds
                .iter()
                .fold(PollFlags::empty(), |all, fd| all | fd.revents()),
            Err(_) => PollFlags::empty(),
        }
    }

    /// Whether a request waits to be read.
    #[must_use]
    pub fn has_request(&self) -> bool {
        self.poll().contains(PollFlags::IN)
    }

    /// Reads the next request, if one is there, and answers it if it is PID 1's.
    ///
    /// # Errors
    /// ENODEV when the mount is gone, and what else the system says.
    pub fn take_next(&mut self) -> io::Result<Option<Guarded>> {
        let len = match self.connection.receive(&mut self.buffer) {
            Ok(len) => len,
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let request = RequestHeader::parse(self.buffer.get(..len).unwrap_or_default());
        if let Some(read) = self.buffer.get_mut(..len) {
            read.zeroize();
        }
        let Ok(request) = request else {
            return Ok(Some(Guarded::Dropped));
        };
        if !request.wants_answer() || request.opcode == opcode::INTERRUPT {
            return Ok(Some(Guarded::Dropped));
        }
        if request.ids.tid != INIT_PID {
            return Ok(Some(Guarded::Left));
        }
        match self.connection.refuse(request.unique.raw(), libc::EINTR) {
            // It does not wait any more.
            Ok(()) | Err(Errno::NOENT) => Ok(Some(Guarded::Answered)),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for DeviceGuard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

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

use crate::filesystem::MAX_WRITE;

/// Thread id of PID 1's only thread that looks at files, in the mount's pid namespace.
const INIT_PID: u32 = 1;
/// Length of `struct fuse_in_header`.
const IN_HEADER: usize = 40;
/// Largest request: what MAX_WRITE allows, and a page for what stands before it.
const BUFFER: usize = MAX_WRITE as usize + 4096;

// Requests that are not answered (linux/fuse.h).
const FORGET: u32 = 2;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

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
    device: OwnedFd,
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
        let buffer = vec![0; BUFFER];
        Ok(Self { device, buffer })
    }

    /// Whether the mount is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.poll().contains(PollFlags::ERR)
    }

    fn poll(&self) -> PollFlags {
        let mut fds = [PollFd::new(&self.device, PollFlags::IN)];
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
        let read =
            rustix::io::retry_on_intr(|| rustix::io::read(&self.device, &mut self.buffer[..]));
        let len = match read {
            Ok(len) => len,
            // None, or whoever waited was killed in between.
            Err(Errno::AGAIN | Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let request = Header::parse(self.buffer.get(..len).unwrap_or_default());
        if let Some(read) = self.buffer.get_mut(..len) {
            read.zeroize();
        }
        let Some(request) = request else {
            return Ok(Some(Guarded::Dropped));
        };
        if matches!(request.opcode, FORGET | INTERRUPT | BATCH_FORGET) {
            return Ok(Some(Guarded::Dropped));
        }
        if request.pid != INIT_PID {
            return Ok(Some(Guarded::Left));
        }
        match rustix::io::write(&self.device, &interrupted(request.unique)) {
            // It does not wait any more.
            Ok(_) | Err(Errno::NOENT) => Ok(Some(Guarded::Answered)),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for DeviceGuard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// Head of a request, as far as it is looked at (`struct fuse_in_header`).
struct Header {
    opcode: u32,
    unique: u64,
    pid: u32,
}

impl Header {
    fn parse(request: &[u8]) -> Option<Self> {
        let header: &[u8; IN_HEADER] = request.first_chunk()?;
        let word = |at: usize| Some(u32::from_ne_bytes(*header.get(at..)?.first_chunk()?));
        Some(Self {
            opcode: word(4)?,
            unique: u64::from_ne_bytes(*header.get(8..)?.first_chunk()?),
            pid: word(32)?,
        })
    }
}

/// `struct fuse_out_header` with EINTR for the request called `unique`.
fn interrupted(unique: u64) -> [u8; 16] {
    let mut answer = [0; 16];
    let fields = 16_u32
        .to_ne_bytes()
        .into_iter()
        .chain((-libc::EINTR).to_ne_bytes())
        .chain(unique.to_ne_bytes());
    answer
        .iter_mut()
        .zip(fields)
        .for_each(|(to, from)| *to = from);
    answer
}

//! Answers for who must not wait, while nobody serves.
//!
//! PID 1 that looks into the tree would wait for an answer that only a service could give
//! which PID 1 alone can start. So somebody reads the device in the meantime, answers PID 1
//! with EINTR, and leaves all other requests where the next server finds them. A LOOKUP that
//! fails with EINTR fails the walk and invalidates nothing: neither the entry nor what is
//! mounted on it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFlags, Timespec};
use rustix::io::Errno;
use zeroize::Zeroize;

use crate::buffers::{Backlog, MAX_REQUEST_BYTES, RequestMemory};
use crate::connection::Connection;
use crate::wire::RequestHeader;
use crate::wire::abi::opcode;

/// Thread id of PID 1's only thread that looks at files, in the mount's pid namespace.
const INIT_PID: u32 = 1;
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Treatment of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarded {
    /// PID 1's: it was answered EINTR.
    Answered,
    /// Somebody else's: it waits for the next server.
    Left,
    /// Somebody else's, for which there is no room: it was answered EINTR.
    Refused,
    /// One that needs no answer.
    Dropped,
}

/// A device that nobody serves.
pub struct DeviceGuard {
    connection: Connection,
    memory: RequestMemory,
    /// Room for others' requests, while the device is guarded.
    backlog: Option<Backlog>,
}

impl DeviceGuard {
    /// Guards the connection of `device`, of which servers have their buffers in `memory`.
    /// Nothing is read before [`DeviceGuard::take_next`].
    #[must_use]
    pub fn new(device: OwnedFd, memory: RequestMemory) -> Self {
        Self {
            connection: Connection::from(device),
            memory,
            backlog: None,
        }
    }

    /// Whether the mount is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.connection
            .poll(Some(&AT_ONCE))
            .contains(PollFlags::ERR)
    }

    /// Whether a request waits to be read.
    #[must_use]
    pub fn has_request(&self) -> bool {
        self.connection.poll(Some(&AT_ONCE)).contains(PollFlags::IN)
    }

    /// Answers PID 1 in what a server has read and left unanswered; gives how often.
    ///
    /// # Errors
    /// What the system says.
    pub fn answer_left(&mut self) -> io::Result<usize> {
        let mut answered = 0;
        for (index, header) in self.memory.unanswered() {
            if header.ids.tid == INIT_PID && self.interrupt(&header)? {
                self.memory.dismiss(index, &header);
                answered += 1;
            }
        }
        Ok(answered)
    }

    /// Reads the next request, if one is there, and answers it if it is PID 1's.
    ///
    /// # Errors
    /// ENODEV when the mount is gone, and what else the system says.
    pub fn take_next(&mut self) -> io::Result<Option<Guarded>> {
        // A server has reads wait; there is none.
        self.connection.set_waiting(false)?;
        if self.backlog.is_none() {
            self.backlog = Backlog::open(&self.memory);
            self.backlog.iter_mut().for_each(Backlog::reuse);
        }
        let Some(room) = self.backlog.as_mut().and_then(Backlog::room) else {
            return self.refuse_next();
        };
        let Some(len) = receive(&self.connection, room)? else {
            return Ok(None);
        };
        let header = RequestHeader::parse(room).ok().filter(waits);
        let treatment = match header {
            None => Guarded::Dropped,
            Some(header) if header.ids.tid == INIT_PID => {
                self.interrupt(&header)?;
                Guarded::Answered
            }
            Some(_) => Guarded::Left,
        };
        match (&mut self.backlog, treatment) {
            (Some(backlog), Guarded::Left) => backlog.keep(),
            (Some(backlog), _) => backlog.forget(len),
            (None, _) => {}
        }
        Ok(Some(treatment))
    }

    /// Leaves the device to a server, which takes the requests that were left.
    ///
    /// # Errors
    /// What the system says.
    pub fn leave(&mut self) -> io::Result<()> {
        self.backlog = None;
        Ok(self.connection.set_waiting(true)?)
    }

    /// Reads the next request, if one is there, and answers it, whoever's it is.
    fn refuse_next(&self) -> io::Result<Option<Guarded>> {
        let mut room = vec![0; MAX_REQUEST_BYTES];
        let Some(len) = receive(&self.connection, &mut room)? else {
            return Ok(None);
        };
        let header = RequestHeader::parse(&room).ok().filter(waits);
        room.truncate(len);
        room.zeroize();
        let Some(header) = header else {
            return Ok(Some(Guarded::Dropped));
        };
        self.interrupt(&header)?;
        Ok(Some(match header.ids.tid {
            INIT_PID => Guarded::Answered,
            _ => Guarded::Refused,
        }))
    }

    /// Answers EINTR; gives whether somebody waited for it.
    fn interrupt(&self, header: &RequestHeader) -> io::Result<bool> {
        match self.connection.refuse(header.unique.request(), libc::EINTR) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Receives a request, if there is one; gives its length.
fn receive(connection: &Connection, room: &mut [u8]) -> io::Result<Option<usize>> {
    match connection.receive(room) {
        Ok(len) => Ok(Some(len)),
        Err(Errno::AGAIN) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether somebody waits for an answer to the request.
fn waits(header: &RequestHeader) -> bool {
    header.wants_answer() && header.opcode != opcode::INTERRUPT
}

impl AsFd for DeviceGuard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

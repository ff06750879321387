//! The answer that a request waits for.

use std::sync::Arc;

use rustix::io::Errno;
use zerocopy::{Immutable, IntoBytes};

use super::device::Connection;
use crate::buffers::RequestBuffer;
use crate::errno::FsError;

/// The answer to one request. It is given once: by a method, or, when it is dropped without
/// one, as EIO. Until then the request stays in its buffer.
pub(crate) struct Reply {
    connection: Arc<Connection>,
    unique: u64,
    request: Arc<RequestBuffer>,
    given: bool,
}

impl Reply {
    /// The answer to `request`, which is called `unique`.
    pub(crate) fn new(
        connection: Arc<Connection>,
        unique: u64,
        request: Arc<RequestBuffer>,
    ) -> Self {
        Self {
            connection,
            unique,
            request,
            given: false,
        }
    }

    /// Gives bytes; none say that it is done.
    pub(crate) fn data(self, bytes: &[u8]) {
        self.give(bytes);
    }

    /// Gives a structure.
    pub(crate) fn body(self, body: &(impl IntoBytes + Immutable)) {
        self.give(body.as_bytes());
    }

    /// Gives bytes; tells whether somebody waited for them.
    pub(crate) fn give(mut self, bytes: &[u8]) -> bool {
        let sent = self.connection.answer(self.unique, bytes);
        self.note(sent)
    }

    /// Says that it is done.
    pub(crate) fn done(self) {
        self.data(&[]);
    }

    /// Refuses.
    pub(crate) fn error(self, error: FsError) {
        self.errno(error.code());
    }

    /// Refuses what the file system knows nothing of.
    pub(crate) fn errno(mut self, code: i32) {
        let sent = self.connection.refuse(self.unique, code);
        self.note(sent);
    }

    /// Gives a structure, or refuses.
    pub(crate) fn result(self, result: Result<impl IntoBytes + Immutable, FsError>) {
        match result {
            Ok(body) => self.body(&body),
            Err(error) => self.error(error),
        }
    }

    /// Wants no answer.
    pub(crate) fn forgo(mut self) {
        self.given = true;
    }

    /// Notes that the answer is given. The mount may be gone, and nobody need wait any more.
    fn note(&mut self, sent: Result<(), Errno>) -> bool {
        self.given = true;
        self.request.note_answered(self.unique);
        sent.is_ok()
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.given {
            let sent = self.connection.refuse(self.unique, FsError::Io.code());
            self.note(sent);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::buffers::{RequestBuffers, RequestMemory};

    /// A connection, and the end that the kernel would have.
    fn pair() -> (Arc<Connection>, OwnedFd) {
        let (unix, packets) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (ours, kernel) = socketpair(unix, packets, SocketFlags::NONBLOCK, None).unwrap();
        (Arc::new(Connection::from(ours)), kernel)
    }

    /// Errors of the answers that were given.
    fn errors(kernel: &OwnedFd) -> Vec<i32> {
        let mut errors = Vec::new();
        let mut bytes = [0; 64];
        while let Ok(len) = rustix::io::read(kernel, &mut bytes) {
            assert!(len >= 16 && bytes[8..16] == 8_u64.to_ne_bytes());
            errors.push(i32::from_ne_bytes(*bytes[4..].first_chunk().unwrap()));
        }
        errors
    }

    #[test]
    fn a_request_is_answered_once_whatever_happens() {
        let (connection, kernel) = pair();
        let buffers = RequestBuffers::new(RequestMemory::create().unwrap());
        let request = Arc::new(buffers.take().unwrap());
        let reply = || Reply::new(connection.clone(), 8, request.clone());
        drop(reply());
        assert_eq!(errors(&kernel), [-libc::EIO]);
        reply().data(b"bytes");
        assert_eq!(errors(&kernel), [0]);
        reply().error(FsError::Busy);
        assert_eq!(errors(&kernel), [-libc::EAGAIN]);
        reply().forgo();
        assert!(errors(&kernel).is_empty());
    }
}

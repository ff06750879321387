//! The answer that a request waits for.

use std::sync::Arc;

use zerocopy::{Immutable, IntoBytes};

use super::device::Connection;
use crate::errno::FsError;

/// The answer to one request. It is given once: by a method, or, when it is dropped without
/// one, as EIO.
pub(crate) struct Reply {
    connection: Arc<Connection>,
    unique: u64,
    given: bool,
}

impl Reply {
    /// The answer to the request called `unique`.
    pub(crate) fn new(connection: Arc<Connection>, unique: u64) -> Self {
        Self {
            connection,
            unique,
            given: false,
        }
    }

    /// Gives bytes; none say that it is done.
    pub(crate) fn data(mut self, bytes: &[u8]) {
        self.given = true;
        // The mount may be gone, and nobody need wait any more.
        self.connection.answer(self.unique, bytes).ok();
    }

    /// Gives a structure.
    pub(crate) fn body(self, body: &(impl IntoBytes + Immutable)) {
        self.data(body.as_bytes());
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
        self.given = true;
        self.connection.refuse(self.unique, code).ok();
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
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.given {
            let code = FsError::Io.code();
            self.connection.refuse(self.unique, code).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

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
        drop(Reply::new(connection.clone(), 8));
        assert_eq!(errors(&kernel), [-libc::EIO]);
        Reply::new(connection.clone(), 8).data(b"bytes");
        assert_eq!(errors(&kernel), [0]);
        Reply::new(connection.clone(), 8).error(FsError::Busy);
        assert_eq!(errors(&kernel), [-libc::EAGAIN]);
        Reply::new(connection.clone(), 8).forgo();
        assert!(errors(&kernel).is_empty());
    }
}

//! Sockets between our processes: each message is one datagram of at most 32 KiB
//! and 8 fds.
//!
//! Runs in: supervisor, workers, runner, keepers.
//! Touches: sockets and fds; values only inside pipes ([`pipe_of`]).
//! Imported by: processes.

pub(crate) mod holder;
pub(crate) mod keeper;
pub(crate) mod programs;
pub(crate) mod runner;
pub(crate) mod worker;

use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest message.
const MAX_MESSAGE_BYTES: usize = 32 * 1024;
const MAX_FDS: usize = 8;
/// Room in a pipe as the kernel makes it: 16 pages.
const DEFAULT_PIPE_BYTES: usize = 64 * 1024;
const FD_SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_FDS));
/// Longest text in a message from a worker.
pub(crate) const MAX_TEXT_BYTES: usize = 2048;

/// The socket that a child was given as its standard input.
///
/// # Errors
/// When there is none.
pub(crate) fn take_stdin<S: Serialize, R: DeserializeOwned>() -> io::Result<Channel<S, R>> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::net::sockopt::socket_type(&socket)?;
    nix::unistd::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(socket.into())
}

/// One end of a socket pair, on which `S` is sent and `R` is received.
pub(crate) struct Channel<S, R> {
    socket: OwnedFd,
    messages: PhantomData<fn(S) -> R>,
}

impl<S, R> AsFd for Channel<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<S, R> From<OwnedFd> for Channel<S, R> {
    fn from(socket: OwnedFd) -> Self {
        Self {
            socket,
            messages: PhantomData,
        }
    }
}

impl<S: Serialize, R: DeserializeOwned> Channel<S, R> {
    /// Makes a pair: this end, and the socket of the other.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((a.into(), b))
    }

    /// Sends without waiting for room.
    ///
    /// # Errors
    /// `WouldBlock` when the other end does not read, `BrokenPipe` when it is gone.
    pub(crate) fn send(&self, message: &S, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = postcard::to_allocvec(message).map_err(io::Error::other)?;
        if bytes.len() > MAX_MESSAGE_BYTES || fds.len() > MAX_FDS {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut space = [MaybeUninit::uninit(); FD_SPACE];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, flags)?;
        Ok(())
    }

    /// Whether a message comes within `timeout`.
    pub(crate) fn readable(&self, timeout: Duration) -> bool {
        let Ok(timeout) = Timespec::try_from(timeout) else {
            return false;
        };
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&timeout)), Ok(1))
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other end is gone, `InvalidData` for what is no
    /// message.
    pub(crate) fn receive(&self) -> io::Result<(R, Vec<OwnedFd>)> {
        // A longer datagram is truncated, which its flags say.
        let mut bytes = vec![0; MAX_MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); FD_SPACE];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let into = &mut [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.socket, into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                result => break result?,
            }
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        let whole = !received
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
        match bytes.get(..received.bytes) {
            Some([]) => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(message) if whole => Ok((decode(message)?, fds)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn decode<M: DeserializeOwned>(bytes: &[u8]) -> io::Result<M> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Whether `bytes` are a message of type `M`: what the fuzzer calls.
pub(crate) fn is_message<M: DeserializeOwned>(bytes: &[u8]) -> bool {
    decode::<M>(bytes).is_ok()
}

/// An Ed25519 signature, 64 bytes, as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[[u8; 32]; 2]", into = "[[u8; 32]; 2]")]
pub(crate) struct Signature(pub(crate) [u8; 64]);

// serde knows arrays of up to 32 items only.
impl From<[[u8; 32]; 2]> for Signature {
    fn from(halves: [[u8; 32]; 2]) -> Self {
        let mut signature = [0; 64];
        signature.copy_from_slice(halves.as_flattened());
        Self(signature)
    }
}

impl From<Signature> for [[u8; 32]; 2] {
    fn from(Signature(bytes): Signature) -> Self {
        let mut halves = [[0; 32]; 2];
        halves.as_flattened_mut().copy_from_slice(&bytes);
        halves
    }
}

/// A pipe with all of `value` in it, and its end: read once, it is gone. The
/// kernel's pipes are never swapped, as files in memory may be.
///
/// # Errors
/// EPERM when the user's pipes hold too much already.
pub(crate) fn pipe_of(value: &[u8]) -> io::Result<OwnedFd> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // Readers of a pipe expect to wait for its end.
    fcntl_setfl(&reader, OFlags::empty())?;
    if value.len() > DEFAULT_PIPE_BYTES {
        fcntl_setpipe_size(&writer, value.len())?;
    }
    let mut rest = value;
    while !rest.is_empty() {
        let written = rustix::io::write(&writer, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(reader)
}

/// `text` cut to [`MAX_TEXT_BYTES`], for a message.
pub(crate) fn short(text: &str) -> String {
    let fits = |(at, c): &(usize, char)| at + c.len_utf8() <= MAX_TEXT_BYTES;
    text.char_indices()
        .take_while(fits)
        .map(|(_, c)| c)
        .collect()
}

#[cfg(test)]
mod tests {
    use jarvis_audit::EpochClaim;
    use proptest::prelude::*;

    use super::programs::ThreadQuestion;
    use super::runner::{FromRunner, ToRunner};
    use super::worker::{FromWorker, SupervisorChannel, ToWorker, WorkerChannel};
    use super::*;

    #[test]
    fn messages_and_fds_arrive() {
        let (ours, theirs) = WorkerChannel::pair().unwrap();
        let theirs = SupervisorChannel::from(theirs);
        let claim = EpochClaim {
            epoch: 3,
            first_seq: 9,
            prev: [1; 32],
            key: [2; 32],
        };
        let file = std::fs::File::open("/proc/self/status").unwrap();
        theirs
            .send(&FromWorker::Certify(claim), &[file.as_fd(), file.as_fd()])
            .unwrap();
        let (message, fds) = ours.receive().unwrap();
        assert_eq!(message, FromWorker::Certify(claim));
        assert_eq!(fds.len(), 2);
        drop(theirs);
        let gone = ours.receive().unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_too_long_or_no_message_is_refused() {
        let (ours, theirs) = WorkerChannel::pair().unwrap();
        let long = FromWorker::Failed("x".repeat(MAX_MESSAGE_BYTES));
        assert!(
            SupervisorChannel::from(theirs.try_clone().unwrap())
                .send(&long, &[])
                .is_err()
        );
        for bytes in [&[200; 10][..], &[0, 0], &vec![0; MAX_MESSAGE_BYTES + 1]] {
            rustix::io::write(&theirs, bytes).unwrap();
            let refused = ours.receive().unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_pipe_holds_any_value_and_its_end() {
        for size in [0, 1, DEFAULT_PIPE_BYTES, DEFAULT_PIPE_BYTES + 1, 512 * 1024] {
            let value: Vec<u8> = (0..=250).cycle().take(size).collect();
            let mut read = Vec::new();
            let mut pipe = std::fs::File::from(pipe_of(&value).unwrap());
            io::Read::read_to_end(&mut pipe, &mut read).unwrap();
            assert!(read == value, "{size}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_of_any_kind_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            is_message::<ToRunner>(&bytes);
            is_message::<FromRunner>(&bytes);
            is_message::<ThreadQuestion>(&bytes);
            is_message::<ToWorker>(&bytes);
        }

        #[test]
        fn any_bytes_are_a_message_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (ours, theirs) = WorkerChannel::pair().unwrap();
            if !bytes.is_empty() {
                rustix::io::write(&theirs, &bytes).unwrap();
                prop_assert_eq!(ours.receive().is_ok(), is_message::<FromWorker>(&bytes));
            }
        }
    }
}

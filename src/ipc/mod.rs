//! Messages between the supervisor and its children: one datagram each, at most
//! 32 KiB and 8 fds.

pub(crate) mod runner;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use jarvis_audit::{EpochClaim, SegmentClaim};
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

use crate::config::Config;
use crate::ipc::runner::{FromRunner, ToRunner};

/// Longest message in bytes.
const MAX: usize = 32 * 1024;
const MAX_FDS: usize = 8;
/// What fits in a pipe as the kernel makes it: 16 pages.
const PIPE: usize = 64 * 1024;
const FD_SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_FDS));
/// Longest text in a message from a worker, in bytes.
pub(crate) const MAX_TEXT: usize = 2048;

/// From the supervisor to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// The first message. Fds: directory of the vault, directory of the audit
    /// log, handle table, watch, keys, who tells programs, and the HTTP listener when
    /// there is one.
    Start(Box<Start>),
    /// The predecessor is dead: open vault and audit log. The one fd has the
    /// text of the policy in force.
    Open(Open),
    /// Serve the device, which is the one fd.
    Attach {
        /// Others have served it: ask for what they left unanswered.
        resend: bool,
    },
    /// Say that you live.
    Ping(Facts),
    /// The policy's text is behind the one fd; or why it can't be read.
    Policy(Result<(), String>),
    /// Load the policy anew.
    Reload,
    /// The two halves of the signature that was asked for.
    Certificate([u8; 32], [u8; 32]),
    /// The one fd leads to the runner.
    Runner,
    /// Stop answering, record why, and end.
    Retire(String),
}

/// What a worker needs to know before it opens anything.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) config: Config,
    /// The worker's user and group, when it is to change them.
    pub(crate) user: Option<(u32, u32)>,
    /// The mount is for every user.
    pub(crate) shared: bool,
    /// Tells this mount's requests from all others'.
    pub(crate) mount: [u8; 16],
    /// When the service began, Unix milliseconds.
    pub(crate) started_ms: i64,
    /// Listen from the beginning: nobody else does.
    pub(crate) alone: bool,
    /// Accept a vault that is older than its audit log.
    pub(crate) accept_restored: bool,
    /// The host's name in records.
    pub(crate) host: jarvis_audit::HostId,
}

/// How to open vault and audit log.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Open {
    /// No worker of this supervisor had them open: check everything.
    pub(crate) fresh: bool,
    /// The predecessor ended by its own fault: what it was at work on is suspect.
    pub(crate) crashed: bool,
    /// What is known of the predecessor's end.
    pub(crate) reason: Option<String>,
}

/// What the supervisor has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Number of the ping.
    pub(crate) ping: u64,
    /// Workers that have served so far.
    pub(crate) generation: u64,
    /// Ends of serving workers: by a signal from outside, by their own fault,
    /// because they did not answer, for an upgrade.
    pub(crate) killed: u64,
    pub(crate) crashed: u64,
    pub(crate) hung: u64,
    pub(crate) replaced: u64,
    /// The last time nobody served, in microseconds.
    pub(crate) gap_us: u64,
}

/// From a worker to the supervisor: all that a hijacked worker can ask for.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum FromWorker {
    /// Sandboxed and waiting for [`ToWorker::Open`].
    Ready,
    /// Vault and audit log are open; the number of secrets.
    Opened(u64),
    /// The device is being served.
    Serving,
    /// Alive, and no request is stuck.
    Pong(u64),
    /// Certify the first epoch key; once in a worker's life.
    Certify(EpochClaim),
    /// Certify the first key of a segment of the audit log; only upwards.
    CertifySegment(SegmentClaim),
    /// Give me the policy's text as it is now.
    Policy,
    /// The policy last given is in force.
    Accepted,
    /// How far the audit log has come, as a note.
    Checkpoint(String),
    /// It can't go on, and another worker could not either.
    Failed(String),
    /// The device is gone.
    Ended(String),
    /// The answer to [`ToWorker::Retire`].
    Retired,
}

/// Which thread a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Whose {
    /// Its id, which others may have after it.
    pub(crate) tid: u32,
    /// Its number, which no other ever has.
    pub(crate) thread: u64,
}

/// The answer.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) whose: Whose,
    /// The path of its executable; `None` when it is gone or can't be shown.
    pub(crate) path: Option<String>,
}

/// Longest path of a program that is recorded, in bytes.
const MAX_PROGRAM: usize = 1024;

/// Whether a path can stand in a record and be shown on a terminal.
pub(crate) fn printable(path: &str) -> bool {
    !path.is_empty() && path.len() <= MAX_PROGRAM && !path.chars().any(char::is_control)
}

/// The socket that a child was given as its standard input.
///
/// # Errors
/// When there is none.
pub(crate) fn take_stdin() -> io::Result<Link> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::net::sockopt::socket_type(&socket)?;
    nix::unistd::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(socket.into())
}

/// One end of a socket pair.
pub(crate) struct Link(OwnedFd);

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Link {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl Link {
    /// Both ends.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(a), b))
    }

    /// Sends without waiting for room.
    ///
    /// # Errors
    /// `WouldBlock` when the other end does not read, `BrokenPipe` when it is gone.
    pub(crate) fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = postcard::to_allocvec(message).map_err(io::Error::other)?;
        if bytes.len() > MAX || fds.len() > MAX_FDS {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut space = [MaybeUninit::uninit(); FD_SPACE];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, flags)?;
        Ok(())
    }

    /// Whether a message comes within `patience`.
    pub(crate) fn readable(&self, patience: Duration) -> bool {
        let Ok(timeout) = Timespec::try_from(patience) else {
            return false;
        };
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&timeout)), Ok(1))
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other end is gone, `InvalidData` for what is no
    /// message.
    pub(crate) fn receive<M: DeserializeOwned>(&self) -> io::Result<(M, Vec<OwnedFd>)> {
        let mut bytes = vec![0; MAX];
        let mut space = [MaybeUninit::uninit(); FD_SPACE];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let into = &mut [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, into, &mut control, RecvFlags::CMSG_CLOEXEC) {
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

/// Whether `bytes` are a worker's message: what the fuzzer calls.
pub(crate) fn is_message(bytes: &[u8]) -> bool {
    decode::<FromWorker>(bytes).is_ok()
}

/// Whether `bytes` are a worker's question about a thread: what the fuzzer calls.
pub(crate) fn is_question(bytes: &[u8]) -> bool {
    decode::<Whose>(bytes).is_ok()
}

/// Whether `bytes` are a message to or from the runner: what the fuzzer calls.
pub(crate) fn is_errand(bytes: &[u8]) -> (bool, bool) {
    (
        decode::<ToRunner>(bytes).is_ok(),
        decode::<FromRunner>(bytes).is_ok(),
    )
}

/// A pipe with all of `value` in it, and its end: read once, it is gone. The
/// kernel's pipes are never swapped, as files in memory may be.
///
/// # Errors
/// EPERM when the user's pipes hold too much already.
pub(crate) fn pipe_of(value: &[u8]) -> io::Result<OwnedFd> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // Who reads it expects to wait.
    fcntl_setfl(&reader, OFlags::empty())?;
    if value.len() > PIPE {
        fcntl_setpipe_size(&writer, value.len())?;
    }
    let mut rest = value;
    while !rest.is_empty() {
        let written = rustix::io::write(&writer, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(reader)
}

/// `text` cut to [`MAX_TEXT`], for a message.
pub(crate) fn short(text: &str) -> String {
    let fits = |(at, c): &(usize, char)| at + c.len_utf8() <= MAX_TEXT;
    text.char_indices()
        .take_while(fits)
        .map(|(_, c)| c)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_and_fds_arrive() {
        let (ours, theirs) = Link::pair().unwrap();
        let theirs = Link::from(theirs);
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
        let (message, fds) = ours.receive::<FromWorker>().unwrap();
        assert_eq!(message, FromWorker::Certify(claim));
        assert_eq!(fds.len(), 2);
        drop(theirs);
        let gone = ours.receive::<FromWorker>().unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_too_long_or_no_message_is_refused() {
        let (ours, theirs) = Link::pair().unwrap();
        let long = FromWorker::Failed("x".repeat(MAX));
        assert!(
            Link::from(theirs.try_clone().unwrap())
                .send(&long, &[])
                .is_err()
        );
        for bytes in [&[200; 10][..], &[0, 0], &vec![0; MAX + 1]] {
            rustix::io::write(&theirs, bytes).unwrap();
            let refused = ours.receive::<FromWorker>().unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_pipe_holds_any_value_and_its_end() {
        for size in [0, 1, PIPE, PIPE + 1, 512 * 1024] {
            let value: Vec<u8> = (0..=250).cycle().take(size).collect();
            let mut read = Vec::new();
            let mut pipe = std::fs::File::from(pipe_of(&value).unwrap());
            io::Read::read_to_end(&mut pipe, &mut read).unwrap();
            assert!(read == value, "{size}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_errand_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            is_errand(&bytes);
            is_question(&bytes);
        }

        #[test]
        fn any_bytes_are_a_message_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (ours, theirs) = Link::pair().unwrap();
            if !bytes.is_empty() {
                rustix::io::write(&theirs, &bytes).unwrap();
                prop_assert_eq!(ours.receive::<FromWorker>().is_ok(), is_message(&bytes));
            }
        }
    }
}

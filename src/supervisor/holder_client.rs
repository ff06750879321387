//! The holder as the supervisor asks it: to keep the mount, and to leave the device alone
//! while a worker reads it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};

use crate::ipc::holder::{FromHolder, HolderChannel, KeptMount, ToHolder};

/// How long the holder may take to answer. One that is stopped is ended: PID 1 could wait
/// for it, and systemd starts another one.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How often the holder has to show that it lives.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// The supervisor's end of the socket to the holder.
pub(super) struct HolderClient {
    socket: PathBuf,
    /// `None` while there is no holder: it is looked for again.
    peer: Option<HolderPeer>,
    /// The holder has read requests that a worker should have read.
    took: bool,
    /// A worker reads the device, or is about to.
    served: bool,
    /// When the holder was last asked whether it lives, and whether it has answered.
    pinged: Instant,
    answered: bool,
}

/// A holder that is connected.
struct HolderPeer {
    channel: HolderChannel,
    pidfd: OwnedFd,
}

impl HolderClient {
    /// Connects to the holder at `socket`.
    ///
    /// # Errors
    /// The system's answer.
    pub(super) fn connect(socket: &Path) -> io::Result<Self> {
        Ok(Self {
            peer: Some(HolderPeer::open(socket)?),
            socket: socket.to_owned(),
            took: false,
            served: false,
            pinged: Instant::now(),
            answered: true,
        })
    }

    /// Readable when the holder has said something, or is gone.
    pub(super) fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.peer.as_ref().map(|peer| peer.channel.as_fd())
    }

    /// Fds that an earlier supervisor left with the holder; none when nothing was left.
    pub(super) fn recover(&mut self) -> Vec<OwnedFd> {
        self.ask(&ToHolder::Recover, &[], &FromHolder::Recovered)
            .unwrap_or_default()
    }

    /// Has the holder keep the mount at `path`: the device, then the tables.
    pub(super) fn keep(&mut self, path: &Path, fds: &[BorrowedFd<'_>]) {
        let mount = KeptMount {
            path: path.to_owned(),
            served: self.served,
        };
        if self
            .ask(&ToHolder::Keep(mount), fds, &FromHolder::Kept)
            .is_none()
        {
            tracing::error!("the holder does not keep the mount: it ends with this process");
        }
    }

    /// Has the holder forget the mount, which is gone.
    pub(super) fn withdraw(&mut self) {
        self.send(&ToHolder::Withdraw, &[]);
    }

    /// Has the holder leave the device alone, before a worker reads it: requests that the
    /// holder reads are not answered.
    pub(super) fn pause(&mut self) {
        self.ask(&ToHolder::Pause, &[], &FromHolder::Paused);
        self.took = false;
        self.served = true;
    }

    /// Tells the holder whether a worker serves.
    pub(super) fn set_serving(&mut self, serving: bool) {
        self.served = serving;
        let message = if serving {
            ToHolder::Serving
        } else {
            ToHolder::Unserved
        };
        self.send(&message, &[]);
    }

    /// Takes what the holder says unasked; gives whether the serving worker must be
    /// replaced for the requests that the holder has read.
    pub(super) fn receive(&mut self) -> bool {
        while self.is_readable() {
            self.receive_one();
        }
        std::mem::take(&mut self.took)
    }

    /// Ends a holder that does not answer, and looks for one where there is none; gives
    /// whether there is a new one, which keeps nothing yet.
    pub(super) fn ensure(&mut self) -> bool {
        if self.peer.is_none() {
            self.peer = HolderPeer::open(&self.socket).ok();
            self.answered = true;
            return self.peer.is_some();
        }
        let since = self.pinged.elapsed();
        if !self.answered && since > ANSWER_LIMIT {
            self.end();
        } else if self.answered && since > PING_INTERVAL {
            self.pinged = Instant::now();
            self.answered = false;
            self.send(&ToHolder::Ping, &[]);
        }
        false
    }

    /// Ends a holder that does not answer.
    fn end(&mut self) {
        if let Some(peer) = self.peer.take() {
            tracing::error!("the holder does not answer: ending it");
            // It may be dead already.
            pidfd_send_signal(&peer.pidfd, Signal::KILL).ok();
        }
    }

    /// Sends `question` and waits for `answer`; gives the fds that came with it.
    fn ask(
        &mut self,
        question: &ToHolder,
        fds: &[BorrowedFd<'_>],
        answer: &FromHolder,
    ) -> Option<Vec<OwnedFd>> {
        self.send(question, fds);
        let until = Instant::now() + ANSWER_LIMIT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if !self.peer.as_ref()?.channel.readable(left) {
                self.end();
                return None;
            }
            let (message, fds) = self.receive_one()?;
            if message == *answer {
                return Some(fds);
            }
        }
    }

    fn is_readable(&self) -> bool {
        let peer = self.peer.as_ref();
        peer.is_some_and(|peer| peer.channel.readable(Duration::ZERO))
    }

    fn receive_one(&mut self) -> Option<(FromHolder, Vec<OwnedFd>)> {
        match self.peer.as_ref()?.channel.receive() {
            Ok((message, fds)) => {
                self.took |= message == FromHolder::Took;
                self.answered |= message == FromHolder::Pong;
                Some((message, fds))
            }
            Err(error) => {
                tracing::error!(%error, "the holder is gone");
                self.peer = None;
                None
            }
        }
    }

    fn send(&mut self, message: &ToHolder, fds: &[BorrowedFd<'_>]) {
        if let Some(peer) = &self.peer
            && let Err(error) = peer.channel.send(message, fds)
        {
            tracing::error!(%error, "the holder cannot be told");
            self.peer = None;
        }
    }
}

impl HolderPeer {
    fn open(socket: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        connect(&fd, &SocketAddrUnix::new(socket)?)?;
        let holder = socket_peercred(&fd)?;
        // Who listens gets the device and the tables.
        if holder.uid != geteuid() {
            let why = format!(
                "uid {} listens there, who is no holder",
                holder.uid.as_raw()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        Ok(Self {
            pidfd: pidfd_open(holder.pid, PidfdFlags::empty())?,
            channel: fd.into(),
        })
    }
}

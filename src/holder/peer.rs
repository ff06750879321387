//! The holder's socket, and the supervisor at its other end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};
use rustix::process::{PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};

use super::error::HolderError;
use crate::ipc::holder::{FromHolder, HolderEnd, ToHolder};

/// Supervisors that may wait to be accepted.
const BACKLOG: i32 = 4;

/// The socket that supervisors connect to.
pub(super) struct Listener(OwnedFd);

impl Listener {
    /// Listens at `path`, which an earlier holder may have left.
    ///
    /// # Errors
    /// [`HolderError::Listen`].
    pub(super) fn bind(path: &Path) -> Result<Self, HolderError> {
        let failed = |source: io::Error| HolderError::Listen {
            path: path.to_owned(),
            source,
        };
        if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
            std::fs::create_dir(parent).map_err(failed)?;
            // Whatever the umask: the mount point may lie here, too.
            let open = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(parent, open).map_err(failed)?;
        }
        // Under its name it listens at once: who finds it there is not refused.
        let fresh = path.with_extension("new");
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listening = || -> rustix::io::Result<OwnedFd> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            bind(&socket, &SocketAddrUnix::new(&fresh)?)?;
            listen(&socket, BACKLOG)?;
            Ok(socket)
        };
        let socket = listening().map_err(|errno| failed(errno.into()))?;
        // Who connects is asked for its uid, too.
        let owner = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&fresh, owner).map_err(failed)?;
        std::fs::rename(&fresh, path).map_err(failed)?;
        Ok(Self(socket))
    }

    /// The next supervisor, if one has come; others than the own user are sent away. One that
    /// died while it came is none: no end of a supervisor may end the holder.
    ///
    /// # Errors
    /// The system's answer, when nobody will be accepted any more.
    pub(super) fn accept(&self) -> io::Result<Option<SupervisorPeer>> {
        let socket = match accept_with(&self.0, SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            // It waits until there is room.
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let peer = socket_peercred(&socket)?;
        if peer.uid != geteuid() {
            tracing::error!(uid = peer.uid.as_raw(), "not a supervisor");
            return Ok(None);
        }
        match pidfd_open(peer.pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Some(SupervisorPeer {
                pidfd,
                channel: socket.into(),
            })),
            Err(errno) => {
                tracing::warn!(%errno, "the supervisor is gone before it said anything");
                Ok(None)
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A supervisor that is connected.
pub(super) struct SupervisorPeer {
    channel: HolderEnd,
    pidfd: OwnedFd,
}

impl SupervisorPeer {
    /// The next message with its fds, if there is one.
    ///
    /// # Errors
    /// `UnexpectedEof` once the supervisor is gone, `InvalidData` for what is no message.
    pub(super) fn receive(&self) -> io::Result<Option<(ToHolder, Vec<OwnedFd>)>> {
        if self.channel.readable(Duration::ZERO) {
            self.channel.receive().map(Some)
        } else {
            Ok(None)
        }
    }

    /// Sends without waiting for room.
    ///
    /// # Errors
    /// The system's answer.
    pub(super) fn send(&self, message: &FromHolder, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.channel.send(message, fds)
    }

    /// Ends it, and with it its workers.
    pub(super) fn kill(&self) {
        // It may be dead already.
        pidfd_send_signal(&self.pidfd, Signal::KILL).ok();
    }
}

impl AsFd for SupervisorPeer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

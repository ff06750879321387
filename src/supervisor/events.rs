//! Events that the supervisor waits for.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::worker::Role;

/// Event of the supervisor's loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SupervisorEvent {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP: the policy is to be loaded anew.
    Reload,
    /// SIGUSR2: the worker is to be replaced by one from the installed program.
    Upgrade,
    /// A worker sent something, or closed its socket.
    Message(Role),
    /// A worker ended.
    Exited(Role),
    /// The runner ended.
    RunnerExited,
    /// The holder said something, or is gone.
    Holder,
    /// Something was mounted or unmounted where readers stand.
    MountsChanged,
}

impl SupervisorEvent {
    /// How poll(2) shows the event.
    fn flags(self) -> PollFlags {
        match self {
            // A mount table is always readable.
            Self::MountsChanged => PollFlags::PRI,
            _ => PollFlags::IN,
        }
    }
}

/// Event, and the fd that shows that it has happened.
pub(super) type EventSource<'fd> = (SupervisorEvent, BorrowedFd<'fd>);

/// Waits for at most `limit`; gives the events that have happened, in the order of
/// their sources.
///
/// # Errors
/// The kernel's errno.
pub(super) fn wait(
    sources: &[EventSource<'_>],
    limit: Duration,
) -> Result<Vec<SupervisorEvent>, Errno> {
    let mut fds: Vec<_> = sources
        .iter()
        .map(|(event, fd)| PollFd::from_borrowed_fd(*fd, event.flags()))
        .collect();
    let limit = Timespec::try_from(limit).map_err(|_| Errno::INVAL)?;
    match poll(&mut fds, Some(&limit)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno),
    }
    let polled = sources.iter().zip(&fds);
    let happened = polled.filter(|(_, fd)| !fd.revents().is_empty());
    Ok(happened.map(|((event, _), _)| *event).collect())
}

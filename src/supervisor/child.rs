//! A child process of any kind, with a socket as its standard input.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ipc::Channel;

/// Child process, which is killed and reaped when dropped.
pub(super) struct ChildProcess {
    process: Child,
    pidfd: OwnedFd,
}

impl ChildProcess {
    /// Starts `program` in `role`, with the other end of the channel as its standard
    /// input.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn spawn<S: Serialize, R: DeserializeOwned>(
        program: &Path,
        role: &str,
    ) -> io::Result<(Self, Channel<S, R>)> {
        let (channel, theirs) = Channel::pair()?;
        let mut process = Command::new(program)
            // The path may be a mere fd.
            .arg0("jarvis-secretsd")
            .arg(role)
            // Nothing that was meant for the supervisor.
            .env_clear()
            // A Ctrl-C is for the supervisor, which ends its children in order.
            .process_group(0)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        match pidfd_open(Pid::from_child(&process), PidfdFlags::empty()) {
            Ok(pidfd) => Ok((Self { process, pidfd }, channel)),
            Err(errno) => {
                process.kill().ok();
                process.wait().ok();
                Err(errno.into())
            }
        }
    }

    /// Process id.
    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Readable once the process has ended.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends SIGKILL, to no other process: a pidfd is never another's.
    pub(super) fn kill(&self) {
        // The process may have ended already.
        pidfd_send_signal(&self.pidfd, Signal::KILL).ok();
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn reap(&mut self) -> io::Result<ExitStatus> {
        self.process.wait()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // Reaped already, or not wanted any more.
        if matches!(self.process.try_wait(), Ok(None)) {
            match self.process.kill() {
                Ok(()) => drop(self.process.wait()),
                // Without CAP_KILL: the kernel ends it with this process.
                Err(error) => {
                    tracing::error!(%error, pid = self.pid(), "a child cannot be ended");
                }
            }
        }
    }
}

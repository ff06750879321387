//! Keepers as the runner sees them: each is started for one program.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use crate::ipc::keeper::{ExitCause, KeeperChannel, ProgramSpec, StartRefusal};

/// Where programs find others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Environment that every program has.
pub(in crate::runner) fn base_environment() -> Vec<(String, String)> {
    vec![
        ("PATH".into(), PATH.into()),
        ("LANG".into(), "C.UTF-8".into()),
    ]
}

/// A keeper that waits for its program.
pub(in crate::runner) struct KeeperProcess {
    process: Child,
    channel: Arc<KeeperChannel>,
}

impl KeeperProcess {
    /// Starts a keeper.
    ///
    /// # Errors
    /// What the system says.
    pub(in crate::runner) fn spawn() -> Result<Self, StartRefusal> {
        let start = || -> io::Result<_> {
            let (channel, theirs) = KeeperChannel::pair()?;
            let process = Command::new("/proc/self/exe")
                .arg0("jarvis-secretsd")
                .arg("keeper")
                .env_clear()
                .process_group(0)
                .stdin(Stdio::from(theirs))
                .stdout(Stdio::null())
                .spawn()?;
            let channel = Arc::new(channel);
            Ok(Self { process, channel })
        };
        start().map_err(|error| StartRefusal::System(error.raw_os_error().unwrap_or(libc::EIO)))
    }

    /// The socket to the keeper, which ends its program when the socket is shut
    /// down.
    pub(in crate::runner) fn channel(&self) -> Arc<KeeperChannel> {
        self.channel.clone()
    }

    /// Has the keeper run `program` with `fds`, and waits for the end of both.
    pub(in crate::runner) fn run(
        mut self,
        program: &ProgramSpec,
        fds: &[BorrowedFd<'_>],
    ) -> ExitCause {
        let sent = self.channel.send(program, fds);
        let answer = sent.and_then(|()| self.channel.receive());
        // A keeper ends by itself once it has answered, or is gone.
        self.process.wait().ok();
        answer.map_or(ExitCause::Lost, |(cause, _)| cause)
    }
}

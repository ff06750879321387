//! The runner process, and what it is given.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use jarvis_audit::HostId;
use jarvis_sys::trust::{self, Rule};

use super::backoff::Backoff;
use super::child::ChildProcess;
use super::error::RunnerStartError;
use super::events::{EventSource, SupervisorEvent};
use crate::config::{Config, NotifyConfig};
use crate::ipc::runner::{RunnerChannel, RunnerConfig, ToRunner};

/// The process with the network: workers talk to it, the supervisor does not.
pub struct RunnerProcess {
    child: ChildProcess,
    /// The end that workers are given.
    channel: RunnerChannel,
}

impl RunnerProcess {
    /// Starts `program` as a runner that becomes `user` and serves `config`.
    ///
    /// # Errors
    /// [`RunnerStartError`].
    pub fn spawn(
        program: &Path,
        user: Option<(u32, u32)>,
        config: &Config,
        host: &HostId,
    ) -> Result<Self, RunnerStartError> {
        let files = RunnerFiles::open(config)?;
        let (child, channel) = ChildProcess::spawn(program, "runner")?;
        let runner = Self { child, channel };
        let terms = RunnerConfig {
            user,
            hook_secs: config.hooks.timeout_secs,
            sinks: config.notify.len(),
            host: host.to_string(),
            level: config.logging.level,
        };
        let send = |message: &ToRunner, fd: Option<&OwnedFd>| {
            let fds: Vec<_> = fd.into_iter().map(AsFd::as_fd).collect();
            runner.channel.send(message, &fds)
        };
        send(&ToRunner::Configure(terms), files.hooks.as_ref())?;
        for (notify, fd) in config.notify.iter().zip(&files.sinks) {
            send(&ToRunner::AddSink(notify.clone()), fd.as_ref())?;
        }
        Ok(runner)
    }

    /// End of the socket pair for a worker.
    #[must_use]
    pub fn link(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }
}

/// Place of the runner.
pub(super) struct RunnerSlot {
    process: Option<RunnerProcess>,
    /// Uid and gid of the runner; `None` when it stays what the supervisor is.
    user: Option<(u32, u32)>,
    backoff: Backoff,
}

impl RunnerSlot {
    /// No runner yet; it is to run as `user`.
    pub(super) fn new(user: Option<(u32, u32)>) -> Self {
        Self {
            process: None,
            user,
            backoff: Backoff::new(),
        }
    }

    /// Whether a runner is missing, and may be started now.
    pub(super) fn wants_process(&self) -> bool {
        self.process.is_none() && self.backoff.left().is_zero()
    }

    /// Starts a runner. Secrets are served without one, too: its failure is no reason
    /// to end that.
    pub(super) fn spawn(&mut self, program: &Path, config: &Config, host: &HostId) {
        match RunnerProcess::spawn(program, self.user, config, host) {
            Ok(process) => self.process = Some(process),
            Err(error) => {
                tracing::error!(%error, "cannot start the runner");
                self.backoff.ended(Duration::ZERO, true);
            }
        }
    }

    /// End of the socket pair for a worker.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.process.as_ref().map(RunnerProcess::link)
    }

    /// Source of [`SupervisorEvent::RunnerExited`].
    pub(super) fn event_source(&self) -> Option<EventSource<'_>> {
        let process = self.process.as_ref();
        process.map(|process| (SupervisorEvent::RunnerExited, process.child.pidfd()))
    }

    /// Notes the runner's end, which is never meant: it runs as long as the supervisor.
    pub(super) fn on_exit(&mut self) {
        if self.process.take().is_some() {
            tracing::warn!("the runner ended");
            self.backoff.ended(Duration::ZERO, true);
        }
    }

    /// Ends the runner.
    pub(super) fn stop(&mut self) {
        self.process = None;
    }
}

/// Files that the runner's user may not be able to open by itself. The runner looks
/// at what is in the directories.
pub(super) struct RunnerFiles {
    /// Directory of the hooks.
    hooks: Option<OwnedFd>,
    /// For each `[[notify]]` the directory of its command, or the key of its signature.
    sinks: Vec<Option<OwnedFd>>,
}

impl RunnerFiles {
    /// Opens what `config` names.
    ///
    /// # Errors
    /// [`RunnerStartError`] about the one that can't be opened.
    pub(super) fn open(config: &Config) -> Result<Self, RunnerStartError> {
        let hooks = config.hooks.dir.as_deref().map(open_directory);
        Ok(Self {
            hooks: hooks.transpose()?,
            sinks: config
                .notify
                .iter()
                .map(open_for_sink)
                .collect::<Result<_, _>>()?,
        })
    }
}

fn open_for_sink(notify: &NotifyConfig) -> Result<Option<OwnedFd>, RunnerStartError> {
    match (&notify.command, &notify.secret_file) {
        (Some(command), _) => {
            let parent = command.parent().unwrap_or(Path::new("/"));
            open_directory(parent).map(Some)
        }
        (None, Some(key)) => open_key(key).map(Some),
        (None, None) => Ok(None),
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, RunnerStartError> {
    Ok(trust::locate(path, Rule::DIRECTORY)?)
}

/// A key that nobody else can read.
fn open_key(path: &Path) -> Result<OwnedFd, RunnerStartError> {
    Ok(trust::open(path, Rule::PRIVATE_FILE)?.into())
}

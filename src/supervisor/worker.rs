//! One worker process, as the supervisor sees it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use jarvis_audit::HostId;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{Config, NotifyConfig};
use crate::ipc::Channel;
use crate::ipc::runner::{RunnerChannel, RunnerConfig, ToRunner};
use crate::ipc::worker::{FromWorker, SupervisorStats, ToWorker, WorkerChannel};
use crate::process::Failure;

/// How far a worker has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Starting,
    Ready,
    Opening,
    Attaching,
    Serving,
    Retiring,
}

/// Why a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// By a signal from outside.
    Killed,
    /// By its own fault.
    Crashed,
    /// It did not answer.
    Hung,
    /// It was told to.
    Retired,
}

/// Starts `program` in `role` with one end of a socket pair as its standard input.
fn start<S: Serialize, R: DeserializeOwned>(
    program: &Path,
    role: &str,
) -> io::Result<(Child, OwnedFd, Channel<S, R>)> {
    let (link, theirs) = Channel::pair()?;
    let mut process = Command::new(program)
        // The path may be a mere fd.
        .arg0("jarvis-secretsd")
        .arg(role)
        // Nothing that was meant for the supervisor.
        .env_clear()
        // A Ctrl-C is for the supervisor, which ends them in order.
        .process_group(0)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()?;
    match pidfd_open(Pid::from_child(&process), PidfdFlags::empty()) {
        Ok(pidfd) => Ok((process, pidfd, link)),
        Err(errno) => {
            process.kill().ok();
            process.wait().ok();
            Err(errno.into())
        }
    }
}

/// The process that runs errands; workers talk to it, the supervisor does not.
pub struct Runner {
    process: Child,
    pidfd: OwnedFd,
    /// The workers' end.
    link: RunnerChannel,
}

impl Runner {
    /// Starts `program` as a runner that becomes `user` and serves `config`.
    ///
    /// # Errors
    /// What the system says.
    pub fn spawn(
        program: &Path,
        user: Option<(u32, u32)>,
        config: &Config,
        host: &HostId,
    ) -> io::Result<Self> {
        let (hooks, sinks) = open_for_runner(config).map_err(io::Error::other)?;
        let (process, pidfd, link) = start(program, "runner")?;
        let runner = Self {
            process,
            pidfd,
            link,
        };
        let terms = RunnerConfig {
            user,
            hook_secs: config.hooks.timeout_secs,
            sinks: config.notify.len(),
            host: host.to_string(),
            level: config.logging.level,
        };
        let send = |message: &ToRunner, fd: Option<&OwnedFd>| {
            let fds: Vec<_> = fd.into_iter().map(AsFd::as_fd).collect();
            runner.link.send(message, &fds)
        };
        send(&ToRunner::Configure(terms), hooks.as_ref())?;
        for (notify, fd) in config.notify.iter().zip(&sinks) {
            send(&ToRunner::AddSink(notify.clone()), fd.as_ref())?;
        }
        Ok(runner)
    }

    /// The end for a worker.
    #[must_use]
    pub fn link(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Readable when it is dead.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// What the runner's user may not be able to open by itself: the directory of
/// the hooks, and for each `[[notify]]` the directory of its command or the key
/// of its signature. The runner looks at what is in the directories.
///
/// # Errors
/// A sentence about the one that can't be opened.
pub(super) fn open_for_runner(config: &Config) -> Result<ForRunner, Failure> {
    let hooks = config
        .hooks
        .dir
        .as_deref()
        .map(open_directory)
        .transpose()?;
    let of_sink = |notify: &NotifyConfig| match (&notify.command, &notify.secret_file) {
        (Some(command), _) => {
            let parent = command.parent().unwrap_or(Path::new("/"));
            open_directory(parent).map(Some)
        }
        (None, Some(key)) => open_key(key).map(Some),
        (None, None) => Ok(None),
    };
    let sinks = config
        .notify
        .iter()
        .map(of_sink)
        .collect::<Result<_, _>>()?;
    Ok((hooks, sinks))
}

/// The directory of the hooks and what belongs to each `[[notify]]`.
type ForRunner = (Option<OwnedFd>, Vec<Option<OwnedFd>>);

fn open_directory(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| format!("cannot use the directory {}: {error}", path.display()))
}

/// A key that nobody else can read.
fn open_key(path: &Path) -> Result<OwnedFd, Failure> {
    let shown = path.display();
    let failed = |error: io::Error| format!("cannot open the key {shown}: {error}");
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    match mode & 0o077 {
        0 => Ok(file.into()),
        _ => Err(format!(
            "the key {shown} has mode {mode:04o}, others could read it; run: chmod 0600 {shown}"
        )),
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

pub(super) struct Worker {
    process: Child,
    pidfd: OwnedFd,
    link: WorkerChannel,
    pub(super) phase: Phase,
    /// When the phase began.
    pub(super) since: Instant,
    /// A ping is out since then.
    pub(super) pinged: Option<Instant>,
    last_ping: Option<Instant>,
    /// The segment whose first key was certified last (none at first), and the
    /// epoch before that key's; before the first segment the start's.
    pub(super) certified: Option<(u32, u64)>,
    hung: bool,
    /// What it said it failed of.
    pub(super) failure: Option<String>,
}

impl Worker {
    /// Starts `program` as a worker.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn spawn(program: &Path) -> io::Result<Self> {
        let (process, pidfd, link) = start(program, "worker")?;
        Ok(Self {
            process,
            pidfd,
            link,
            phase: Phase::Starting,
            since: Instant::now(),
            pinged: None,
            last_ping: None,
            certified: None,
            hung: false,
            failure: None,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Readable when it has said something.
    pub(super) fn link(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// Readable when it is dead.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
    }

    /// A worker that can't be told anything is as good as hung.
    pub(super) fn say(&mut self, message: &ToWorker, fds: &[BorrowedFd<'_>]) {
        if let Err(error) = self.link.send(message, fds)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            tracing::error!(%error, pid = self.pid(), "a worker takes no messages");
            self.kill();
        }
    }

    pub(super) fn ping(&mut self, facts: SupervisorStats) {
        self.pinged = Some(Instant::now());
        self.last_ping = self.pinged;
        self.say(&ToWorker::Ping(facts), &[]);
    }

    /// Whether it has answered, and that is `interval` ago.
    pub(super) fn rested(&self, interval: Duration) -> bool {
        self.pinged.is_none() && self.last_ping.is_none_or(|last| last.elapsed() >= interval)
    }

    /// What it says, once [`Self::link`] is readable; `None` at the end.
    pub(super) fn hear(&mut self) -> Option<FromWorker> {
        match self.link.receive() {
            // Fds from a worker mean nothing and are closed.
            Ok((message, _)) => Some(message),
            Err(error) => {
                if error.kind() != io::ErrorKind::UnexpectedEof
                    && error.kind() != io::ErrorKind::ConnectionReset
                {
                    tracing::error!(%error, pid = self.pid(), "a worker said what is no message");
                    self.kill();
                }
                None
            }
        }
    }

    /// What a dead one has said and nobody has heard yet.
    pub(super) fn last_words(&mut self) -> Option<FromWorker> {
        self.link.readable(Duration::ZERO).then(|| self.hear())?
    }

    /// SIGKILL to a worker that does not do its work.
    pub(super) fn kill(&mut self) {
        self.hung = true;
        // It may be dead already.
        pidfd_send_signal(&self.pidfd, Signal::KILL).ok();
    }

    /// Whether [`Self::kill`] was its sentence.
    #[cfg(test)]
    pub(super) fn condemned(&self) -> bool {
        self.hung
    }

    /// Reaps it once [`Self::pidfd`] is readable.
    pub(super) fn bury(mut self) -> (Death, String) {
        let status = self.process.wait();
        let (pid, retired) = (self.pid(), self.phase == Phase::Retiring);
        let (death, how) = match status {
            Ok(status) => (self.cause(status, retired), status.to_string()),
            Err(error) => (Death::Crashed, error.to_string()),
        };
        let why = match self.failure.take() {
            Some(failure) => failure,
            None if death == Death::Hung => format!("worker {pid} did not answer"),
            None => format!("worker {pid} ended: {how}"),
        };
        (death, why)
    }

    fn cause(&self, status: ExitStatus, retired: bool) -> Death {
        const OWN_FAULT: [i32; 7] = [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGABRT,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGSYS,
            libc::SIGTRAP,
        ];
        match status.signal() {
            _ if retired => Death::Retired,
            _ if self.hung => Death::Hung,
            Some(signal) if !OWN_FAULT.contains(&signal) => Death::Killed,
            _ => Death::Crashed,
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Reaped already, or not wanted any more.
        if matches!(self.process.try_wait(), Ok(None)) {
            self.process.kill().ok();
            self.process.wait().ok();
        }
    }
}

//! One worker process, as the supervisor sees it: its phase and its deadlines.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::certifier::Certified;
use super::child::ChildProcess;
use crate::ipc::short;
use crate::ipc::worker::{FromWorker, SupervisorStats, ToWorker, WorkerChannel};

/// How often a worker has to show that it lives.
pub(super) const PING_INTERVAL: Duration = Duration::from_millis(500);
/// A worker that leaves a ping unanswered for this long is replaced.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);
/// A worker that takes longer to start, open or attach is replaced.
const START_LIMIT: Duration = Duration::from_secs(20);
/// A worker that takes longer to end in order is killed.
const RETIRE_LIMIT: Duration = Duration::from_secs(5);

/// Place of a worker among the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Opens the vault and serves.
    Active,
    /// Is sandboxed already and waits for the active one's end.
    Standby,
}

/// How far a worker has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WorkerPhase {
    /// Gives up its rights.
    Starting,
    /// Sandboxed, with nothing open.
    Ready,
    /// Opens vault and audit log.
    Opening,
    /// Has the device and is about to serve.
    Attaching,
    /// Answers requests.
    Serving,
    /// Was told to end.
    Retiring,
}

/// Why a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExitReason {
    /// By a signal from outside.
    Killed,
    /// By its own fault.
    Crashed,
    /// By us, as it did not answer.
    Hung,
    /// In order, as it was told to.
    Retired,
}

impl ExitReason {
    /// Whether the worker itself, or its program, is to blame.
    pub(super) fn is_own_fault(self) -> bool {
        matches!(self, Self::Crashed | Self::Hung)
    }
}

/// End of a worker.
pub(super) struct WorkerExit {
    pub(super) reason: ExitReason,
    /// A sentence: the worker's own where it sent one.
    pub(super) report: String,
    /// The phase that the worker was in, and for how long.
    pub(super) phase: WorkerPhase,
    pub(super) lasted: Duration,
}

/// A worker process and its standing.
pub(super) struct WorkerProcess {
    child: ChildProcess,
    channel: WorkerChannel,
    pub(super) phase: WorkerPhase,
    /// When the phase began.
    since: Instant,
    /// When the ping was sent that is not answered yet.
    pinged: Option<Instant>,
    last_ping: Option<Instant>,
    /// Last certificate that this worker got.
    pub(super) certified: Certified,
    /// The HTTP port was given to this worker.
    pub(super) has_port: bool,
    /// We killed it, as it did not do its work.
    was_killed: bool,
    /// Why it can't go on, as it reported.
    failure: Option<String>,
}

impl WorkerProcess {
    /// Starts `program` as a worker.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn spawn(program: &Path) -> io::Result<Self> {
        let (child, channel) = ChildProcess::spawn(program, "worker")?;
        Ok(Self {
            child,
            channel,
            phase: WorkerPhase::Starting,
            since: Instant::now(),
            pinged: None,
            last_ping: None,
            certified: Certified::Nothing,
            has_port: false,
            was_killed: false,
            failure: None,
        })
    }

    /// Readable once there is a message.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Readable once the worker has ended.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd()
    }

    /// Begins `phase`.
    pub(super) fn enter(&mut self, phase: WorkerPhase) {
        self.phase = phase;
        self.since = Instant::now();
    }

    /// Sends `message`. A worker that takes no messages is as good as hung.
    pub(super) fn send(&mut self, message: &ToWorker, fds: &[BorrowedFd<'_>]) {
        if let Err(error) = self.channel.send(message, fds)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            tracing::error!(%error, pid = self.child.pid(), "a worker takes no messages");
            self.kill();
        }
    }

    /// Receives a message once [`Self::socket`] is readable; `None` at the end.
    pub(super) fn receive(&mut self) -> Option<FromWorker> {
        match self.channel.receive() {
            // Fds from a worker mean nothing and are closed.
            Ok((message, _)) => Some(message),
            Err(error) => {
                if error.kind() != io::ErrorKind::UnexpectedEof
                    && error.kind() != io::ErrorKind::ConnectionReset
                {
                    let pid = self.child.pid();
                    tracing::error!(%error, pid, "a worker said what is no message");
                    self.kill();
                }
                None
            }
        }
    }

    /// Receives, without waiting, what a worker sent before it ended.
    pub(super) fn drain(&mut self) -> Option<FromWorker> {
        let waiting = self.channel.readable(Duration::ZERO);
        waiting.then(|| self.receive())?
    }

    /// Asks for a sign of life.
    pub(super) fn ping(&mut self, stats: SupervisorStats) {
        self.pinged = Some(Instant::now());
        self.last_ping = self.pinged;
        self.send(&ToWorker::Ping(stats), &[]);
    }

    /// Whether this worker can be told what it does not wait for: one that opens reads
    /// nothing but certificates.
    pub(super) fn takes_news(&self) -> bool {
        !matches!(self.phase, WorkerPhase::Opening | WorkerPhase::Retiring)
    }

    /// Notes the answer to a ping.
    pub(super) fn note_pong(&mut self) {
        self.pinged = None;
    }

    /// Notes why the worker says it can't go on.
    pub(super) fn note_failure(&mut self, failure: &str) {
        self.failure = Some(short(failure));
    }

    /// Tells the worker to stop answering, to record why, and to end.
    pub(super) fn retire(&mut self, why: &str) {
        self.send(&ToWorker::Retire(why.into()), &[]);
        self.enter(WorkerPhase::Retiring);
        // A worker that ends has better things to do than to answer pings.
        self.pinged = None;
    }

    /// Kills the worker when it is late, pings it when that is due. The `first`
    /// one of all may take its time to open, as it checks the whole vault.
    pub(super) fn check_deadlines(&mut self, stats: SupervisorStats, first: bool) {
        if self.is_silent() || self.is_slow(first) {
            let pid = self.child.pid();
            tracing::error!(pid, phase = ?self.phase, "a worker does not answer");
            self.kill();
            self.pinged = None;
        } else if self.ping_is_due() {
            self.ping(stats);
        }
    }

    /// Whether a ping has gone unanswered for too long.
    pub(super) fn is_silent(&self) -> bool {
        self.pinged
            .is_some_and(|since| since.elapsed() > SILENCE_LIMIT)
    }

    fn is_slow(&self, first: bool) -> bool {
        let limit = match self.phase {
            WorkerPhase::Opening if first => return false,
            WorkerPhase::Starting | WorkerPhase::Opening | WorkerPhase::Attaching => START_LIMIT,
            WorkerPhase::Retiring => RETIRE_LIMIT,
            WorkerPhase::Ready | WorkerPhase::Serving => return false,
        };
        self.since.elapsed() > limit
    }

    fn ping_is_due(&self) -> bool {
        matches!(self.phase, WorkerPhase::Ready | WorkerPhase::Serving)
            && self.pinged.is_none()
            && self
                .last_ping
                .is_none_or(|last| last.elapsed() >= PING_INTERVAL)
    }

    /// Sends SIGKILL to a worker that does not do its work.
    pub(super) fn kill(&mut self) {
        self.was_killed = true;
        self.child.kill();
    }

    /// Whether [`Self::kill`] was called.
    #[cfg(test)]
    pub(super) fn was_killed(&self) -> bool {
        self.was_killed
    }

    /// Reaps the worker once [`Self::pidfd`] is readable.
    pub(super) fn reap(mut self) -> WorkerExit {
        let (pid, lasted) = (self.child.pid(), self.since.elapsed());
        let (reason, how) = match self.child.reap() {
            Ok(status) => (self.exit_reason(status), status.to_string()),
            Err(error) => (ExitReason::Crashed, error.to_string()),
        };
        let report = match self.failure.take() {
            Some(failure) => failure,
            None if reason == ExitReason::Hung => format!("worker {pid} did not answer"),
            None => format!("worker {pid} ended: {how}"),
        };
        WorkerExit {
            reason,
            report,
            phase: self.phase,
            lasted,
        }
    }

    fn exit_reason(&self, status: ExitStatus) -> ExitReason {
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
            _ if self.phase == WorkerPhase::Retiring => ExitReason::Retired,
            _ if self.was_killed => ExitReason::Hung,
            Some(signal) if !OWN_FAULT.contains(&signal) => ExitReason::Killed,
            _ => ExitReason::Crashed,
        }
    }
}

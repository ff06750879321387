//! The worker's end of the socket to the runner: hooks and notifications.
//!
//! A runner may have been taken over. All that it can do here is what
//! `FromRunner` says: lie about how a hook ended or what became of a
//! notification, or say nothing, for which nobody waits longer than a hook may
//! take. What is no message, or too much that nobody asked for, cuts it off.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntCounterVec;
use rustix::net::{Shutdown, shutdown};

use crate::config::EventKind;
use crate::ipc::keeper::{ExitCause, StartRefusal};
use crate::ipc::pipe_of;
use crate::ipc::runner::{
    DeliveryCounts, Event, FromRunner, HOOK_ANSWER_MARGIN, HookName, HookPhase, HookRequest,
    MAX_HOOKS, RunnerChannel, ToRunner,
};
use crate::process::spawn;

/// How long a runner may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// Most notifications of which it is not known yet what became of them.
const MAX_PENDING: usize = 256;
/// Most answers to what nobody asked that a runner may give: some may be owed to
/// an earlier worker.
const MAX_STRAY_ANSWERS: usize = 1024;

/// The secret that a hook is run for.
#[derive(Clone, Copy, Debug)]
pub struct HookSubject<'a> {
    /// The secret's name.
    pub name: &'a str,
    /// Number of the new version.
    pub version: u32,
    /// Key id of the new version, as the audit log has it.
    pub kid: &'a str,
}

/// Why a hook's phase did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// There is no runner, or it takes nothing.
    #[error("there is no runner: the hook was not started")]
    NoRunner,
    /// As many hooks as may be are at work.
    #[error("{MAX_HOOKS} hooks are at work: this one was not started")]
    Busy,
    /// The values could not be handed over.
    #[error("the values could not be passed on, the hook was not started: {0}")]
    Values(io::Error),
    /// The runner refused the file.
    #[error("the hook was not started: {0}")]
    Refused(StartRefusal),
    /// The hook ended with this status, which is not 0.
    #[error("the hook ended with exit status {0}")]
    Failed(u8),
    /// The hook ended by this signal.
    #[error("the hook was ended by signal {0}")]
    Killed(u8),
    /// The hook took longer than this and was ended.
    #[error("the hook took longer than {} s and was ended", .0.as_secs())]
    TimedOut(Duration),
    /// Nobody is left who could know.
    #[error("the runner ended; it is not known whether the hook finished")]
    RunnerEnded,
    /// The runner lives and says nothing.
    #[error("the runner does not answer; it is not known whether the hook finished")]
    Unanswered,
}

impl HookError {
    /// Whether the hook may have done something.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::NoRunner | Self::Busy | Self::Values(_) | Self::Refused(_) => false,
            Self::Failed(_)
            | Self::Killed(_)
            | Self::TimedOut(_)
            | Self::RunnerEnded
            | Self::Unanswered => true,
        }
    }
}

/// The runner, if there is one, as this worker uses it.
pub struct RunnerClient {
    shared: Arc<Shared>,
    hook_limit: Duration,
    /// Kinds of events that somebody wants to know.
    wanted: Vec<EventKind>,
}

/// State of the listening thread and of those that ask.
struct Shared {
    state: Mutex<State>,
    /// Deliveries by kind and result.
    counts: IntCounterVec,
}

struct State {
    runner: Option<Arc<RunnerChannel>>,
    /// Runners so far.
    runners: u64,
    /// The number that was given last; no earlier worker has given it.
    last_id: u64,
    /// Hooks at work.
    hooks: usize,
    /// Threads that wait for an answer, by its number.
    waiting: HashMap<u64, Sender<FromRunner>>,
    /// Notifications in the order of their numbers.
    pending: VecDeque<PendingNotification>,
}

/// A notification of which it is not known yet what became of it.
struct PendingNotification {
    id: u64,
    event: Event,
    /// The runner of now has it.
    sent: bool,
}

impl RunnerClient {
    /// A client without a runner so far. Hooks may take `hook_limit`; events that
    /// are not `wanted` are of no interest, and what becomes of the others is
    /// counted in `counts` by kind and result.
    #[must_use]
    pub fn new(hook_limit: Duration, wanted: Vec<EventKind>, counts: IntCounterVec) -> Self {
        for kind in &wanted {
            for result in ["delivered", "failed", "dropped"] {
                // An alert needs the 0 before the first.
                counts.with_label_values(&[kind.as_str(), result]);
            }
        }
        let state = State {
            runner: None,
            runners: 0,
            last_id: random_start_id(),
            hooks: 0,
            waiting: HashMap::new(),
            pending: VecDeque::new(),
        };
        let shared = Shared {
            state: Mutex::new(state),
            counts,
        };
        Self {
            shared: Arc::new(shared),
            hook_limit,
            wanted,
        }
    }

    /// Makes the runner behind `socket` take the place of the last.
    pub fn connect(&self, socket: OwnedFd) {
        let channel = Arc::new(RunnerChannel::from(socket));
        let mut state = self.shared.state.lock();
        state.runners += 1;
        // Those who wait for the last one learn that it is gone.
        state.waiting.clear();
        state.runner = Some(channel.clone());
        if channel.send(&ToRunner::WorkerChanged, &[]).is_err() {
            state.runner = None;
            return;
        }
        for notification in &mut state.pending {
            notification.sent = false;
        }
        state.send_pending();
        let (shared, number) = (self.shared.clone(), state.runners);
        if let Err(error) = spawn("runner-client", move || shared.listen(&channel, number)) {
            tracing::error!(%error, "the runner cannot be heard");
            state.runner = None;
        }
    }

    /// Whether there is a runner, as far as is known.
    pub(crate) fn is_connected(&self) -> bool {
        self.shared.state.lock().runner.is_some()
    }

    /// Whether the runner answers.
    pub fn alive(&self) -> bool {
        let ping = |number| (ToRunner::Ping(number), Vec::new());
        let answer = self.request(ping, PING_TIMEOUT);
        matches!(answer, Ok(FromRunner::Pong(_)))
    }

    /// Runs `phase` of `hook` and waits for its end, at most a few seconds
    /// longer than a hook may take.
    ///
    /// # Errors
    /// [`HookError`]; it knows whether the hook may have done something.
    pub fn hook(
        &self,
        hook: &HookName,
        phase: HookPhase,
        subject: &HookSubject<'_>,
        old: Option<&[u8]>,
        new: &[u8],
    ) -> Result<(), HookError> {
        let _permit = HookPermit::take(&self.shared).ok_or(HookError::Busy)?;
        let pipes = old.into_iter().chain([new]).map(pipe_of);
        let pipes: Vec<_> = pipes.collect::<Result<_, _>>().map_err(HookError::Values)?;
        let request = |id| {
            let request = HookRequest {
                id,
                hook: hook.clone(),
                phase,
                name: subject.name.to_owned(),
                version: subject.version,
                kid: subject.kid.to_owned(),
                has_old: old.is_some(),
            };
            (ToRunner::Hook(request), pipes)
        };
        let timeout = self.hook_limit + HOOK_ANSWER_MARGIN;
        let FromRunner::Hook(_, cause) = self.request(request, timeout)? else {
            return Err(HookError::Unanswered);
        };
        match cause {
            ExitCause::Exited(0) => Ok(()),
            ExitCause::Exited(status) => Err(HookError::Failed(status)),
            ExitCause::Killed(signal) => Err(HookError::Killed(signal)),
            ExitCause::TimedOut => Err(HookError::TimedOut(self.hook_limit)),
            ExitCause::Refused(why) => Err(HookError::Refused(why)),
            ExitCause::Lost => Err(HookError::RunnerEnded),
        }
    }

    /// Notifies everybody who wants to know; never blocks.
    ///
    /// Deliveries are tried as often as the configuration says. An event is lost
    /// when all attempts fail, when more than 256 wait, or when this worker ends
    /// before the runner has it; when the runner dies it is sent again, so it may
    /// come twice.
    pub fn notify(&self, event: Event) {
        if !self.wanted.contains(&event.kind()) {
            return;
        }
        let mut state = self.shared.state.lock();
        if state.pending.len() >= MAX_PENDING
            && let Some(oldest) = state.pending.pop_front()
        {
            self.shared.count(&oldest.event, "dropped", 1);
        }
        let id = state.next_id();
        state.pending.push_back(PendingNotification {
            id,
            event,
            sent: false,
        });
        state.send_pending();
    }

    /// Sends what `request` makes of a new number, and waits for the answer.
    fn request(
        &self,
        request: impl FnOnce(u64) -> (ToRunner, Vec<OwnedFd>),
        timeout: Duration,
    ) -> Result<FromRunner, HookError> {
        let (answers, answer) = channel();
        let id = {
            let mut state = self.shared.state.lock();
            let runner = state.runner.clone().ok_or(HookError::NoRunner)?;
            let id = state.next_id();
            let (message, fds) = request(id);
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            if runner.send(&message, &fds).is_err() {
                return Err(HookError::NoRunner);
            }
            // Before the lock is released, so that no answer can be earlier.
            state.waiting.insert(id, answers);
            id
        };
        answer.recv_timeout(timeout).map_err(|error| {
            self.shared.state.lock().waiting.remove(&id);
            match error {
                RecvTimeoutError::Timeout => HookError::Unanswered,
                RecvTimeoutError::Disconnected => HookError::RunnerEnded,
            }
        })
    }
}

/// A number after which no earlier worker has given any: answers to its requests
/// may still come.
fn random_start_id() -> u64 {
    // In the lower half, so that they never wrap around.
    getrandom::u64().map_or_else(|_| u64::from(std::process::id()) << 32, |n| n >> 1)
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.last_id = self.last_id.wrapping_add(1);
        self.last_id
    }

    /// Sends what was not sent, as far as the socket takes it.
    fn send_pending(&mut self) {
        let Some(runner) = &self.runner else {
            return;
        };
        for notification in self.pending.iter_mut().filter(|pending| !pending.sent) {
            let message = ToRunner::Notify(notification.id, notification.event.clone());
            if runner.send(&message, &[]).is_err() {
                // The next answer, or the next runner, brings another chance.
                return;
            }
            notification.sent = true;
        }
    }
}

impl Shared {
    /// Passes on what the runner says until it ends.
    fn listen(&self, channel: &RunnerChannel, number: u64) {
        let mut strays = 0;
        let fault = loop {
            match channel.receive() {
                Ok((message, _)) => {
                    if !self.accept(message) {
                        strays += 1;
                    }
                    if strays > MAX_STRAY_ANSWERS {
                        break Some("the runner answers what nobody asked");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    break Some("the runner said what is no message");
                }
                Err(_) => break None,
            }
        };
        if let Some(why) = fault {
            tracing::error!(%why, "it is cut off");
            // It ends when it notices, and the supervisor starts another one.
            shutdown(channel, Shutdown::Both).ok();
        }
        let mut state = self.state.lock();
        // Another runner may have taken its place.
        if state.runners == number {
            state.runner = None;
            state.waiting.clear();
        }
    }

    /// Hands an answer to whoever waits for it; false when nobody does.
    fn accept(&self, message: FromRunner) -> bool {
        let mut state = self.state.lock();
        match message {
            FromRunner::Settled(id, counts) => {
                let found = state
                    .pending
                    .binary_search_by_key(&id, |pending| pending.id);
                let settled = found.ok().and_then(|at| state.pending.remove(at));
                if let Some(notification) = &settled {
                    self.count_all(&notification.event, counts);
                }
                state.send_pending();
                settled.is_some()
            }
            FromRunner::Pong(id) | FromRunner::Hook(id, _) => {
                let asked = state.waiting.remove(&id);
                asked.is_some_and(|waiting| waiting.send(message).is_ok())
            }
        }
    }

    fn count_all(&self, event: &Event, counts: DeliveryCounts) {
        self.count(event, "delivered", counts.delivered);
        self.count(event, "failed", counts.failed);
        self.count(event, "dropped", counts.dropped);
    }

    fn count(&self, event: &Event, result: &str, by: u8) {
        let labels = [event.kind().as_str(), result];
        self.counts.with_label_values(&labels).inc_by(by.into());
    }
}

/// Permit for one of the hooks that may be at work.
struct HookPermit<'s>(&'s Shared);

impl<'s> HookPermit<'s> {
    fn take(shared: &'s Shared) -> Option<Self> {
        let mut state = shared.state.lock();
        if state.hooks >= MAX_HOOKS {
            return None;
        }
        state.hooks += 1;
        Some(Self(shared))
    }
}

impl Drop for HookPermit<'_> {
    fn drop(&mut self) {
        self.0.state.lock().hooks -= 1;
    }
}

#[cfg(test)]
mod tests;

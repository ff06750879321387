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
    DeliveryCounts, Event, FromRunner, HOOK_ANSWER_MARGIN, HookName, HookRequest, MAX_HOOKS, Phase,
    RunnerChannel, ToRunner,
};

/// How long a runner may take to answer a ping.
const PATIENCE: Duration = Duration::from_secs(1);
/// Notifications of which it is not known yet what became of them.
const MAX_NOTICES: usize = 256;
/// Answers to what nobody asked that a runner may give: some may be owed to an
/// earlier worker.
const MAX_STRAY: usize = 1024;

/// The secret that a hook is run for.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Its name.
    pub name: &'a str,
    /// The new version, and its key id.
    pub version: u32,
    /// As the audit log has it.
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
    /// It ended with this status, which is not 0.
    #[error("the hook ended with exit status {0}")]
    Failed(u8),
    /// It ended by this signal.
    #[error("the hook was ended by signal {0}")]
    Killed(u8),
    /// It was ended.
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

/// Whoever runs errands for this worker.
pub struct Errands {
    shared: Arc<Shared>,
    hook_limit: Duration,
    wanted: Vec<EventKind>,
}

struct Shared {
    state: Mutex<State>,
    /// By kind and result.
    counts: IntCounterVec,
}

struct State {
    runner: Option<Arc<RunnerChannel>>,
    /// Runners so far.
    runners: u64,
    /// The next number; no earlier worker has used it.
    next: u64,
    hooks: usize,
    /// Who waits for which answer.
    waiting: HashMap<u64, Sender<FromRunner>>,
    /// In the order of their numbers.
    notices: VecDeque<Notice>,
}

struct Notice {
    id: u64,
    event: Event,
    sent: bool,
}

impl Errands {
    /// Without a runner so far; hooks may take `hook_limit`, events that are
    /// not `wanted` are of no interest, and what becomes of the others is
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
            next: somewhere(),
            hooks: 0,
            waiting: HashMap::new(),
            notices: VecDeque::new(),
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

    /// The runner behind `socket` takes the place of the last.
    pub fn employ(&self, socket: OwnedFd) {
        let link = Arc::new(RunnerChannel::from(socket));
        let mut state = self.shared.state.lock();
        state.runners += 1;
        // Who waits for the last one learns that it is gone.
        state.waiting.clear();
        state.runner = Some(link.clone());
        if link.send(&ToRunner::WorkerChanged, &[]).is_err() {
            state.runner = None;
            return;
        }
        for notice in &mut state.notices {
            notice.sent = false;
        }
        state.send_notices();
        let (shared, number) = (self.shared.clone(), state.runners);
        let listener = std::thread::Builder::new().name("errands".into());
        if let Err(error) = listener.spawn(move || shared.listen(&link, number)) {
            tracing::error!(%error, "the runner cannot be heard");
            state.runner = None;
        }
    }

    /// Whether there is a runner, as far as is known.
    pub(crate) fn employs(&self) -> bool {
        self.shared.state.lock().runner.is_some()
    }

    /// Whether the runner answers.
    pub fn alive(&self) -> bool {
        let ping = |number| (ToRunner::Ping(number), Vec::new());
        let answer = self.ask(ping, PATIENCE);
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
        phase: Phase,
        about: &About<'_>,
        old: Option<&[u8]>,
        new: &[u8],
    ) -> Result<(), HookError> {
        let _seat = Seat::take(&self.shared).ok_or(HookError::Busy)?;
        let pipes = old.into_iter().chain([new]).map(pipe_of);
        let pipes: Vec<_> = pipes.collect::<Result<_, _>>().map_err(HookError::Values)?;
        let order = |id| {
            let order = HookRequest {
                id,
                hook: hook.clone(),
                phase,
                name: about.name.to_owned(),
                version: about.version,
                kid: about.kid.to_owned(),
                has_old: old.is_some(),
            };
            (ToRunner::Hook(order), pipes)
        };
        let patience = self.hook_limit + HOOK_ANSWER_MARGIN;
        let FromRunner::Hook(_, end) = self.ask(order, patience)? else {
            return Err(HookError::Unanswered);
        };
        match end {
            ExitCause::Exited(0) => Ok(()),
            ExitCause::Exited(status) => Err(HookError::Failed(status)),
            ExitCause::Killed(signal) => Err(HookError::Killed(signal)),
            ExitCause::TimedOut => Err(HookError::TimedOut(self.hook_limit)),
            ExitCause::Refused(why) => Err(HookError::Refused(why)),
            ExitCause::Lost => Err(HookError::RunnerEnded),
        }
    }

    /// Has everybody told who wants to know; never blocks.
    ///
    /// It is tried as often as the configuration says. An event is lost when
    /// all attempts fail, when more than 256 wait, or when this worker ends
    /// before the runner has it; when the runner dies it is sent again, so it
    /// may come twice.
    pub fn notify(&self, event: Event) {
        if !self.wanted.contains(&event.kind()) {
            return;
        }
        let mut state = self.shared.state.lock();
        if state.notices.len() >= MAX_NOTICES
            && let Some(oldest) = state.notices.pop_front()
        {
            self.shared.count(&oldest.event, "dropped", 1);
        }
        let id = state.number();
        state.notices.push_back(Notice {
            id,
            event,
            sent: false,
        });
        state.send_notices();
    }

    /// Sends what `question` makes of a new number, and waits for the answer.
    fn ask(
        &self,
        question: impl FnOnce(u64) -> (ToRunner, Vec<OwnedFd>),
        patience: Duration,
    ) -> Result<FromRunner, HookError> {
        let (answers, answer) = channel();
        let id = {
            let mut state = self.shared.state.lock();
            let runner = state.runner.clone().ok_or(HookError::NoRunner)?;
            let id = state.number();
            let (message, fds) = question(id);
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            if runner.send(&message, &fds).is_err() {
                return Err(HookError::NoRunner);
            }
            state.waiting.insert(id, answers);
            id
        };
        answer.recv_timeout(patience).map_err(|error| {
            self.shared.state.lock().waiting.remove(&id);
            match error {
                RecvTimeoutError::Timeout => HookError::Unanswered,
                RecvTimeoutError::Disconnected => HookError::RunnerEnded,
            }
        })
    }
}

/// A place in the numbers that no other worker has come to: answers to its
/// questions may still come.
fn somewhere() -> u64 {
    // Half of them, so that they never wrap around.
    getrandom::u64().map_or_else(|_| u64::from(std::process::id()) << 32, |n| n >> 1)
}

impl State {
    fn number(&mut self) -> u64 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    /// Sends what was not, as far as the socket takes it.
    fn send_notices(&mut self) {
        let Some(runner) = &self.runner else {
            return;
        };
        for notice in self.notices.iter_mut().filter(|notice| !notice.sent) {
            let message = ToRunner::Notify(notice.id, notice.event.clone());
            if runner.send(&message, &[]).is_err() {
                // The next answer, or the next runner, brings another chance.
                return;
            }
            notice.sent = true;
        }
    }
}

impl Shared {
    /// Passes on what the runner says until it ends.
    fn listen(&self, link: &RunnerChannel, number: u64) {
        let mut strays = 0;
        let why = loop {
            match link.receive() {
                Ok((message, _)) => {
                    if !self.deliver(message) {
                        strays += 1;
                    }
                    if strays > MAX_STRAY {
                        break "the runner answers what nobody asked";
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    break "the runner said what is no message";
                }
                Err(_) => break "",
            }
        };
        if !why.is_empty() {
            tracing::error!(%why, "it is cut off");
            // It ends when it notices, and the supervisor starts another one.
            shutdown(link, Shutdown::Both).ok();
        }
        let mut state = self.state.lock();
        if state.runners == number {
            state.runner = None;
            state.waiting.clear();
        }
    }

    /// False for what nobody waits for.
    fn deliver(&self, message: FromRunner) -> bool {
        let mut state = self.state.lock();
        match message {
            FromRunner::Settled(id, tally) => {
                let found = state.notices.binary_search_by_key(&id, |notice| notice.id);
                let settled = found.ok().and_then(|at| state.notices.remove(at));
                if let Some(notice) = &settled {
                    self.tally(&notice.event, tally);
                }
                state.send_notices();
                settled.is_some()
            }
            FromRunner::Pong(id) | FromRunner::Hook(id, _) => {
                let asked = state.waiting.remove(&id);
                asked.is_some_and(|who| who.send(message).is_ok())
            }
        }
    }

    fn tally(&self, event: &Event, tally: DeliveryCounts) {
        self.count(event, "delivered", tally.delivered);
        self.count(event, "failed", tally.failed);
        self.count(event, "dropped", tally.dropped);
    }

    fn count(&self, event: &Event, result: &str, by: u8) {
        let labels = [event.kind().as_str(), result];
        self.counts.with_label_values(&labels).inc_by(by.into());
    }
}

/// One of the hooks that may be at work.
struct Seat<'s>(&'s Shared);

impl<'s> Seat<'s> {
    fn take(shared: &'s Shared) -> Option<Self> {
        let mut state = shared.state.lock();
        (state.hooks < MAX_HOOKS).then(|| {
            state.hooks += 1;
            Self(shared)
        })
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.state.lock().hooks -= 1;
    }
}

#[cfg(test)]
mod tests;

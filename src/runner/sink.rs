//! Whoever wants to be notified: one queue and one thread each, so that a slow
//! one delays nobody else.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use backon::{BlockingRetryable, ExponentialBuilder};
use parking_lot::{Condvar, Mutex};

use super::webhook::Webhook;
use super::{PATH, keep};
use crate::config::EventKind;
use crate::config::{Notify, Receiver};
use crate::ipc::keeper::{ExitCause, ProgramKind, ProgramSpec};
use crate::ipc::pipe_of;
use crate::ipc::runner::{DeliveryCounts, FromRunner, RunnerEnd};
use crate::process::{Failure, text};

/// Notifications that wait for one sink; a newer one pushes the oldest out.
const QUEUE: usize = 256;
/// The first pause before something is tried again; each doubles, within
/// [`LONGEST_PAUSE`], and up to as much again is added by chance.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Something to tell, to several perhaps. Once it is settled for all of them
/// the worker is told what became of it.
pub(super) struct Notice {
    link: Arc<RunnerEnd>,
    id: u64,
    body: String,
    tally: Mutex<DeliveryCounts>,
}

impl Notice {
    pub(super) fn new(link: Arc<RunnerEnd>, id: u64, body: String) -> Arc<Self> {
        Arc::new(Self {
            link,
            id,
            body,
            tally: Mutex::default(),
        })
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        let settled = FromRunner::Settled(self.id, *self.tally.lock());
        // The worker that asked may be gone.
        self.link.send(&settled, &[]).ok();
    }
}

/// One `[[notify]]` of the configuration.
pub(super) struct Sink {
    events: Vec<EventKind>,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    notices: Mutex<VecDeque<Arc<Notice>>>,
    filled: Condvar,
}

impl Sink {
    /// The sink with this `number` in the configuration; `fd` came with it.
    pub(super) fn start(
        number: usize,
        notify: Notify,
        fd: Option<OwnedFd>,
        trust_self: bool,
    ) -> Result<Self, Failure> {
        let way = Way::to(&notify, fd, trust_self)?;
        let queue = Arc::new(Queue::default());
        let pauses = ExponentialBuilder::new()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .with_max_times(notify.attempts.saturating_sub(1))
            .with_jitter();
        let mine = queue.clone();
        let deliver = move || {
            loop {
                let notice = mine.next();
                let told = (|| way.tell(&notice.body))
                    .retry(pauses)
                    .when(|trouble| trouble.passing)
                    .call();
                let mut tally = notice.tally.lock();
                match told {
                    Ok(()) => tally.delivered += 1,
                    Err(trouble) => {
                        tally.failed += 1;
                        // Never the address, which may be a secret by itself.
                        tracing::warn!(notify = number, why = %trouble.why, "not notified");
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name(format!("notify-{number}"));
        thread.spawn(deliver).map_err(text)?;
        Ok(Self {
            events: notify.events,
            queue,
        })
    }

    pub(super) fn wants(&self, kind: EventKind) -> bool {
        self.events.contains(&kind)
    }

    pub(super) fn put(&self, notice: Arc<Notice>) {
        let mut notices = self.queue.notices.lock();
        if notices.len() >= QUEUE
            && let Some(oldest) = notices.pop_front()
        {
            oldest.tally.lock().dropped += 1;
        }
        notices.push_back(notice);
        self.queue.filled.notify_one();
    }
}

impl Queue {
    fn next(&self) -> Arc<Notice> {
        let mut notices = self.notices.lock();
        loop {
            match notices.pop_front() {
                Some(notice) => return notice,
                None => self.filled.wait(&mut notices),
            }
        }
    }
}

/// Why somebody was not told.
#[derive(Debug)]
pub(super) struct Trouble {
    /// It may be over when it is tried again.
    pub(super) passing: bool,
    pub(super) why: String,
}

enum Way {
    Command {
        directory: OwnedFd,
        name: String,
        limit_ms: u64,
        trust_self: bool,
    },
    Webhook(Box<Webhook>),
}

impl Way {
    fn to(notify: &Notify, fd: Option<OwnedFd>, trust_self: bool) -> Result<Self, Failure> {
        let limit = Duration::from_secs(notify.timeout_secs.into());
        match notify.receiver() {
            Some(Receiver::Command(path)) => Ok(Self::Command {
                directory: fd.ok_or("a command came without its directory")?,
                name: path
                    .file_name()
                    .and_then(|name| name.to_str())
                    .ok_or("a command has no name")?
                    .to_owned(),
                limit_ms: u64::from(notify.timeout_secs) * 1000,
                trust_self,
            }),
            Some(Receiver::Webhook(url)) => {
                Webhook::new(url, fd.map(Into::into), limit).map(|hook| Self::Webhook(hook.into()))
            }
            None => Err("a sink is neither command nor webhook".into()),
        }
    }

    fn tell(&self, body: &str) -> Result<(), Trouble> {
        match self {
            Self::Webhook(webhook) => webhook.post(body),
            Self::Command {
                directory,
                name,
                limit_ms,
                trust_self,
            } => {
                // A line each, for commands that only append.
                let input = pipe_of(format!("{body}\n").as_bytes()).map_err(|error| Trouble {
                    passing: true,
                    why: error.to_string(),
                })?;
                let task = ProgramSpec {
                    program: name.clone(),
                    arguments: Vec::new(),
                    environment: [("PATH", PATH), ("LANG", "C.UTF-8")]
                        .map(|(key, value)| (key.into(), value.into()))
                        .into(),
                    kind: ProgramKind::Notification,
                    limit_ms: *limit_ms,
                    trust_self: *trust_self,
                };
                told(keep(&task, &[directory.as_fd(), input.as_fd()], drop))
            }
        }
    }
}

fn told(end: ExitCause) -> Result<(), Trouble> {
    let why = match end {
        ExitCause::Exited(0) => return Ok(()),
        ExitCause::Exited(code) => format!("the command ended with exit status {code}"),
        ExitCause::Killed(signal) => format!("the command was ended by signal {signal}"),
        ExitCause::TimedOut => "the command took too long".into(),
        ExitCause::Refused(why) => format!("the command was not started: {why}"),
        ExitCause::Lost => "the command's keeper was killed".into(),
    };
    // An admin may put right what is wrong with the file meanwhile.
    Err(Trouble { passing: true, why })
}

//! Receivers of notifications: one queue and one thread each, so that a slow one
//! delays nobody else.
//!
//! The worker keeps up to 256 notifications until it knows what became of them and never waits;
//! each `[[notify]]` has a queue of 256 and a thread here, which also tries again what failed.
//! What a dead runner had is sent again to the next. What a dead worker had is lost, unless it
//! was sent already.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backon::BlockingRetryable;
use parking_lot::{Condvar, Mutex};

use crate::config::{EventKind, NotifyConfig, Receiver};
use crate::ipc::keeper::{ExitCause, ProgramKind, ProgramSpec};
use crate::ipc::pipe_of;
use crate::ipc::runner::{DeliveryCounts, FromRunner, RunnerEnd};
use crate::process::spawn;
use crate::runner::delivery::{DeliveryError, delivery_result, pauses};
use crate::runner::error::RunnerError;
use crate::runner::keeper::spawn::{KeeperProcess, base_environment};
use crate::runner::webhook::Webhook;

/// Notifications that wait for one sink; a newer one pushes the oldest out.
const MAX_QUEUED: usize = 256;

/// One notification for some sinks. When the last of them lets go of it, it is
/// settled, and the worker gets the counts.
pub(super) struct Notification {
    channel: Arc<RunnerEnd>,
    id: u64,
    body: String,
    counts: Mutex<DeliveryCounts>,
}

impl Notification {
    pub(super) fn new(channel: Arc<RunnerEnd>, id: u64, body: String) -> Arc<Self> {
        Arc::new(Self {
            channel,
            id,
            body,
            counts: Mutex::default(),
        })
    }
}

impl Drop for Notification {
    fn drop(&mut self) {
        let settled = FromRunner::Settled(self.id, *self.counts.lock());
        // The worker that asked may be gone.
        self.channel.send(&settled, &[]).ok();
    }
}

/// One `[[notify]]` of the configuration.
pub(super) struct Sink {
    events: Vec<EventKind>,
    queue: Arc<Queue>,
}

impl Sink {
    /// Starts the sink with this `number` in the configuration; `fd` came with it.
    ///
    /// # Errors
    /// When `notify` and `fd` do not fit, or no thread can be had.
    pub(super) fn start(
        number: usize,
        notify: NotifyConfig,
        fd: Option<OwnedFd>,
        trust_self: bool,
    ) -> Result<Self, RunnerError> {
        let transport = Transport::new(&notify, fd, trust_self)?;
        let pauses = pauses(notify.attempts);
        let queue = Arc::new(Queue::default());
        let waiting = queue.clone();
        let deliver = move || {
            loop {
                let notification = waiting.pop();
                let delivered = (|| transport.deliver(&notification.body))
                    .retry(pauses)
                    .when(DeliveryError::is_transient)
                    .call();
                let mut counts = notification.counts.lock();
                match delivered {
                    Ok(()) => counts.delivered += 1,
                    Err(error) => {
                        counts.failed += 1;
                        tracing::warn!(notify = number, why = %error, "not notified");
                    }
                }
            }
        };
        spawn(&format!("notify-{number}"), deliver)?;
        Ok(Self {
            events: notify.events,
            queue,
        })
    }

    pub(super) fn wants(&self, kind: EventKind) -> bool {
        self.events.contains(&kind)
    }

    pub(super) fn push(&self, notification: Arc<Notification>) {
        self.queue.push(notification);
    }
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<VecDeque<Arc<Notification>>>,
    filled: Condvar,
}

impl Queue {
    fn push(&self, notification: Arc<Notification>) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_QUEUED
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.counts.lock().dropped += 1;
        }
        waiting.push_back(notification);
        self.filled.notify_one();
    }

    /// The oldest notification, as soon as there is one.
    fn pop(&self) -> Arc<Notification> {
        let mut waiting = self.waiting.lock();
        loop {
            match waiting.pop_front() {
                Some(notification) => return notification,
                None => self.filled.wait(&mut waiting),
            }
        }
    }
}

/// Way to a receiver.
enum Transport {
    Command {
        directory: OwnedFd,
        program: ProgramSpec,
    },
    Webhook(Box<Webhook>),
}

impl Transport {
    fn new(
        notify: &NotifyConfig,
        fd: Option<OwnedFd>,
        trust_self: bool,
    ) -> Result<Self, RunnerError> {
        match notify.receiver() {
            Some(Receiver::Command(path)) => Ok(Self::Command {
                directory: fd.ok_or(RunnerError::NoDirectory)?,
                program: command(path, notify.timeout_secs, trust_self)?,
            }),
            Some(Receiver::Webhook(url)) => {
                let limit = Duration::from_secs(notify.timeout_secs.into());
                let webhook = Webhook::new(url, fd.map(Into::into), limit)?;
                Ok(Self::Webhook(webhook.into()))
            }
            None => Err(RunnerError::NoReceiver),
        }
    }

    /// Tries once.
    fn deliver(&self, body: &str) -> Result<(), DeliveryError> {
        match self {
            Self::Webhook(webhook) => webhook.post(body),
            Self::Command { directory, program } => {
                // A line each, for commands that only append.
                let input = pipe_of(format!("{body}\n").as_bytes());
                let input = input.map_err(DeliveryError::Input)?;
                let fds = [directory.as_fd(), input.as_fd()];
                let cause = match KeeperProcess::spawn() {
                    Ok(keeper) => keeper.run(program, &fds),
                    Err(refusal) => ExitCause::Refused(refusal),
                };
                delivery_result(cause)
            }
        }
    }
}

/// The command at `path`, which is looked up in the directory that came with it.
fn command(path: &Path, limit_secs: u32, trust_self: bool) -> Result<ProgramSpec, RunnerError> {
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(ProgramSpec {
        program: name.ok_or(RunnerError::NamelessCommand)?.to_owned(),
        arguments: Vec::new(),
        environment: base_environment(),
        kind: ProgramKind::Notification,
        limit_ms: u64::from(limit_secs) * 1000,
        trust_self,
    })
}

//! The process with the network and without secrets: it runs hooks and delivers
//! notifications.
//!
//! Runs in: the runner; in keepers, one process for each program, `keeper/`.
//! Touches: the network, keys of webhooks, programs; values only as fds that it does not read.
//! Imported by: `daemon`.
//!
//! It has no root key, no vault and no device. The supervisor starts it, gives it what its user
//! could not open (the directory of the hooks, those of commands, keys of signatures) and a
//! socket to the serving worker; what else it knows of the world comes from the supervisor
//! before the first worker can speak to it.

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::NotifyConfig;
use crate::ipc::runner::{Event, FromRunner, RunnerEnd, ToRunner};
use crate::ipc::take_stdin;
use crate::process::privileges::drop_privileges;
use crate::process::{abort_on_panic, start_logging};
use crate::runner::error::RunnerError;
use crate::runner::hooks::HookRunner;
use crate::runner::sink::{Notification, Sink};

mod delivery;
mod error;
mod hooks;
pub(crate) mod keeper;
mod sink;
mod webhook;

/// Files that the runner, and each program by itself, may have open.
const MAX_FILES: u64 = 1024;
/// Processes and threads of the runner's user.
const MAX_PROCESSES: u64 = 512;

/// Runs until nobody is left at the other end.
pub(crate) fn main() -> ExitCode {
    abort_on_panic();
    rustix::thread::set_name(c"jarvis-runner").ok();
    match RunnerLoop::start().and_then(RunnerLoop::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the runner cannot go on");
            ExitCode::FAILURE
        }
    }
}

struct RunnerLoop {
    channel: Arc<RunnerEnd>,
    /// The host's name in notifications.
    host: String,
    hooks: HookRunner,
    sinks: Vec<Sink>,
}

impl RunnerLoop {
    /// Takes what the supervisor sends, gives up all other rights and starts the
    /// sinks.
    fn start() -> Result<Self, RunnerError> {
        let channel: RunnerEnd = take_stdin()?;
        jarvis_sys::keep_fds_from_children()?;
        let (ToRunner::Configure(config), mut fds) = channel.receive()? else {
            return Err(RunnerError::NotConfigured);
        };
        let hooks = fds.pop();
        let sinks = receive_sinks(&channel, config.sinks)?;
        start_logging(config.level);
        drop_privileges(config.user, false)?;
        limit_resources(config.user.is_some())?;
        let trust_self = config.user.is_none();
        let sinks = sinks.into_iter().enumerate();
        let sinks = sinks.map(|(at, (notify, fd))| Sink::start(at + 1, notify, fd, trust_self));
        let channel = Arc::new(channel);
        Ok(Self {
            sinks: sinks.collect::<Result<_, _>>()?,
            hooks: HookRunner::new(channel.clone(), hooks, &config),
            host: config.host,
            channel,
        })
    }

    /// Does what workers ask for.
    fn run(self) -> Result<(), RunnerError> {
        loop {
            let (message, fds) = match self.channel.receive() {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            match message {
                ToRunner::Ping(id) => self.channel.send(&FromRunner::Pong(id), &[])?,
                ToRunner::WorkerChanged => self.hooks.worker_changed(),
                ToRunner::Hook(request) => self.hooks.start(request, fds)?,
                ToRunner::Notify(id, event) => self.notify(id, &event)?,
                ToRunner::Configure(_) | ToRunner::AddSink(_) => {
                    return Err(RunnerError::UnexpectedMessage);
                }
            }
        }
    }

    fn notify(&self, id: u64, event: &Event) -> Result<(), RunnerError> {
        let body = event.body(id, &self.host)?;
        let notification = Notification::new(self.channel.clone(), id, body);
        for sink in self.sinks.iter().filter(|sink| sink.wants(event.kind())) {
            sink.push(notification.clone());
        }
        Ok(())
    }
}

/// The `count` sinks that the first message announced, each with its fd.
fn receive_sinks(
    channel: &RunnerEnd,
    count: usize,
) -> Result<Vec<(NotifyConfig, Option<OwnedFd>)>, RunnerError> {
    let receive = |_| match channel.receive()? {
        (ToRunner::AddSink(notify), mut fds) => Ok((notify, fds.pop())),
        _ => Err(RunnerError::MissingSink),
    };
    (0..count).map(receive).collect()
}

/// Limits for this process and for all that it starts. That none of them gains
/// rights by a set-user-id bit is seen to with the privileges.
fn limit_resources(own_user: bool) -> io::Result<()> {
    let limit = |resource, most: u64| {
        // What is narrower already can't be widened.
        let most = getrlimit(resource)
            .maximum
            .map_or(most, |max| max.min(most));
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)
    };
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, MAX_FILES)?;
    // The limit counts all of a user's processes.
    if own_user {
        limit(Resource::Nproc, MAX_PROCESSES)?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o077));
    Ok(())
}

//! The process that keeps a mount while supervisors come and go.
//!
//! It is a unit of its own that a restart of the service leaves alone. It holds the device
//! and the tables of the mount, so that no end of ours breaks it, and gives them to the next
//! supervisor. While nobody serves, it answers PID 1 (see [`jarvis_fs::DeviceGuard`]): the
//! machine must be able to start the service that would answer. When nobody has served for
//! 30 s it gives the mount up: an error is better than no answer. When it is told to end, the
//! mount ends with it.
//!
//! Somebody who should serve may have been stopped. So the holder looks five times a second
//! whether requests wait while the table of requests in flight stands still; then it guards
//! the device, has the worker replaced, and ends a supervisor that does not do so.
//!
//! Runs in: the holder, as root.
//! Touches: the device, memory files that it does not look into, the heads of requests.
//! No configuration, no value, no vault, no network.
//! Imported by: daemon.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::config::LogLevel;
use crate::ipc::holder::{FromHolder, ToHolder};
use crate::process::signals::SignalSocket;
use crate::process::watchdog::Watchdog;
use crate::process::{abort_on_panic, start_logging};

mod error;
mod kept;
mod peer;

use error::HolderError;
use kept::KeptDevice;
use peer::{Listener, SupervisorPeer};

/// How often it is looked whether somebody serves.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How often anything is done while there is no mount: a sign of life.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// Requests that wait for so long while none is at work show that nobody serves.
const STUCK_LIMIT: Duration = Duration::from_millis(1200);
/// A supervisor that has not replaced a stuck worker by then is ended.
const REPLACE_LIMIT: Duration = Duration::from_secs(5);
/// How long a worker may take from the promise that it will read to its first request.
const PAUSE_LIMIT: Duration = Duration::from_secs(3);
/// Time after which PID 1 gets its answer also to what a dead worker had read; until then the
/// next worker answers that.
const LEFT_LIMIT: Duration = Duration::from_millis(300);
/// When nobody could serve for this long, waiting clients get an error.
const OUTAGE_LIMIT: Duration = Duration::from_secs(30);

/// Keeps a mount of jarvis-secretsd while the daemon is restarted.
#[derive(Parser)]
#[command(name = "jarvis-secretsd holder", version)]
struct HolderArguments {
    /// The socket that the daemon finds it at (its --holder)
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
}

/// Runs the holder until it is told to stop.
#[must_use]
pub(crate) fn main() -> ExitCode {
    abort_on_panic();
    start_logging(LogLevel::Info);
    rustix::thread::set_name(c"jarvis-holder").ok();
    let arguments = HolderArguments::parse_from(std::env::args_os().skip(1));
    match Holder::start(&arguments.socket).and_then(Holder::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the holder cannot go on");
            ExitCode::FAILURE
        }
    }
}

/// Whether somebody serves the mount that is kept.
#[derive(Debug)]
enum Duty {
    /// A worker does, or is about to from `since` on; the table of requests in flight has
    /// not changed, while requests waited, since `stalled`.
    Watch { stalled: Option<Stall> },
    /// A supervisor promised that a worker will read.
    Pause { since: Instant },
    /// A worker should, and does not.
    Stuck { since: Instant, told: bool },
    /// Nobody does.
    Unserved { since: Instant },
}

/// Requests that wait while nobody works.
#[derive(Debug)]
struct Stall {
    since: Instant,
    in_flight: Vec<u64>,
}

struct Holder {
    listener: Listener,
    stop: SignalSocket,
    supervisor: Option<SupervisorPeer>,
    kept: Option<KeptDevice>,
    duty: Duty,
    watchdog: Watchdog,
}

impl Holder {
    fn start(socket: &Path) -> Result<Self, HolderError> {
        jarvis_sys::harden(true)?;
        let listener = Listener::bind(socket)?;
        let stop = SignalSocket::register(&[SIGTERM, SIGINT])?;
        // Without systemd there is nobody to notify.
        sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
        Ok(Self {
            listener,
            stop,
            supervisor: None,
            kept: None,
            duty: Duty::unserved(),
            watchdog: Watchdog::new(sd_notify::watchdog_enabled()),
        })
    }

    fn run(mut self) -> Result<(), HolderError> {
        loop {
            self.wait()?;
            if self.stop.drain() {
                self.give_up("told to stop");
                return Ok(());
            }
            if let Some(supervisor) = self.listener.accept()? {
                // The one before is dead, or is to be.
                self.supervisor = Some(supervisor);
                self.enter(Duty::unserved());
            }
            self.receive();
            self.look();
            self.watchdog.notify();
        }
    }

    /// Waits for a signal, a supervisor, its word, or a request that somebody must look at.
    fn wait(&self) -> Result<(), HolderError> {
        let mut fds = vec![
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        if let Some(supervisor) = &self.supervisor {
            fds.push(PollFd::from_borrowed_fd(supervisor.as_fd(), PollFlags::IN));
        }
        if let (Some(kept), true) = (&self.kept, self.duty.guards()) {
            fds.push(PollFd::from_borrowed_fd(kept.guard.as_fd(), PollFlags::IN));
        }
        let limit = if self.kept.is_some() {
            LOOK_INTERVAL
        } else {
            IDLE_INTERVAL
        };
        let limit = Timespec::try_from(limit).map_err(|_| Errno::INVAL)?;
        match poll(&mut fds, Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes what the supervisor says, if it says something.
    fn receive(&mut self) {
        while let Some(supervisor) = &self.supervisor {
            let (message, fds) = match supervisor.receive() {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(error) => {
                    if error.kind() != io::ErrorKind::UnexpectedEof {
                        tracing::error!(%error, "the supervisor is cut off");
                    }
                    self.supervisor = None;
                    self.enter(Duty::unserved());
                    return;
                }
            };
            let answer = match message {
                ToHolder::Recover => match &self.kept {
                    Some(kept) => supervisor.send(&FromHolder::Recovered, &kept.fds()),
                    None => supervisor.send(&FromHolder::Recovered, &[]),
                },
                ToHolder::Keep(mount) => {
                    let served = mount.served;
                    match KeptDevice::new(mount, fds) {
                        Ok(kept) => {
                            self.kept = Some(kept);
                            // An outage begins with the mount, not with what was before it.
                            self.duty = Duty::unserved();
                            // With the mount, not behind it: what is read of a device that a
                            // worker serves is lost to the worker, and fails when this process
                            // ends.
                            if served {
                                self.enter(Duty::Watch { stalled: None });
                            }
                            let Some(supervisor) = &self.supervisor else {
                                return;
                            };
                            supervisor.send(&FromHolder::Kept, &[])
                        }
                        Err(error) => {
                            tracing::error!(%error, "the mount is not kept");
                            Ok(())
                        }
                    }
                }
                ToHolder::Withdraw => {
                    self.kept = None;
                    Ok(())
                }
                ToHolder::Pause => {
                    self.enter(Duty::Pause {
                        since: Instant::now(),
                    });
                    let supervisor = self.supervisor.as_ref();
                    supervisor.map_or(Ok(()), |supervisor| {
                        supervisor.send(&FromHolder::Paused, &[])
                    })
                }
                ToHolder::Serving => {
                    self.enter(Duty::Watch { stalled: None });
                    Ok(())
                }
                ToHolder::Ping => supervisor.send(&FromHolder::Pong, &[]),
                ToHolder::Unserved => {
                    self.enter(Duty::unserved());
                    Ok(())
                }
            };
            if let Err(error) = answer {
                tracing::error!(%error, "the supervisor takes no answers");
            }
        }
    }

    fn enter(&mut self, duty: Duty) {
        // An outage goes on, whoever is heard of in between without serving.
        if matches!(
            (&self.duty, &duty),
            (Duty::Unserved { .. }, Duty::Unserved { .. })
        ) && self.kept.is_some()
        {
            return;
        }
        if let (Some(kept), true, false) = (&mut self.kept, self.duty.guards(), duty.guards()) {
            kept.leave();
        }
        self.duty = duty;
    }

    /// Does what the duty asks for now.
    fn look(&mut self) {
        let Some(kept) = &mut self.kept else {
            return;
        };
        if kept.guard.is_gone() {
            tracing::warn!("the mount was taken away");
            self.kept = None;
            return;
        }
        match &mut self.duty {
            Duty::Pause { since } if since.elapsed() > PAUSE_LIMIT => {
                self.duty = Duty::Watch { stalled: None };
            }
            Duty::Pause { .. } => {}
            Duty::Watch { stalled } => {
                *stalled = kept.stall(stalled.take());
                let since = stalled.as_ref().map(|stall| stall.since);
                if since.is_some_and(|since| since.elapsed() > STUCK_LIMIT) {
                    tracing::error!("requests wait and nobody serves them");
                    self.duty = Duty::Stuck {
                        since: Instant::now(),
                        told: false,
                    };
                    self.look();
                }
            }
            Duty::Stuck { since, told } => {
                let late = since.elapsed() > REPLACE_LIMIT;
                kept.answer_left();
                if kept.answer_waiting() && !*told {
                    *told = true;
                    if let Some(supervisor) = &self.supervisor {
                        supervisor.send(&FromHolder::Took, &[]).ok();
                    }
                }
                if late && let Some(supervisor) = &self.supervisor {
                    tracing::error!("the supervisor does not replace its worker: ending it");
                    supervisor.kill();
                    *since = Instant::now();
                }
            }
            Duty::Unserved { since } => {
                if since.elapsed() > LEFT_LIMIT {
                    kept.answer_left();
                }
                kept.answer_waiting();
                if since.elapsed() > OUTAGE_LIMIT {
                    self.give_up("nobody has served for 30 s");
                }
            }
        }
    }

    fn give_up(&mut self, why: &str) {
        if let Some(kept) = self.kept.take() {
            tracing::warn!(%why, path = %kept.path().display(), "the mount is taken away");
            kept.unmount();
        }
        self.duty = Duty::unserved();
    }
}

impl Duty {
    fn unserved() -> Self {
        Self::Unserved {
            since: Instant::now(),
        }
    }

    /// Whether each request is to be looked at as it comes.
    fn guards(&self) -> bool {
        matches!(self, Self::Unserved { .. } | Self::Stuck { .. })
    }
}

//! The process that has the secrets and nothing else.
//!
//! A worker gets its socket as standard input, gives up its rights before it opens
//! anything, and waits. `Open` (the one before is reaped) makes it open vault and audit
//! log; `Attach` brings the device: the worker answers what the one before had read and not
//! answered, which lies in memory that both have (`fs/src/buffers/`), and serves. Crash,
//! SIGKILL and hang take this path; an upgrade too, only that the old worker first stops
//! answering and writes a stop record. So it can be replaced at any instant: what must outlive
//! it stands in the vault, in the audit log, or in memory files that the supervisor holds.
//!
//! A worker has to answer a ping every half second. It does not while a request is stuck:
//! then the supervisor replaces it.
//!
//! Runs in: the worker and the standby, of a user of their own.
//! Touches: root key, vault, audit log, device, PLAINTEXT. Never the network beyond
//! accepted connections, never another program.
//! Imported by: daemon.

use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use jarvis_fs::{Connection, FileSystem, Server};

use crate::ipc::worker::{FromWorker, Open, SupervisorChannel, SupervisorStats, ToWorker};
use crate::ipc::{short, take_stdin};
use crate::process::{spawn, start_logging};

mod audit;
mod authorization;
mod commit;
mod control;
mod due;
mod error;
mod gate;
mod http;
mod identity;
mod log_opening;
mod maintenance;
mod metrics;
mod places;
pub(crate) mod request;
pub(crate) mod runner_client;
pub mod sandbox;
mod scheduler;
mod secrets;
mod settings;
mod startup;
mod status;
mod supervisor_client;
#[cfg(test)]
mod testing;
mod tree;
mod witness;

use error::WorkerError;
use http::Readiness;
use places::Places;
use startup::{Directories, StartResources, WorkerParts};
use supervisor_client::SupervisorClient;

/// A request that takes longer is stuck, and with it its thread.
const STUCK: Duration = Duration::from_secs(5);

/// Runs a worker; the supervisor's socket is its standard input.
#[must_use]
pub(crate) fn main() -> ExitCode {
    crate::process::abort_on_panic();
    // A name for ps; without one it would be a number.
    rustix::thread::set_name(c"jarvis-worker").ok();
    let channel: Arc<SupervisorChannel> = match take_stdin() {
        Ok(channel) => Arc::new(channel),
        Err(error) => {
            let orphan = format!("only the supervisor starts a worker ({error})");
            writeln!(io::stderr(), "jarvis-secretsd worker: {orphan}").ok();
            return ExitCode::FAILURE;
        }
    };
    match run(&channel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell when this fails too.
            channel.send(&FromWorker::Failed(short(&failure)), &[]).ok();
            ExitCode::FAILURE
        }
    }
}

/// Runs until the supervisor ends it; a failure is told with the paths that others know.
fn run(channel: &Arc<SupervisorChannel>) -> Result<(), String> {
    // While the directories are open their paths under /proc/self/fd are valid.
    let (resources, _directories) = start(channel).map_err(|error| error.to_string())?;
    let paths = resources.shown_paths();
    Worker {
        channel: channel.clone(),
        readiness: Readiness::new(),
        supervisor: Arc::new(SupervisorClient::new(channel.clone())),
        places: resources.places.clone(),
        state: WorkerState::Waiting(Box::new(resources)),
    }
    .run()
    .map_err(|error| {
        let shown = |text: String, (inner, outer): &(String, String)| text.replace(inner, outer);
        paths.iter().fold(error.to_string(), shown)
    })
}

/// Takes what the supervisor hands over, and gives up all other rights.
fn start(channel: &SupervisorChannel) -> Result<(StartResources, Directories), WorkerError> {
    let (message, fds) = channel.receive()?;
    let ToWorker::Start(start) = message else {
        return Err(WorkerError::Protocol("the first message was not a start"));
    };
    start_logging(start.config.logging.level);
    let (resources, directories) = StartResources::take(*start, fds)?;
    resources.give_up_privileges(&directories)?;
    Ok((resources, directories))
}

/// How far a worker has come.
enum WorkerState {
    Waiting(Box<StartResources>),
    Open(Box<(StartResources, WorkerParts)>),
    Serving(Box<WorkerParts>),
    Gone,
}

struct Worker {
    channel: Arc<SupervisorChannel>,
    readiness: Readiness,
    supervisor: Arc<SupervisorClient>,
    places: Arc<Places>,
    state: WorkerState,
}

impl Worker {
    fn run(mut self) -> Result<(), WorkerError> {
        self.send(&FromWorker::Ready)?;
        loop {
            let (message, mut fds) = self.channel.receive()?;
            match message {
                ToWorker::Ping(stats) => self.answer_ping(stats)?,
                ToWorker::Open(how) => {
                    let missing = WorkerError::Protocol("no policy came with the order to open");
                    self.open(&how, fds.pop().ok_or(missing)?)?;
                }
                ToWorker::Attach => {
                    let missing = WorkerError::Protocol("no device to attach to");
                    self.attach(fds.pop().ok_or(missing)?)?;
                }
                ToWorker::Policy(found) => self.supervisor.deliver_policy(found, fds.pop()),
                ToWorker::Reload => self.reload(),
                ToWorker::Runner => {
                    if let (WorkerState::Serving(parts), Some(end)) = (&self.state, fds.pop()) {
                        parts.runner.connect(end);
                        parts.committer.wake().look();
                    }
                }
                ToWorker::Listen => {
                    let missing = WorkerError::Protocol("no port to listen on");
                    let listener: TcpListener = fds.pop().ok_or(missing)?.into();
                    self.places.set_http(listener.local_addr()?);
                    http::start(&self.readiness, listener)?;
                }
                ToWorker::MountTrouble(why) => self.note_mount_trouble(why),
                ToWorker::Retire(reason) => {
                    self.retire(&reason);
                    return Ok(self.send(&FromWorker::Retired)?);
                }
                ToWorker::Certificate(signature) => self.supervisor.deliver_certificate(signature),
                ToWorker::Start(_) => return Err(WorkerError::Protocol("an unexpected message")),
            }
        }
    }

    fn send(&self, message: &FromWorker) -> io::Result<()> {
        self.channel.send(message, &[])
    }

    /// Answers, unless a request is stuck: then the supervisor replaces this worker.
    fn answer_ping(&self, stats: SupervisorStats) -> io::Result<()> {
        if let WorkerState::Serving(parts) = &self.state {
            parts.status.set_supervisor_stats(stats);
            parts.audit.set_directory_missing(stats.log_missing);
            if parts.tables.in_flight.longest() >= STUCK {
                return Ok(());
            }
        }
        self.send(&FromWorker::Pong(stats.ping))
    }

    fn note_mount_trouble(&self, why: Option<String>) {
        let status = match &self.state {
            WorkerState::Open(open) => &open.1.status,
            WorkerState::Serving(parts) => &parts.status,
            WorkerState::Waiting(_) | WorkerState::Gone => return,
        };
        status.set_mount_trouble(why);
    }

    fn open(&mut self, how: &Open, policy: OwnedFd) -> Result<(), WorkerError> {
        let WorkerState::Waiting(resources) = std::mem::replace(&mut self.state, WorkerState::Gone)
        else {
            return Err(WorkerError::Protocol("asked to open twice"));
        };
        let parts = WorkerParts::open(&resources, how, policy, &self.supervisor)?;
        self.supervisor.begin_delivering();
        self.send(&FromWorker::Opened(parts.secrets.counts().secrets))?;
        self.state = WorkerState::Open(Box::new((*resources, parts)));
        Ok(())
    }

    fn attach(&mut self, device: OwnedFd) -> Result<(), WorkerError> {
        let WorkerState::Open(open) = std::mem::replace(&mut self.state, WorkerState::Gone) else {
            let early = "asked to attach before it was asked to open";
            return Err(WorkerError::Protocol(early));
        };
        let (resources, parts) = *open;
        let tables = &parts.tables;
        let (handles, in_flight) = (tables.handles.clone(), tables.in_flight.clone());
        let connection = Arc::new(Connection::from(device));
        let fs = FileSystem::new(
            parts.backend(resources.places.clone()),
            handles,
            in_flight,
            connection.clone(),
        )?;
        let (buffers, threads) = (
            tables.requests.clone(),
            resources.start.config.mount.threads,
        );
        let server = Server::new(fs, connection, buffers, threads);
        let (channel, readiness) = (self.channel.clone(), self.readiness.clone());
        spawn("session", move || {
            let end = match server.run() {
                Ok(()) => {
                    "its connection was cut (by umount -f, or with its last mount)".to_owned()
                }
                Err(error) => format!("its device failed: {error}"),
            };
            readiness.clear("the mount is gone");
            // The supervisor may be the one who took it away.
            channel.send(&FromWorker::Ended(short(&end)), &[]).ok();
        })?;
        // Before the supervisor tells the world.
        self.readiness.set(&parts.status);
        self.send(&FromWorker::Serving)?;
        maintenance::start(&parts.maintenance)?;
        scheduler::start(parts.scheduler(), resources.log.clone())?;
        let secrets = parts.secrets.clone();
        let name_of = Box::new(move |id| secrets.name_of(id));
        audit::detector::recall(&parts.audit, resources.log, name_of)?;
        self.state = WorkerState::Serving(Box::new(parts));
        Ok(())
    }

    fn reload(&self) {
        if let WorkerState::Serving(parts) = &self.state {
            let authorization = parts.authorization.clone();
            // It asks for the policy's text, which this thread must receive.
            std::thread::spawn(move || {
                if let Err(error) = authorization.reload(None, true) {
                    tracing::error!(%error, "policy refused, the old one stays");
                }
            });
        }
    }

    fn retire(&mut self, reason: &str) {
        self.readiness.clear("the worker is being replaced");
        let parts = match std::mem::replace(&mut self.state, WorkerState::Gone) {
            WorkerState::Serving(parts) => *parts,
            WorkerState::Open(open) => open.1,
            WorkerState::Waiting(_) | WorkerState::Gone => return,
        };
        parts.committer.keep_time();
        parts.audit.retire(reason);
        parts.maintenance.keep_witness();
        parts.maintenance.note_checkpoint();
    }
}

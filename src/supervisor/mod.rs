//! The process that has the mount and shows no secret.
//!
//! Runs in: the supervisor, as root.
//! Touches: root, device, the host's identity key, memory files (the root key among them),
//! directories of vault and audit log (as their owner), systemd, policy text, the credential
//! for the vault; never a value, what is in the vault, or what a client wrote.
//! Imported by: daemon.
//!
//! The supervisor mounts, keeps the device, starts workers and puts one in another's
//! place. What a worker can ask of it is [`FromWorker`] by the rules in [`requests`], and
//! at another socket what program a thread runs ([`programs`]).
//!
//! [`Supervisor`] is a loop over signals, sockets and pidfds ([`events`]) and eight parts
//! that know nothing of it. What concerns several of them is here.

use std::os::fd::AsFd;
use std::time::Duration;

use jarvis_sys::Cell;

use crate::config::Config;
use crate::ipc::short;
use crate::ipc::worker::{FromWorker, Start, ToWorker};
use crate::process::credential::put_credential;
use crate::process::is_root;
use crate::process::watchdog::Watchdog;

mod arguments;
mod backoff;
mod certifier;
mod checkpoints;
mod child;
mod directories;
mod error;
mod events;
mod executable;
mod holder_client;
mod http_port;
mod log_place;
mod mount;
mod mounting;
mod policy;
mod programs;
mod requests;
mod runner;
mod service;
mod signals;
mod startup;
mod tables;
mod upgrade;
mod visibility;
mod worker;
mod workers;

pub(crate) use arguments::Arguments;
use certifier::Certifier;
pub(crate) use error::SupervisorError;
use events::SupervisorEvent;
use executable::Executable;
use http_port::HttpPort;
use log_place::LogPlace;
use mount::FuseMount;
use policy::PolicyText;
use requests::MessageRule;
pub use runner::RunnerProcess;
use runner::{RunnerFiles, RunnerSlot};
use service::Service;
use signals::Signals;
use visibility::MountWatch;
use worker::{ExitReason, Role, WorkerExit, WorkerPhase, WorkerProcess};
use workers::Workers;

/// When nobody could serve for this long, waiting clients get an error.
const OUTAGE_LIMIT: Duration = Duration::from_secs(30);

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// [`SupervisorError`].
pub(crate) fn run(config: Config, arguments: &Arguments) -> Result<(), SupervisorError> {
    let mut supervisor = Supervisor::new(config, arguments)?;
    supervisor.start(arguments.passphrase_stdin)?;
    // Until here a signal ends the process, also one that waits for a passphrase.
    let signals = Signals::register().map_err(SupervisorError::Signals)?;
    supervisor.supervise(&signals)
}

/// The parts, and what a worker is given at its start.
struct Supervisor {
    config: Config,
    directories: directories::WorkerDirectories,
    log_place: LogPlace,
    http: HttpPort,
    workers: Workers,
    runner: RunnerSlot,
    mount: FuseMount,
    watch: MountWatch,
    policy: PolicyText,
    certifier: Certifier,
    watchdog: Watchdog,
    service: Service,
}

impl Supervisor {
    /// Checks and opens what is needed; starts nothing.
    fn new(config: Config, arguments: &Arguments) -> Result<Self, SupervisorError> {
        startup::protect(&config)?;
        // Before anything else, so that `/readyz` can say "not yet".
        let http = HttpPort::open(&config.http)?;
        // Opened only to find out whether they can be: each runner gets its own.
        RunnerFiles::open(&config)?;
        let mut certifier = Certifier::open(&config.audit)?;
        let (user, runner_user) = startup::accounts(&config)?;
        let directories = directories::open_for_worker(&config, user)?;
        let [_, log] = &directories.fds;
        let log_place = LogPlace::watch(config.audit.dir.clone(), log)?;
        let holder = startup::connect_holder(arguments.holder.as_deref())?;
        let mount = FuseMount::open(&config.mount, holder)?;
        certifier.note_log_end(mount.tables.log_head.known());
        let mut watch =
            MountWatch::open(mount.path(), !is_root()).map_err(SupervisorError::MountTable)?;
        let adopted = mount.is_mounted();
        if adopted {
            watch.begin()?;
        }
        let policy = PolicyText::at_start(&config.policy.path, &mount.tables, adopted)?;
        let executable = Executable::own().map_err(SupervisorError::Executable)?;
        Ok(Self {
            directories,
            log_place,
            http,
            workers: Workers::new(executable, user),
            runner: RunnerSlot::new(runner_user),
            mount,
            watch,
            policy,
            certifier,
            watchdog: Watchdog::new(sd_notify::watchdog_enabled()),
            service: Service::new(adopted, arguments),
            config,
        })
    }

    /// Starts the first worker, and has ready what it needs to open and to serve.
    fn start(&mut self, passphrase_stdin: bool) -> Result<(), SupervisorError> {
        // This one says "not yet" over HTTP while a person types the passphrase.
        self.workers.active = Some(self.spawn_worker()?);
        self.workers.offer_port(&self.http);
        let keys = &self.mount.tables.keys;
        if keys.get(Cell::RootKey).is_none() {
            put_credential(&self.config, passphrase_stdin, keys)?;
        }
        if !self.mount.is_mounted() {
            mounting::prepare(&self.mount)?;
        }
        Ok(())
    }

    fn supervise(mut self, signals: &Signals) -> Result<(), SupervisorError> {
        loop {
            self.ensure_workers()?;
            self.ensure_runner();
            self.mount.ensure_holder();
            for event in self.wait(signals)? {
                signals.drain(event);
                self.handle(event)?;
            }
            self.follow_log();
            self.check_deadlines();
            self.http.retry();
            if self.service.stopping && self.workers.active.is_none() {
                self.leave();
                return Ok(());
            }
            self.check_outage()?;
        }
    }

    fn wait(&self, signals: &Signals) -> Result<Vec<SupervisorEvent>, SupervisorError> {
        let [stop, reload, upgrade] = signals.event_sources();
        let mut sources = vec![stop, reload];
        sources.extend(self.workers.event_sources());
        sources.extend(self.runner.event_source());
        sources.extend(self.mount.event_source());
        sources.push(self.watch.event_source());
        // Last, as an upgrade puts another standby in the place of one that events
        // before it are about.
        sources.push(upgrade);
        events::wait(&sources, self.workers.patience()).map_err(SupervisorError::Wait)
    }

    fn handle(&mut self, event: SupervisorEvent) -> Result<(), SupervisorError> {
        match event {
            SupervisorEvent::Stop => self.stop(),
            SupervisorEvent::Reload => {
                self.policy.reload_pending = true;
                self.workers.forward_reload(&self.policy);
            }
            SupervisorEvent::Upgrade => self.upgrade(),
            SupervisorEvent::Message(role) => {
                if let Some(message) = self.workers.get(role).and_then(WorkerProcess::receive) {
                    self.answer(role, message)?;
                }
            }
            SupervisorEvent::Exited(role) => self.on_exit(role)?,
            SupervisorEvent::RunnerExited => self.runner.on_exit(),
            SupervisorEvent::Holder if self.mount.holder_took_requests() => {
                self.workers.kill_serving("requests waited too long");
            }
            SupervisorEvent::Holder => {}
            SupervisorEvent::MountsChanged => self.check_mount()?,
        }
        Ok(())
    }

    /// Does what a worker asks for or tells, if it may.
    fn answer(&mut self, role: Role, message: FromWorker) -> Result<(), SupervisorError> {
        let Some(worker) = self.workers.get(role) else {
            return Ok(());
        };
        match requests::rule(role, worker.phase, &message) {
            MessageRule::Answer => {}
            MessageRule::Ignore => return Ok(()),
            MessageRule::Kill => {
                worker.kill();
                return Ok(());
            }
        }
        match message {
            FromWorker::Ready => {
                if self.workers.note_ready(role) {
                    self.retire("upgrade");
                }
            }
            FromWorker::Opened(secrets) => self.attach(secrets)?,
            FromWorker::Serving => self.on_serving(),
            FromWorker::Pong(_) => worker.note_pong(),
            FromWorker::Certify(claim) => {
                let accepted = self.service.accepted_losses();
                let [_, log] = &self.directories.fds;
                requests::certify_start(worker, &mut self.certifier, accepted, log, &claim)
                    .inspect_err(|_| self.mount.give_up())?;
            }
            FromWorker::CertifySegment(claim) => {
                requests::certify_segment(worker, &self.certifier, &claim)?;
            }
            FromWorker::Policy => {
                let path = &self.config.policy.path;
                requests::offer_policy(role, worker, &mut self.policy, path);
            }
            FromWorker::Accepted => self.policy.accept(&self.mount.tables)?,
            FromWorker::Checkpoint(note) => self.certifier.keep_checkpoint(&note),
            FromWorker::Failed(why) => worker.note_failure(&why),
            FromWorker::Ended(why) => self.replace_mount(&short(&why))?,
            FromWorker::Retired => {}
        }
        Ok(())
    }

    /// Sees to it that a worker serves and another stands by.
    fn ensure_workers(&mut self) -> Result<(), SupervisorError> {
        if self.service.stopping {
            return Ok(());
        }
        if self.workers.wants(Role::Active) && self.watch.pause().is_zero() {
            self.workers.active = match self.workers.standby.take() {
                Some(standby) => Some(standby),
                None => self.try_spawn_worker(Role::Active)?,
            };
        }
        self.workers.offer_port(&self.http);
        let fresh = self.service.is_fresh();
        self.workers.open_ready(&self.policy, fresh)?;
        // A mount that is not kept ends with its worker, and with it the tables that a standby
        // has.
        if self.workers.serving().is_some()
            && self.mount.outlives_worker()
            && self.workers.wants(Role::Standby)
        {
            self.workers.standby = self.try_spawn_worker(Role::Standby)?;
        }
        Ok(())
    }

    /// Sees to it that a serving worker has a runner.
    fn ensure_runner(&mut self) {
        if self.workers.serving().is_some() && self.runner.wants_process() {
            let host = self.certifier.host();
            let program = self.workers.executable.path();
            self.runner.spawn(&program, &self.config, &host);
            self.workers.introduce_runner(&self.runner);
        }
    }

    /// Starts a worker, unless there can be none just now. That ends the supervisor
    /// only while it is fresh: somebody waits for the answer then, and nobody for
    /// a secret.
    fn try_spawn_worker(&mut self, role: Role) -> Result<Option<WorkerProcess>, SupervisorError> {
        match self.spawn_worker() {
            Ok(worker) => Ok(Some(worker)),
            Err(why) if self.service.is_fresh() => Err(why),
            Err(why) => {
                tracing::error!(%why, "no worker");
                self.workers.note_failed_start(role);
                Ok(None)
            }
        }
    }

    fn spawn_worker(&self) -> Result<WorkerProcess, SupervisorError> {
        let program = self.workers.executable.path();
        let mut worker = WorkerProcess::spawn(&program).map_err(SupervisorError::StartWorker)?;
        let tables = &self.mount.tables;
        let start = Start {
            config: self.config.clone(),
            config_path: self.service.config_path.clone(),
            user: self.workers.user,
            mount: tables.nonce(),
            started_ms: tables.started_ms(),
            vault_directory: self.directories.vault_path.clone(),
            accepted: self.service.accepted_losses(),
            kept: self.certifier.kept_record(),
            host: self.certifier.host(),
        };
        let programs = programs::start_answering().map_err(SupervisorError::ThreadReplies)?;
        let mut fds: Vec<_> = self.directories.fds.iter().map(AsFd::as_fd).collect();
        fds.extend(tables.fds());
        fds.push(programs.as_fd());
        worker.send(&ToWorker::Start(Box::new(start)), &fds);
        Ok(worker)
    }

    fn on_serving(&mut self) {
        let generation = self.mount.tables.next_generation();
        self.service.note_serving(generation, &self.mount);
        self.mount.set_serving(true);
        self.workers.executable.confirm();
        if let Some(active) = &mut self.workers.active {
            active.enter(WorkerPhase::Serving);
            active.ping(self.service.stats);
        }
        self.workers.introduce_runner(&self.runner);
        self.workers.forward_reload(&self.policy);
    }

    fn on_exit(&mut self, role: Role) -> Result<(), SupervisorError> {
        // What a worker sent before it ended counts.
        while let Some(message) = self.workers.get(role).and_then(WorkerProcess::drain) {
            self.answer(role, message)?;
        }
        match (role, self.workers.take_exited(role)) {
            (Role::Active, Some(exit)) => self.on_active_exit(exit)?,
            (Role::Standby, Some(exit)) => self.workers.note_standby_exit(&exit),
            (_, None) => {}
        }
        Ok(())
    }

    fn on_active_exit(&mut self, exit: WorkerExit) -> Result<(), SupervisorError> {
        if self.service.stopping {
            return Ok(());
        }
        if self.service.is_fresh() && exit.reason == ExitReason::Crashed {
            // The first one could not start: nor could another.
            return Err(SupervisorError::FirstWorker(exit.report));
        }
        self.certifier
            .note_log_end(self.mount.tables.log_head.known());
        self.service.note_exit(&exit);
        self.mount.set_serving(false);
        self.workers.note_active_exit(exit);
        // A standby has the old tables.
        if self.watch.is_lost || self.mount.is_mounted() && !self.mount.outlives_worker() {
            self.start_over()?;
        }
        Ok(())
    }

    fn check_deadlines(&mut self) {
        let first = !self.service.is_announced();
        self.workers.check_deadlines(self.service.stats, first);
        let serving = self.workers.serving();
        if serving.is_some_and(|worker| !worker.is_silent()) {
            self.watchdog.notify();
        }
    }

    /// Ends the supervisor when nobody can serve: better an error for those who wait
    /// than nothing.
    fn check_outage(&mut self) -> Result<(), SupervisorError> {
        if self.service.is_fresh() || self.workers.serving().is_some() {
            return Ok(());
        }
        // systemd must not take the wait for a hang of the supervisor.
        self.watchdog.notify();
        if self.service.outage() < OUTAGE_LIMIT || self.service.stopping {
            return Ok(());
        }
        self.mount.give_up();
        Err(self.workers.outage(OUTAGE_LIMIT))
    }

    fn retire(&mut self, why: &str) {
        if let Some(active) = &mut self.workers.active {
            active.retire(why);
            self.service.begin_outage();
        }
    }

    fn stop(&mut self) {
        if self.service.stopping {
            return;
        }
        self.service.stopping = true;
        self.workers.standby = None;
        self.runner.stop();
        if !self.mount.outlives_supervisor() {
            self.mount.give_up();
        }
        match &self.workers.active {
            Some(active) if active.phase >= WorkerPhase::Opening => self.retire("stop"),
            // One that has nothing open has nothing to close in order.
            _ => self.workers.active = None,
        }
    }

    fn leave(self) {
        self.certifier.finish();
        service::announce_end();
    }
}

#[cfg(test)]
mod tests;

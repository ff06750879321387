//! The two workers: the active one, and the standby that takes its place.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::backoff::Backoff;
use super::error::SupervisorError;
use super::events::{EventSource, SupervisorEvent};
use super::executable::Executable;
use super::http_port::HttpPort;
use super::policy::PolicyText;
use super::runner::RunnerSlot;
use super::worker::{PING_INTERVAL, Role, WorkerExit, WorkerPhase, WorkerProcess};
use crate::ipc::short;
use crate::ipc::worker::{Open, SupervisorStats, ToWorker};

/// Workers and what is known for the next ones.
pub(super) struct Workers {
    pub(super) active: Option<WorkerProcess>,
    pub(super) standby: Option<WorkerProcess>,
    pub(super) executable: Executable,
    /// Uid and gid of a worker; `None` when it stays what the supervisor is.
    pub(super) user: Option<(u32, u32)>,
    /// The standby is of a program on trial, for which the active worker retires once
    /// the standby is ready: a program that can't even start replaces nobody.
    upgrading: bool,
    /// End of the last active worker, which its successor records.
    pub(super) last_exit: Option<WorkerExit>,
    /// Pauses between active workers, and between standbys: one for each, so that a
    /// standby that keeps crashing does not hold up the worker that is waited for.
    active_backoff: Backoff,
    standby_backoff: Backoff,
}

impl Workers {
    /// No workers yet; they are to run `executable` as `user`.
    pub(super) fn new(executable: Executable, user: Option<(u32, u32)>) -> Self {
        Self {
            active: None,
            standby: None,
            executable,
            user,
            upgrading: false,
            last_exit: None,
            active_backoff: Backoff::new(),
            standby_backoff: Backoff::new(),
        }
    }

    /// Place of the worker in `role`.
    pub(super) fn place(&mut self, role: Role) -> &mut Option<WorkerProcess> {
        match role {
            Role::Active => &mut self.active,
            Role::Standby => &mut self.standby,
        }
    }

    /// Worker in `role`.
    pub(super) fn get(&mut self, role: Role) -> Option<&mut WorkerProcess> {
        self.place(role).as_mut()
    }

    /// Worker that answers requests.
    pub(super) fn serving(&mut self) -> Option<&mut WorkerProcess> {
        let active = self.active.as_mut();
        active.filter(|worker| worker.phase == WorkerPhase::Serving)
    }

    /// Why nobody could serve for `limit`.
    pub(super) fn outage(&mut self, limit: Duration) -> SupervisorError {
        let last = self.last_exit.take();
        SupervisorError::Outage {
            seconds: limit.as_secs(),
            report: last.map(|exit| exit.report).unwrap_or_default(),
        }
    }

    /// Kills the worker that answers requests, so that another one takes its place.
    pub(super) fn kill_serving(&mut self, why: &str) {
        if let Some(worker) = self.serving() {
            tracing::error!(why, "the worker is replaced");
            worker.kill();
        }
    }

    /// Sources of events: of each worker its messages, then its end.
    pub(super) fn event_sources(&self) -> impl Iterator<Item = EventSource<'_>> {
        let active = self.active.iter().map(|worker| (Role::Active, worker));
        let standby = self.standby.iter().map(|worker| (Role::Standby, worker));
        active.chain(standby).flat_map(|(role, worker)| {
            [
                (SupervisorEvent::Message(role), worker.socket()),
                (SupervisorEvent::Exited(role), worker.pidfd()),
            ]
        })
    }

    /// How long nothing but an event needs attention.
    pub(super) fn patience(&self) -> Duration {
        match (&self.active, self.active_backoff.left()) {
            (None, pause) if !pause.is_zero() => pause.min(PING_INTERVAL),
            _ => PING_INTERVAL,
        }
    }

    /// Whether a worker in `role` is missing, and may be started now.
    pub(super) fn wants(&mut self, role: Role) -> bool {
        self.place(role).is_none() && self.backoff(role).left().is_zero()
    }

    /// Notes that a worker in `role` could not be started.
    pub(super) fn note_failed_start(&mut self, role: Role) {
        self.backoff(role).ended(Duration::ZERO, true);
    }

    fn backoff(&mut self, role: Role) -> &mut Backoff {
        match role {
            Role::Active => &mut self.active_backoff,
            Role::Standby => &mut self.standby_backoff,
        }
    }

    /// Lets the active worker open the vault with `policy` in force, if it is ready:
    /// its predecessor is dead. `fresh` makes it check everything.
    ///
    /// # Errors
    /// [`SupervisorError::PolicyCopy`].
    pub(super) fn open_ready(
        &mut self,
        policy: &PolicyText,
        fresh: bool,
    ) -> Result<(), SupervisorError> {
        let active = self.active.as_mut();
        let Some(active) = active.filter(|worker| worker.phase == WorkerPhase::Ready) else {
            return Ok(());
        };
        let policy = policy.copy()?;
        let last = self.last_exit.as_ref();
        let how = Open {
            fresh,
            crashed: last.is_some_and(|exit| exit.reason.is_own_fault()),
            reason: last.map(|exit| short(&exit.report)),
        };
        active.enter(WorkerPhase::Opening);
        active.send(&ToWorker::Open(how), &[policy.as_fd()]);
        Ok(())
    }

    /// Lets the active worker serve `device`. It knows of mount `trouble` before it says that
    /// it is ready.
    pub(super) fn attach_active(&mut self, device: BorrowedFd<'_>, trouble: Option<&str>) {
        if let Some(active) = &mut self.active {
            active.enter(WorkerPhase::Attaching);
            active.send(&ToWorker::MountTrouble(trouble.map(short)), &[]);
            active.send(&ToWorker::Attach, &[device]);
        }
    }

    /// Gives the active worker the port to answer HTTP on, once it is there: the one
    /// before is dead. A worker that opens takes no such message.
    pub(super) fn offer_port(&mut self, port: &HttpPort) {
        if let (Some(active), Some(listener)) = (&mut self.active, port.listener())
            && !active.has_port
            && active.takes_news()
        {
            active.has_port = true;
            active.send(&ToWorker::Listen, &[listener]);
        }
    }

    /// Tells the active worker why readers do not get to the mount, or that they do. One
    /// that has no device yet learns it with that.
    pub(super) fn tell_mount_trouble(&mut self, trouble: Option<&str>) {
        if let Some(active) = &mut self.active
            && active.phase >= WorkerPhase::Attaching
        {
            let trouble = trouble.map(short);
            active.send(&ToWorker::MountTrouble(trouble), &[]);
        }
    }

    /// Has the serving worker load the policy anew, if that was asked for. It stays
    /// pending until a worker has come for the text: this one may die before.
    pub(super) fn forward_reload(&mut self, policy: &PolicyText) {
        if policy.reload_pending
            && let Some(worker) = self.serving()
        {
            worker.send(&ToWorker::Reload, &[]);
        }
    }

    /// Gives the active worker the socket to the runner.
    pub(super) fn introduce_runner(&mut self, runner: &RunnerSlot) {
        if let (Some(active), Some(socket)) = (&mut self.active, runner.socket()) {
            active.send(&ToWorker::Runner, &[socket]);
        }
    }

    /// Kills workers that are late and pings the others, `first` being true until a
    /// worker has served.
    pub(super) fn check_deadlines(&mut self, stats: SupervisorStats, first: bool) {
        for worker in [&mut self.active, &mut self.standby].into_iter().flatten() {
            worker.check_deadlines(stats, first);
        }
    }

    /// Puts `standby`, of the program on trial, in the place of the one before.
    pub(super) fn begin_upgrade(&mut self, standby: WorkerProcess) {
        self.standby = Some(standby);
        self.upgrading = true;
    }

    /// Notes that a worker is ready; whether the active one is to retire for it.
    pub(super) fn note_ready(&mut self, role: Role) -> bool {
        if let Some(worker) = self.get(role) {
            worker.enter(WorkerPhase::Ready);
        }
        // Taken in any case: a standby of the program on trial that was promoted before it
        // was ready is no reason for the next one to replace it.
        let upgrading = std::mem::take(&mut self.upgrading);
        role == Role::Standby && upgrading
    }

    /// Goes back to the program that served.
    pub(super) fn abandon_upgrade(&mut self) {
        self.upgrading = false;
        self.executable.fall_back();
    }

    /// Takes a worker out of its place and reaps it.
    pub(super) fn take_exited(&mut self, role: Role) -> Option<WorkerExit> {
        self.place(role).take().map(WorkerProcess::reap)
    }

    /// Notes the end of a standby.
    pub(super) fn note_standby_exit(&mut self, exit: &WorkerExit) {
        tracing::warn!(why = %exit.report, "the standby ended");
        let own_fault = exit.reason.is_own_fault();
        self.standby_backoff.ended(exit.lasted, own_fault);
        self.abandon_upgrade();
    }

    /// Notes the end of an active worker.
    pub(super) fn note_active_exit(&mut self, exit: WorkerExit) {
        tracing::warn!(why = %exit.report, "the worker ended");
        let own_fault = exit.reason.is_own_fault();
        let served = exit.phase == WorkerPhase::Serving;
        let lasted = if served { exit.lasted } else { Duration::ZERO };
        self.active_backoff.ended(lasted, own_fault);
        if own_fault && !served {
            // Perhaps the new program is at fault.
            self.abandon_upgrade();
        }
        self.last_exit = Some(exit);
    }
}

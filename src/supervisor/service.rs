//! The service, as its users see it: whether it was announced, since when nobody
//! serves, and what has become of workers.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::arguments::Arguments;
use super::mount::FuseMount;
use super::worker::{ExitReason, WorkerExit, WorkerPhase};
use crate::ipc::worker::{AcceptedLosses, SupervisorStats};

/// How far the start of the service has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartState {
    /// No worker has served and nobody waits: a failure ends the supervisor, and the
    /// first worker checks the whole vault.
    Fresh,
    /// No worker of this supervisor has served, but the mount is an earlier one's:
    /// there are clients that wait, for whom it is worth to try again, and an
    /// earlier worker has checked the vault.
    Adopted,
    /// A worker has served, and whoever started the daemon knows.
    Announced,
}

/// State of the service as a whole.
pub(super) struct Service {
    pub(super) start: StartState,
    /// Secrets in the vault when it was last opened.
    pub(super) secrets: u64,
    pub(super) stats: SupervisorStats,
    /// When serving ended last, or the supervisor began.
    pub(super) outage_since: Instant,
    /// Losses that the first worker may accept.
    accepted: AcceptedLosses,
    /// The file that the configuration was read from; absolute.
    pub(super) config_path: PathBuf,
    /// The supervisor was told to end.
    pub(super) stopping: bool,
}

impl Service {
    /// Service that begins now, as `arguments` say; with an `adopted` mount it goes on. What
    /// they accept is accepted until a worker has served.
    pub(super) fn new(adopted: bool, arguments: &Arguments) -> Self {
        let config = &arguments.config;
        Self {
            start: if adopted {
                StartState::Adopted
            } else {
                StartState::Fresh
            },
            secrets: 0,
            stats: SupervisorStats::default(),
            outage_since: Instant::now(),
            accepted: arguments.accepted_losses(),
            config_path: std::path::absolute(config).unwrap_or_else(|_| config.clone()),
            stopping: false,
        }
    }

    /// Whether there is nobody yet who would notice that the daemon ends.
    pub(super) fn is_fresh(&self) -> bool {
        self.start == StartState::Fresh
    }

    /// Whether a worker of this supervisor has served.
    pub(super) fn is_announced(&self) -> bool {
        self.start == StartState::Announced
    }

    /// Losses that the next worker may accept.
    pub(super) fn accepted_losses(&self) -> AcceptedLosses {
        if self.is_announced() {
            AcceptedLosses::default()
        } else {
            self.accepted
        }
    }

    /// Notes that nobody serves from now on.
    pub(super) fn begin_outage(&mut self) {
        self.outage_since = Instant::now();
    }

    /// How long nobody has served, provided that nobody does.
    pub(super) fn outage(&self) -> Duration {
        self.outage_since.elapsed()
    }

    /// Counts the end of an active worker, if it served.
    pub(super) fn note_exit(&mut self, exit: &WorkerExit) {
        match exit.phase {
            WorkerPhase::Serving => self.begin_outage(),
            // The outage began when it was told to end.
            WorkerPhase::Retiring => {}
            _ => return,
        }
        match exit.reason {
            ExitReason::Killed => self.stats.killed += 1,
            ExitReason::Crashed => self.stats.crashed += 1,
            ExitReason::Hung => self.stats.hung += 1,
            ExitReason::Retired => self.stats.replaced += 1,
        }
    }

    /// Notes that the `generation`th worker serves `mount`.
    pub(super) fn note_serving(&mut self, generation: u64, mount: &FuseMount) {
        self.stats.generation = generation;
        if self.is_announced() {
            let gap_us = u64::try_from(self.outage().as_micros()).unwrap_or(u64::MAX);
            self.stats.gap_us = gap_us;
            tracing::warn!(generation, gap_us, "a new worker serves");
        } else {
            self.start = StartState::Announced;
            self.announce(mount);
        }
    }

    /// Tells systemd and whoever reads standard output that secrets are served.
    fn announce(&self, mount: &FuseMount) {
        if !mount.outlives_worker() {
            tracing::warn!("a worker's death will break open files: mount.keep is false");
        }
        let (secrets, path) = (self.secrets, mount.path().display());
        // Without systemd there is nobody to notify; a closed stdout is fine.
        sd_notify::notify(&[NotifyState::Ready]).ok();
        writeln!(io::stdout(), "ready: {secrets} secrets at {path}").ok();
        tracing::info!(secrets, path = %path, "serving");
    }
}

/// Tells systemd that the end is meant.
pub(super) fn announce_end() {
    // Without systemd there is nobody to notify.
    sd_notify::notify(&[NotifyState::Stopping]).ok();
    tracing::info!("stopped");
}

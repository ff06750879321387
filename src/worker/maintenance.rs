//! Threads that keep vault and audit log in order.
//!
//! Runs in: the worker.
//! Touches: metadata of secrets, the audit log; no plaintext.
//! Imported by: mod.rs of the worker.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::common::clock::now_ms;
use crate::process::spawn;
use crate::worker::audit::AuditTrail;
use crate::worker::audit::outage::LogHealth;
use crate::worker::commit::Committer;
use crate::worker::metrics::Metrics;
use crate::worker::runner_client::RunnerClient;
use crate::worker::secrets::Secrets;
use crate::worker::supervisor_client::SupervisorClient;

/// How often deleted secrets whose window is over are looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(3600);
/// How often it is looked whether the vault's file can be read and changed.
const VAULT_LOOKS: Duration = Duration::from_millis(500);
/// How often vault and supervisor are told how far the audit log has come.
const CHECKPOINTS: Duration = Duration::from_secs(10);
/// How long after a segment could not be ended it is tried again.
const SEGMENT_AGAIN: Duration = Duration::from_secs(10);

/// The parts that maintenance works with.
#[derive(Clone)]
pub(crate) struct MaintenanceParts {
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) committer: Arc<Committer>,
    pub(crate) audit: Arc<AuditTrail>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) runner: Arc<RunnerClient>,
    pub(crate) supervisor: Arc<SupervisorClient>,
}

/// Starts the threads.
///
/// # Errors
/// When no threads can be had.
pub(crate) fn start(parts: &MaintenanceParts) -> io::Result<()> {
    let vault = parts.clone();
    spawn("housekeeping", move || {
        loop {
            vault.housekeep();
            std::thread::sleep(HOUSEKEEPING);
        }
    })?;
    let file = parts.secrets.clone();
    spawn("vault-file", move || {
        let mut last = Default::default();
        loop {
            file.watch_vault(&mut last);
            std::thread::sleep(VAULT_LOOKS);
        }
    })?;
    let log = parts.clone();
    spawn("checkpoints", move || {
        // An earlier worker may have died before it corrected anything.
        let mut corrections_owed = true;
        loop {
            log.audit.record_overdue();
            corrections_owed |= log.committer.keep_time();
            if corrections_owed {
                corrections_owed = !log.correct_times();
            }
            log.keep_witness();
            log.note_checkpoint();
            std::thread::sleep(CHECKPOINTS);
        }
    })?;
    let keeper = parts.clone();
    spawn("audit-log", move || {
        loop {
            keeper.keep_log();
        }
    })?;
    let segments = parts.clone();
    spawn("segments", move || {
        loop {
            segments.keep_segments();
        }
    })
}

impl MaintenanceParts {
    /// Tells how far the audit log has come.
    pub(crate) fn note_checkpoint(&self) {
        self.supervisor.note_checkpoint(&self.audit, &self.runner);
    }

    /// Looks at the audit log, and waits until the next look is due.
    fn keep_log(&self) {
        let health = self.audit.keep();
        match &health {
            // Not to be left to the next one who asks. What still fails is logged.
            LogHealth::Recovered => self.committer.flush_outbox().unwrap_or_default(),
            LogHealth::Spent(why) => self.supervisor.hand_over(why),
            LogHealth::Working | LogHealth::Failing => {}
        }
        std::thread::sleep(health.pause());
    }

    /// Has the vault remember how far the audit log has come.
    pub(crate) fn keep_witness(&self) {
        // What a log that fails has on disk is not known.
        self.committer.keep_witness().ok();
    }

    /// Corrects what was made while the clock was ahead; gives whether that is done.
    fn correct_times(&self) -> bool {
        let corrected = self.committer.correct_times();
        if let Err(error) = &corrected {
            tracing::error!(%error, "times in the future are not corrected");
        }
        corrected.is_ok()
    }

    /// Destroys what was deleted longer ago than the recovery window, and counts
    /// what has expired.
    fn housekeep(&self) {
        let (now, mut expired) = (now_ms(), 0);
        let walk = self.secrets.walk(&mut |_, secret| {
            expired += i64::from(secret.current().is_some_and(|v| v.expires_ms <= now));
        });
        match walk {
            Ok(()) => self.metrics.secrets.expired.set(expired),
            Err(error) => drop(self.secrets.vault_failed(&error)),
        }
        if let Err(error) = self.committer.purge_expired() {
            tracing::error!(%error, "housekeeping");
        }
    }

    /// Removes old segments of the audit log, and ends the current one once it is time.
    fn keep_segments(&self) {
        if let Err(error) = self.audit.prune() {
            tracing::error!(%error, "old audit records stay");
        }
        if self.audit.await_segment_end(HOUSEKEEPING) {
            match self.audit.rotate_segment() {
                Ok(_) => self.note_checkpoint(),
                Err(error) => {
                    tracing::error!(%error, "the audit log goes on in its segment");
                    std::thread::sleep(SEGMENT_AGAIN);
                }
            }
        }
    }
}

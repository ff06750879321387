//! How this worker is doing: what health, metrics and `status` show.
//!
//! Runs in: the worker.
//! Touches: counters; no plaintext, no names.
//! Imported by: http, control.

use std::collections::BTreeMap;
use std::sync::Arc;

use jarvis_fs::{HandleTable, InFlight};
use parking_lot::Mutex;

use crate::common::clock::now_ms;
use crate::ipc::worker::SupervisorStats;
use crate::worker::audit::AuditTrail;
use crate::worker::metrics::{Gauges, Metrics};
use crate::worker::runner_client::RunnerClient;
use crate::worker::secrets::{Secrets, VaultTrouble};

/// Uptime, gauges, and what the supervisor counted.
pub(crate) struct Status {
    /// When the service began, Unix milliseconds.
    started_ms: i64,
    secrets: Arc<Secrets>,
    metrics: Arc<Metrics>,
    handles: Arc<HandleTable>,
    in_flight: Arc<InFlight>,
    runner: Arc<RunnerClient>,
    audit: Arc<AuditTrail>,
    supervisor: Mutex<SupervisorStats>,
    /// Why readers do not get to the mount, as the supervisor told.
    mount_trouble: Mutex<Option<String>>,
}

impl Status {
    pub(crate) fn new(
        started_ms: i64,
        secrets: Arc<Secrets>,
        metrics: Arc<Metrics>,
        handles: Arc<HandleTable>,
        in_flight: Arc<InFlight>,
        runner: Arc<RunnerClient>,
        audit: Arc<AuditTrail>,
    ) -> Self {
        Self {
            started_ms,
            secrets,
            metrics,
            handles,
            in_flight,
            runner,
            audit,
            supervisor: Mutex::default(),
            mount_trouble: Mutex::default(),
        }
    }

    /// When the service began, Unix milliseconds.
    pub(crate) fn started_ms(&self) -> i64 {
        self.started_ms
    }

    /// Seconds since the service began.
    pub(crate) fn uptime_secs(&self) -> u64 {
        u64::try_from(now_ms().saturating_sub(self.started_ms) / 1000).unwrap_or_default()
    }

    /// Why nothing is released, though the worker serves; `None` while it is.
    pub(crate) fn fault(&self) -> Option<String> {
        self.audit.fault()
    }

    /// Number of live secrets, and of the last commit.
    pub(crate) fn counts(&self) -> jarvis_vault::VaultCounts {
        self.secrets.counts()
    }

    /// Trouble with the vault.
    pub(crate) fn vault_trouble(&self) -> VaultTrouble {
        self.secrets.vault_trouble()
    }

    /// The counters.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether the runner answers; waits a second at most.
    pub(crate) fn runner_answers(&self) -> bool {
        self.runner.alive()
    }

    /// Takes over what the supervisor counted.
    pub(crate) fn set_supervisor_stats(&self, stats: SupervisorStats) {
        *self.supervisor.lock() = stats;
    }

    /// Notes why readers do not get to the mount; or with `None` that they do.
    pub(crate) fn set_mount_trouble(&self, why: Option<String>) {
        *self.mount_trouble.lock() = why;
    }

    /// Reasons why a read would not succeed now, each by its kind.
    pub(crate) fn troubles(&self) -> BTreeMap<&'static str, String> {
        let troubles = [
            ("mount", self.mount_trouble.lock().clone()),
            ("audit log", self.fault()),
            ("vault", self.vault_trouble().reads),
        ];
        let known = troubles.into_iter();
        known.filter_map(|(kind, why)| Some((kind, why?))).collect()
    }

    /// Values at this moment.
    pub(crate) fn gauges(&self) -> Gauges {
        let stale = |&(ino, version): &(u64, u32)| {
            let node = self.secrets.node(ino).ok();
            let current = node.as_ref().and_then(|n| n.live_secret()?.current());
            current.is_none_or(|current| current.number != version)
        };
        let trouble = self.vault_trouble();
        Gauges {
            secrets: self.secrets.counts().secrets,
            handles: self.handles.open() as u64,
            stale: self.handles.versions().filter(stale).count() as u64,
            resent: self.in_flight.resent(),
            vault_readable: u64::from(trouble.reads.is_none()),
            vault_writable: u64::from(trouble.changes.is_none()),
            facts: *self.supervisor.lock(),
        }
    }
}

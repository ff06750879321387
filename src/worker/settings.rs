//! Numbers of the configuration that matter after the start.

use std::time::Duration;

use jarvis_audit::{Durability, Thresholds};
use jiff::SignedDuration;

use crate::common::clock::{DAY_MS, HOUR_MS};
use crate::config::{Config, EventKind, ReadDurability};

/// Settings of versions, of rotations and of the audit log; times in milliseconds
/// where their names say so.
pub(crate) struct Settings {
    pub(crate) versions: VersionSettings,
    pub(crate) rotation: RotationSettings,
    pub(crate) audit: AuditSettings,
    pub(crate) hooks: HookSettings,
}

/// Life of versions, where a secret has no setting of its own.
pub(crate) struct VersionSettings {
    /// From a version's creation to its expiry.
    pub(crate) life_ms: i64,
    /// How long a superseded version stays readable by its key id.
    pub(crate) grace_ms: i64,
    /// Values kept of each secret.
    pub(crate) keep: usize,
    /// How long a deleted secret can be restored.
    pub(crate) recovery_ms: i64,
    /// How long a revocation can be approved and executed.
    pub(crate) revocation_ms: i64,
}

/// Rotations by schedule, and warnings.
pub(crate) struct RotationSettings {
    /// Interval, of secrets that have none of their own.
    pub(crate) every_ms: Option<i64>,
    /// Times of the week, of secrets that have none of their own.
    pub(crate) windows: Option<String>,
    /// Warnings that a version's life ends, in milliseconds before, the first first.
    pub(crate) warnings_ms: Vec<i64>,
}

/// How records are kept.
pub(crate) struct AuditSettings {
    /// When a read's record is durable enough to release the secret.
    pub(crate) durability: Durability,
    /// How long records are kept, where that is not for ever.
    pub(crate) retention: Option<SignedDuration>,
    /// Limits of what looks suspicious.
    pub(crate) thresholds: Thresholds,
}

/// Hooks and notifications.
pub(crate) struct HookSettings {
    /// How long a phase of a hook may take.
    pub(crate) limit: Duration,
    /// Events that somebody wants to be notified of.
    pub(crate) wanted_events: Vec<EventKind>,
}

impl Settings {
    pub(crate) fn from(config: &Config) -> Self {
        let (rotation, audit) = (&config.rotation, &config.audit);
        Self {
            versions: VersionSettings {
                life_ms: i64::from(rotation.expiry_days) * DAY_MS,
                grace_ms: i64::from(rotation.grace_days) * DAY_MS,
                keep: rotation.keep_versions,
                recovery_ms: i64::from(rotation.recovery_days) * DAY_MS,
                revocation_ms: i64::from(rotation.revocation_hours) * HOUR_MS,
            },
            rotation: RotationSettings {
                every_ms: rotation.schedule_days.map(|d| i64::from(d) * DAY_MS),
                windows: rotation.windows.clone(),
                warnings_ms: rotation.warnings_ms(),
            },
            audit: AuditSettings {
                durability: match audit.durability {
                    ReadDurability::Write => Durability::Write,
                    ReadDurability::Signed => Durability::Signed,
                    ReadDurability::Sync => Durability::Sync,
                },
                retention: match audit.retention_days {
                    0 => None,
                    days => Some(SignedDuration::from_hours(i64::from(days) * 24)),
                },
                thresholds: audit.suspicion.thresholds(),
            },
            hooks: HookSettings {
                limit: Duration::from_secs(config.hooks.timeout_secs.into()),
                wanted_events: config
                    .notify
                    .iter()
                    .flat_map(|n| n.events.clone())
                    .collect(),
            },
        }
    }
}

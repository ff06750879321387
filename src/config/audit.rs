//! `[audit]`: what was done, and what looks suspicious.

use std::path::PathBuf;

use jarvis_audit::{MAX_BULK_SECRETS, MAX_DENIALS, Threshold, Thresholds};
use serde::{Deserialize, Serialize};

use super::rule::{MAX_HOURS, SettingRule};
use crate::common::clock::MAX_DAYS;

/// `[audit]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// The directory of the log.
    pub dir: PathBuf,
    /// The host's identity key.
    pub identity: PathBuf,
    /// A directory, best on another machine, that gets a signed checkpoint of the
    /// log every ten seconds in which it grew, and at the end.
    pub checkpoints: Option<PathBuf>,
    /// When a read's record is durable enough to release the secret.
    #[serde(default)]
    pub durability: ReadDurability,
    /// Megabytes after which a segment of the log ends, 1 to 4096.
    #[serde(default = "AuditConfig::segment_mb")]
    pub segment_mb: u32,
    /// Hours after which a segment of the log ends, 1 to 8784.
    #[serde(default = "AuditConfig::segment_hours")]
    pub segment_hours: u32,
    /// Days for which records are kept, up to a century; 0 is for ever.
    #[serde(default = "AuditConfig::retention_days")]
    pub retention_days: u32,
    /// Limits of what looks suspicious.
    #[serde(default)]
    pub suspicion: SuspicionConfig,
}

impl AuditConfig {
    fn segment_mb() -> u32 {
        64
    }

    fn segment_hours() -> u32 {
        24
    }

    fn retention_days() -> u32 {
        90
    }

    /// Rules of this section.
    pub(super) fn rules(&self) -> Vec<SettingRule> {
        let mut rules = vec![
            SettingRule::within("audit.segment_mb", self.segment_mb, 1..=4096),
            SettingRule::within("audit.segment_hours", self.segment_hours, 1..=MAX_HOURS),
            SettingRule::within("audit.retention_days", self.retention_days, 0..=MAX_DAYS),
        ];
        rules.extend(self.suspicion.rules());
        rules
    }
}

/// `[audit.suspicion]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SuspicionConfig {
    /// Denials of one uid that are told, up to 100; 0: never.
    pub denials: u32,
    /// Within so many minutes, up to a day.
    pub denials_minutes: u32,
    /// Different secrets read by one uid that are told, 2 to 500; 0: never.
    pub bulk_secrets: u32,
    /// Within so many seconds, up to an hour.
    pub bulk_seconds: u32,
}

impl Default for SuspicionConfig {
    fn default() -> Self {
        let Thresholds { denials, bulk } = Thresholds::default();
        Self {
            denials: denials.count,
            denials_minutes: denials.seconds / 60,
            bulk_secrets: bulk.count,
            bulk_seconds: bulk.seconds,
        }
    }
}

impl SuspicionConfig {
    fn rules(&self) -> [SettingRule; 4] {
        [
            SettingRule::within_or_never("audit.suspicion.denials", self.denials, 1..=MAX_DENIALS),
            SettingRule::within(
                "audit.suspicion.denials_minutes",
                self.denials_minutes,
                1..=24 * 60,
            ),
            // One secret would make every read a bulk read.
            SettingRule::within_or_never(
                "audit.suspicion.bulk_secrets",
                self.bulk_secrets,
                2..=MAX_BULK_SECRETS,
            ),
            SettingRule::within("audit.suspicion.bulk_seconds", self.bulk_seconds, 1..=3600),
        ]
    }

    /// The limits as the detector takes them.
    pub(crate) fn thresholds(&self) -> Thresholds {
        Thresholds {
            denials: Threshold::of_minutes(self.denials, self.denials_minutes),
            bulk: Threshold::of_seconds(self.bulk_secrets, self.bulk_seconds),
        }
    }
}

/// Durability of the records of reads; changes are always `sync`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ReadDurability {
    /// In the kernel: survives the daemon, a power loss can take 10 ms of it. A signature
    /// follows within that time.
    #[default]
    Write,
    /// In the kernel, with a signature of its own.
    Signed,
    /// On disk, with a signature of its own.
    Sync,
}

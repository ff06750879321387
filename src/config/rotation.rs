//! `[rotation]`: the life of a version.

use serde::{Deserialize, Serialize};

use super::rule::{MAX_HOURS, SettingRule};
use crate::common::calendar::Windows;
use crate::common::clock::{HOUR_MS, MAX_DAYS};

/// Most warnings before the end of a version's life.
const MAX_WARNINGS: usize = 8;

/// `[rotation]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RotationConfig {
    /// Days until a version should be replaced. Days are up to a century.
    pub expiry_days: u32,
    /// Days for which a superseded version stays readable by its key id.
    pub grace_days: u32,
    /// Days after which a new version is generated, where a secret's type has a
    /// generator; none: only secrets that have a schedule of their own.
    pub schedule_days: Option<u32>,
    /// When rotations by schedule may happen, UTC: `mon-fri 02:00-04:00; sun
    /// 00:00-24:00`. None: always.
    pub windows: Option<String>,
    /// Hours before the end of a version's life at which a warning is given, up to a year.
    pub warning_hours: Vec<u32>,
    /// Hours for which a revocation can be approved and executed.
    pub revocation_hours: u32,
    /// Versions kept of each secret, 1 to 1000.
    pub keep_versions: usize,
    /// Days in which a deleted secret can be restored.
    pub recovery_days: u32,
}

impl Default for RotationConfig {
    fn default() -> Self {
        Self {
            expiry_days: 90,
            grace_days: 14,
            schedule_days: None,
            windows: None,
            warning_hours: vec![24],
            revocation_hours: 24,
            keep_versions: 10,
            recovery_days: 7,
        }
    }
}

impl RotationConfig {
    /// Rules of this section.
    pub(super) fn rules(&self) -> Vec<SettingRule> {
        let windows = self.windows.as_deref();
        vec![
            SettingRule::within("rotation.keep_versions", self.keep_versions, 1..=1000),
            SettingRule::within("rotation.expiry_days", self.expiry_days, 0..=MAX_DAYS),
            SettingRule::within("rotation.grace_days", self.grace_days, 0..=MAX_DAYS),
            SettingRule::within("rotation.recovery_days", self.recovery_days, 0..=MAX_DAYS),
            SettingRule::within(
                "rotation.schedule_days",
                self.schedule_days.unwrap_or(1),
                1..=MAX_DAYS,
            ),
            SettingRule::new(
                self.warning_hours.len() <= MAX_WARNINGS
                    && self.warning_hours.iter().all(|&hours| hours <= MAX_HOURS),
                "rotation.warning_hours",
                format!("must be at most {MAX_WARNINGS} numbers up to {MAX_HOURS}"),
            ),
            SettingRule::within(
                "rotation.revocation_hours",
                self.revocation_hours,
                1..=MAX_HOURS,
            ),
            SettingRule::new(
                windows.is_none_or(|windows| Windows::parse(windows).is_ok()),
                "rotation.windows",
                "must be windows such as \"mon-fri 02:00-04:00; sun 00:00-24:00\"",
            ),
        ]
    }

    /// The warnings in milliseconds before the end, the earliest first; the end
    /// itself is the last one.
    pub(crate) fn warnings_ms(&self) -> Vec<i64> {
        let mut warnings: Vec<_> = self.warning_hours.iter().map(|&h| i64::from(h)).collect();
        warnings.push(0);
        warnings.sort_unstable_by(|a, b| b.cmp(a));
        warnings.dedup();
        warnings.iter().map(|hours| hours * HOUR_MS).collect()
    }
}

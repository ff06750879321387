//! Versions of a secret, what is done about them, and a secret's own settings.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Versions remembered whose values are gone; the audit log has them all.
pub const MAX_DESTROYED: usize = 50;

/// What was done about a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionMark {
    /// Nothing.
    #[default]
    None,
    /// Its grace is over; it can still be rolled back to.
    Deprecated,
    /// Nobody may have it any more.
    Revoked,
    /// The value is gone.
    Destroyed,
}

/// What a version is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    /// New opens get it.
    Current,
    /// Superseded not long ago: readable by its key id.
    Grace,
    /// Superseded; can be rolled back to.
    Retired,
    /// Retired by request.
    Deprecated,
    /// Out of service for good.
    Revoked,
    /// The value is gone.
    Destroyed,
}

impl VersionState {
    /// The word as users see it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Grace => "grace",
            Self::Retired => "retired",
            Self::Deprecated => "deprecated",
            Self::Revoked => "revoked",
            Self::Destroyed => "destroyed",
        }
    }
}

impl fmt::Display for VersionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One version of a secret. Its value never changes; times are Unix milliseconds.
#[derive(Clone, Serialize, Deserialize)]
pub struct Version {
    /// Counts from 1.
    pub number: u32,
    /// Key id, `LASTSEGMENT-YYYYMMDD-HHMMSS[-n]`.
    pub kid: String,
    /// When it became current.
    pub created_ms: i64,
    /// When it should be replaced.
    pub expires_ms: i64,
    /// Size of the value in bytes.
    pub len: u32,
    /// Who wrote it.
    pub by_uid: u32,
    /// The commit that wrote it.
    pub seq: u64,
    /// Why, in the writer's words.
    pub why: Option<Box<str>>,
    /// When another one took its place.
    pub superseded_ms: Option<i64>,
    /// What was done about it.
    pub mark: VersionMark,
    /// Warnings given that it will expire, or has.
    pub warned: u8,
}

impl Version {
    /// What it is good for at `now_ms`, with a grace of `grace_ms`.
    #[must_use]
    pub fn state(&self, now_ms: i64, grace_ms: i64) -> VersionState {
        match (self.mark, self.superseded_ms) {
            (VersionMark::Destroyed, _) => VersionState::Destroyed,
            (VersionMark::Revoked, _) => VersionState::Revoked,
            (VersionMark::Deprecated, _) => VersionState::Deprecated,
            (VersionMark::None, None) => VersionState::Current,
            (VersionMark::None, Some(at)) if now_ms < at.saturating_add(grace_ms) => {
                VersionState::Grace
            }
            (VersionMark::None, Some(_)) => VersionState::Retired,
        }
    }

    /// Whether its value is there.
    #[must_use]
    pub fn has_value(&self) -> bool {
        self.mark != VersionMark::Destroyed
    }
}

/// A new value that is not current yet: its hook is at work. The value is stored
/// under the version's number.
#[derive(Clone, Serialize, Deserialize)]
pub struct PendingVersion {
    /// The version it will be.
    pub number: u32,
    /// Its key id.
    pub kid: String,
    /// Size of the value in bytes.
    pub len: u32,
    /// Since when, Unix milliseconds.
    pub since_ms: i64,
    /// The commit that began it.
    pub seq: u64,
    /// Who asked.
    pub by_uid: u32,
    /// Why.
    pub why: Option<Box<str>>,
}

/// How much depends on a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Criticality {
    /// Nobody would notice for days.
    Low,
    /// Somebody would.
    Medium,
    /// Users would.
    High,
    /// Everything stands.
    Critical,
}

/// A consumer that somebody declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// Its name.
    pub name: Box<str>,
    /// How much depends on it.
    pub criticality: Criticality,
    /// Whom to ask.
    pub owner: Option<Box<str>>,
    /// What makes it take a new version.
    pub restart: Option<Box<str>>,
}

/// A secret's own settings; `None` is the configuration's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretSettings {
    /// Versions kept with their values, at least 1.
    pub keep: Option<u32>,
    /// Life of a version in milliseconds.
    pub life_ms: Option<i64>,
    /// Time for which a superseded version stays readable by its key id.
    pub grace_ms: Option<i64>,
    /// Time after which a new version is generated.
    pub rotate_every_ms: Option<i64>,
    /// When it may be rotated by schedule: calendar windows as in the configuration.
    pub windows: Option<Box<str>>,
    /// An expired version is refused instead of served.
    pub refuse_expired: bool,
    /// The hook that brings a new value to where it is checked.
    pub hook: Option<Box<str>>,
    /// Grace ends once all consumers have the new version.
    pub end_grace_when_adopted: bool,
    /// Who depends on it.
    pub consumers: Vec<Consumer>,
}

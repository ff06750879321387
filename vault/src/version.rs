//! Versions of a secret with their marks and states, and a secret's own settings.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most versions of a secret that are remembered once their values are gone; the
/// audit log has them all.
pub const MAX_DESTROYED: usize = 50;

/// The mark that a request or a prune left on a version.
///
/// Stored by its position: a new variant goes last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionMark {
    /// No mark.
    #[default]
    None,
    /// Grace ended by request; a rollback can still use the value.
    Deprecated,
    /// Out of service for good; the value stays until it is pruned.
    Revoked,
    /// The value is gone.
    Destroyed,
}

/// State of a version: its mark, and the time since it was superseded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    /// Served to new opens.
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

/// A version of a secret. Its value never changes; times are Unix milliseconds.
#[derive(Clone, Serialize, Deserialize)]
pub struct Version {
    /// Number within the secret, from 1.
    pub number: u32,
    /// Key id, `LASTSEGMENT-YYYYMMDD-HHMMSS[-n]`.
    pub kid: String,
    /// Time at which the version became current.
    pub created_ms: i64,
    /// Time by which the version should be replaced.
    pub expires_ms: i64,
    /// Size of the value in bytes.
    pub len: u32,
    /// The uid of the writer.
    pub by_uid: u32,
    /// Number of the commit that made the version.
    pub seq: u64,
    /// Reason, in the writer's words.
    pub why: Option<Box<str>>,
    /// Time at which the next version took its place.
    pub superseded_ms: Option<i64>,
    /// The mark left on it.
    pub mark: VersionMark,
    /// Warnings given so far that the version expires.
    pub warned: u8,
}

impl Version {
    /// The state at `now_ms`, with a grace of `grace_ms`.
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

    /// True while the value is stored.
    #[must_use]
    pub fn has_value(&self) -> bool {
        self.mark != VersionMark::Destroyed
    }
}

/// A rotation under way: a new value that is not current yet, for its hook is at
/// work. The value is stored under the number that the version will have.
#[derive(Clone, Serialize, Deserialize)]
pub struct PendingVersion {
    /// Number that the version will have.
    pub number: u32,
    /// Key id that the version will have.
    pub kid: String,
    /// Size of the value in bytes.
    pub len: u32,
    /// Time of the beginning, Unix milliseconds.
    pub since_ms: i64,
    /// Number of the commit that began the rotation.
    pub seq: u64,
    /// The uid that asked for it.
    pub by_uid: u32,
    /// Reason, in the requester's words.
    pub why: Option<Box<str>>,
}

/// Criticality of a consumer: how much depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Criticality {
    /// Missed by nobody for days.
    Low,
    /// Missed by somebody within days.
    Medium,
    /// Missed by users.
    High,
    /// Nothing works without it.
    Critical,
}

/// A consumer that somebody declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// Name of the consumer.
    pub name: Box<str>,
    /// Importance of the consumer.
    pub criticality: Criticality,
    /// Person or team to ask.
    pub owner: Option<Box<str>>,
    /// Command or step that makes the consumer take a new version.
    pub restart: Option<Box<str>>,
}

/// A secret's own settings; `None` is the configuration's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretSettings {
    /// Versions kept with their values, at least 1.
    pub keep: Option<u32>,
    /// Life of a version, in milliseconds.
    pub life_ms: Option<i64>,
    /// Grace of a superseded version, readable by its key id, in milliseconds.
    pub grace_ms: Option<i64>,
    /// Interval after which a new version is generated, in milliseconds.
    pub rotate_every_ms: Option<i64>,
    /// Calendar windows, as in the configuration, in which rotation by schedule may
    /// happen.
    pub windows: Option<Box<str>>,
    /// Refuses an expired version instead of serving it.
    pub refuse_expired: bool,
    /// The hook that brings a new value to where it is checked.
    pub hook: Option<Box<str>>,
    /// Ends grace once all consumers have the new version.
    pub end_grace_when_adopted: bool,
    /// Consumers that somebody declared.
    pub consumers: Vec<Consumer>,
}

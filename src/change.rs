//! What a control request did, as it goes into the vault's outbox and, from
//! there or directly, into the audit log.

use jarvis_audit::Action;
use serde::{Deserialize, Serialize};

/// One change of one secret. Never a value.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) action: Kind,
    /// `None` when the change is about a key slot.
    pub(crate) name: Option<String>,
    pub(crate) id: Option<u64>,
    pub(crate) version: Option<u32>,
    pub(crate) kid: Option<String>,
    /// `None` when the daemon acts by itself.
    pub(crate) actor: Option<Actor>,
    pub(crate) reason: Option<String>,
}

/// Who asked, and which rule allowed it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Actor {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
    pub(crate) client: String,
    pub(crate) rule: String,
}

/// The changes there are.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Create,
    Update,
    Rotate,
    Delete,
    Restore,
    Purge,
    Key,
}

impl Kind {
    pub(crate) fn action(self) -> Action {
        match self {
            Self::Create => Action::Create,
            Self::Update => Action::Update,
            Self::Rotate => Action::Rotate,
            Self::Delete => Action::Delete,
            Self::Restore => Action::Restore,
            Self::Purge => Action::Purge,
            Self::Key => Action::Key,
        }
    }
}

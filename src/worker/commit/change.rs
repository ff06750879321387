//! What a control request did, as it goes into the vault's outbox and, from
//! there or directly, into the audit log.

use jarvis_audit::Action;
use jarvis_vault::{SecretName, WriteOutcome};
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
    /// It was tried and failed; what was before stands.
    #[serde(default)]
    pub(crate) failed: bool,
    /// Handles of the secret that were good are good no more.
    #[serde(default)]
    pub(crate) fences: bool,
    /// The revocation it is about.
    #[serde(default)]
    pub(crate) revocation: Option<u64>,
    /// Somebody else must agree.
    #[serde(default)]
    pub(crate) wanted: bool,
    /// The version that waits for its hook.
    #[serde(default)]
    pub(crate) begins: Option<u32>,
}

impl Change {
    pub(crate) fn new(action: Kind, name: &SecretName, outcome: WriteOutcome) -> Self {
        Self {
            name: Some(name.to_string()),
            id: Some(outcome.id),
            version: Some(outcome.version),
            kid: Some(outcome.kid),
            ..Self::of(action)
        }
    }

    /// The public part of a key pair, changed along with it.
    pub(crate) fn along(name: &SecretName, outcome: WriteOutcome) -> Self {
        let action = match outcome.created {
            true => Kind::Create,
            false => Kind::Rotate,
        };
        Self::new(action, name, outcome)
    }

    /// What is told by its reason alone.
    pub(crate) fn by_itself(action: Kind, reason: String) -> Self {
        Self {
            reason: Some(reason),
            ..Self::of(action)
        }
    }

    pub(crate) fn purged(name: &str, id: u64, reason: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            id: Some(id),
            ..Self::by_itself(Kind::Purge, reason.to_owned())
        }
    }

    fn of(action: Kind) -> Self {
        Self {
            action,
            name: None,
            id: None,
            version: None,
            kid: None,
            actor: None,
            reason: None,
            failed: false,
            fences: false,
            revocation: None,
            wanted: false,
            begins: None,
        }
    }
}

/// Who asked, and which rule allowed it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Actor {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
    #[serde(default)]
    pub(crate) unit: Option<Box<str>>,
    #[serde(default)]
    pub(crate) container: Option<Box<str>>,
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
    /// Settings or states of versions.
    Configure,
    Revoke,
    Approve,
    /// A version's life ends soon, or has ended.
    Expiry,
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
            Self::Configure => Action::Configure,
            Self::Revoke => Action::Revoke,
            Self::Approve => Action::Approve,
            Self::Expiry => Action::Expiry,
        }
    }
}

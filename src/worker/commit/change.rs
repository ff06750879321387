//! Changes, as they go into the vault's outbox and, from there or directly, into the
//! audit log.

use jarvis_audit::{Action, Event, Outcome};
use jarvis_fs::Caller;
use jarvis_vault::{SecretName, WriteOutcome};
use serde::{Deserialize, Serialize};

/// Reason in the record of a new value that continues a deleted secret.
const CONTINUED: &str = "continues the deleted secret: earlier versions can be rolled back to";

/// One change of one secret. Never a value.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) action: ChangeKind,
    /// `None` when the change is about a key slot.
    pub(crate) name: Option<String>,
    pub(crate) id: Option<u64>,
    pub(crate) version: Option<u32>,
    pub(crate) kid: Option<String>,
    /// `None` when the daemon acts by itself.
    pub(crate) actor: Option<Actor>,
    pub(crate) reason: Option<String>,
    /// The change was tried and failed; what was before stands.
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
    pub(crate) fn new(action: ChangeKind, name: &SecretName, outcome: WriteOutcome) -> Self {
        Self {
            name: Some(name.to_string()),
            id: Some(outcome.id),
            version: Some(outcome.version),
            kid: Some(outcome.kid),
            ..Self::of(action)
        }
    }

    /// A new value: a creation where there was nothing or what is there was deleted,
    /// `otherwise` where there was something.
    pub(crate) fn written(otherwise: ChangeKind, name: &SecretName, outcome: WriteOutcome) -> Self {
        let action = if outcome.created {
            ChangeKind::Create
        } else {
            otherwise
        };
        let reason = outcome.continued.then(|| CONTINUED.to_owned());
        Self {
            reason,
            ..Self::new(action, name, outcome)
        }
    }

    /// The public part of a key pair, changed along with it.
    pub(crate) fn derived(name: &SecretName, outcome: WriteOutcome) -> Self {
        Self::written(ChangeKind::Rotate, name, outcome)
    }

    /// A change that its reason alone describes.
    pub(crate) fn by_itself(action: ChangeKind, reason: String) -> Self {
        Self {
            reason: Some(reason),
            ..Self::of(action)
        }
    }

    /// A rotation of secret `id` that was begun and given up.
    pub(crate) fn failed_rotation(name: &str, id: u64, reason: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            id: Some(id),
            failed: true,
            ..Self::by_itself(ChangeKind::Rotate, reason.to_owned())
        }
    }

    /// A secret that is gone for good.
    pub(crate) fn purged(name: &str, id: u64, reason: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            id: Some(id),
            ..Self::by_itself(ChangeKind::Purge, reason.to_owned())
        }
    }

    /// The record of this change in the commit that `vault_seq` claims; a `late` one is
    /// written by another worker, or after the log failed.
    pub(super) fn event(&self, vault_seq: u64, late: bool) -> Event<'_> {
        let actor = self.actor.as_ref();
        Event {
            name: self.name.as_deref(),
            id: self.id,
            version: self.version,
            kid: self.kid.as_deref(),
            uid: actor.map(|a| a.uid),
            gid: actor.map(|a| a.gid),
            pid: actor.map(|a| a.pid),
            unit: actor.and_then(|a| a.unit.as_deref()),
            container: actor.and_then(|a| a.container.as_deref()),
            client: actor.map(|a| a.client.as_str()).filter(|c| !c.is_empty()),
            rule: actor.map(|a| a.rule.as_str()),
            reason: self.reason.as_deref(),
            result: if self.failed {
                Outcome::Failed
            } else {
                Outcome::Ok
            },
            recovered: late,
            ..Event::new(self.action.action(), Outcome::Ok, vault_seq)
        }
    }

    fn of(action: ChangeKind) -> Self {
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

/// The user who asked, and the rule that allowed it.
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

/// The kinds of changes there are. Outbox notes hold their names: they stay.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ChangeKind {
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

impl Actor {
    /// `caller`, allowed by `rule` of `client`.
    pub(crate) fn new(caller: &Caller, client: &str, rule: &str) -> Self {
        let workload = caller.workload.as_ref();
        Self {
            uid: caller.uid,
            gid: caller.gid,
            pid: caller.pid,
            unit: workload.and_then(|workload| workload.unit.clone()),
            container: workload.and_then(|workload| workload.container.clone()),
            client: client.to_owned(),
            rule: rule.to_owned(),
        }
    }
}

impl ChangeKind {
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

//! Control requests once they are checked.

use jarvis_policy::Verb;
use jarvis_vault::{
    Consumer, Credential, RevocationReason, SecretBytes, SecretName, SecretType, Severity,
};
use serde::{Deserialize, Deserializer};

/// A change an admin asks for.
pub(crate) enum Operation {
    Set {
        name: SecretName,
        value: SecretBytes,
        kind: Option<SecretType>,
        if_kid: Option<String>,
        cached: Option<bool>,
    },
    Generate {
        name: SecretName,
        kind: SecretType,
        if_kid: Option<String>,
    },
    Rotate(SecretName),
    Delete(SecretName),
    Restore(SecretName),
    Purge(SecretName),
    Lifecycle(LifecycleOp),
    KeyAdd(Credential),
    KeyRemove(u8),
}

impl Operation {
    /// Whether the operation takes a secret out of service, or leads there: that must not
    /// wait for the audit log.
    pub(crate) fn is_urgent(&self) -> bool {
        match self {
            Self::Lifecycle(LifecycleOp::Revocation(op)) => {
                !matches!(op, RevocationOp::Decide { approve: false, .. })
            }
            _ => false,
        }
    }
}

/// A question of an admin; it changes no secret.
pub(crate) enum Question {
    Status,
    Reload {
        /// Also a policy by which nobody may load the next.
        force: bool,
    },
    KeyList,
    /// All that is kept of a secret, sealed for somebody.
    HistoryExport {
        name: SecretName,
        credential: Credential,
    },
    /// How far the audit log has come, signed.
    Checkpoint,
    /// End the audit log's segment.
    AuditRotate,
    /// The versions of a secret and its settings.
    Versions(SecretName),
    /// How two versions differ, without showing them.
    Diff {
        name: SecretName,
        from: u32,
        to: u32,
    },
    /// Due times of secrets with ids above `after`.
    Schedule {
        after: u64,
    },
    /// Revocations with numbers above `after`.
    Revocations {
        after: u64,
    },
    /// One of them.
    Revocation(u64),
    /// Decision of the policy in force about somebody.
    Explain {
        name: SecretName,
        verb: Verb,
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
    },
}

/// One change, several that happen together, or a question.
pub(crate) enum Parsed {
    One(Operation),
    Batch(Vec<Operation>),
    Ask(Question),
}

impl Parsed {
    /// Whether the request goes before those that are not: it takes a secret out of service
    /// or is about keys.
    pub(crate) fn goes_first(&self) -> bool {
        let first = |operation: &Operation| {
            let about_keys = matches!(operation, Operation::KeyAdd(_) | Operation::KeyRemove(_));
            about_keys || operation.is_urgent()
        };
        match self {
            Self::One(operation) => first(operation),
            Self::Batch(operations) => operations.iter().all(first),
            Self::Ask(_) => false,
        }
    }
}

/// A change of what becomes of a secret.
pub(crate) enum LifecycleOp {
    Rollback {
        name: SecretName,
        version: u32,
        reason: Option<String>,
    },
    Deprecate {
        name: SecretName,
        version: u32,
    },
    Prune {
        name: SecretName,
        keep: usize,
    },
    Configure {
        name: SecretName,
        settings: Box<SettingsChange>,
    },
    ConsumerAdd {
        name: SecretName,
        consumer: Consumer,
    },
    ConsumerRemove {
        name: SecretName,
        consumer: String,
    },
    Revocation(RevocationOp),
}

/// A step of an emergency revocation.
pub(crate) enum RevocationOp {
    Revoke {
        name: SecretName,
        reason: RevocationReason,
        severity: Severity,
        note: Option<String>,
        immediate: bool,
        rotate: bool,
    },
    Decide {
        id: u64,
        approve: bool,
    },
    Execute {
        id: u64,
        rotate: bool,
    },
}

/// A setting in a request: left out, `null`, or a value.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Setting<T> {
    /// Leave it as it is.
    #[default]
    Keep,
    /// Make it the configuration's again.
    Configured,
    /// Set it.
    To(T),
}

impl<T> Setting<T> {
    /// The value that it is set to.
    pub(crate) fn value(&self) -> Option<&T> {
        match self {
            Self::To(value) => Some(value),
            Self::Keep | Self::Configured => None,
        }
    }

    /// Changes what is `stored` of it.
    pub(crate) fn apply<S>(&self, stored: &mut Option<S>, as_stored: impl FnOnce(&T) -> S) {
        match self {
            Self::Keep => {}
            Self::Configured => *stored = None,
            Self::To(value) => *stored = Some(as_stored(value)),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Setting<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = Option::deserialize(deserializer)?;
        Ok(given.map_or(Self::Configured, Self::To))
    }
}

/// New settings of a secret.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SettingsChange {
    pub(crate) keep_versions: Setting<u32>,
    pub(crate) expiry_days: Setting<u32>,
    pub(crate) grace_days: Setting<u32>,
    pub(crate) rotate_days: Setting<u32>,
    pub(crate) windows: Setting<String>,
    pub(crate) hook: Setting<String>,
    pub(crate) refuse_expired: Option<bool>,
    pub(crate) end_grace_when_adopted: Option<bool>,
}

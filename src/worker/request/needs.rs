//! Rights that requests need: one table, by operation.

use jarvis_policy::Verb;
use jarvis_vault::SecretName;

use super::operation::{LifecycleOp, Operation, Question, RevocationOp};

/// A right that the caller must have: one of some verbs, on something.
#[derive(Clone, Copy)]
pub(crate) struct Need<'a> {
    /// Any of them will do.
    pub(crate) any_of: &'static [Verb],
    pub(crate) on: Subject<'a>,
}

/// Where a right is needed.
#[derive(Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// The vault as a whole.
    Vault,
    /// A secret.
    Secret(&'a SecretName),
    /// The secret that a revocation is about.
    Revocation(u64),
    /// The secret of a revocation that is to be rejected: who asked for it may think better of
    /// it with the verb that it took to ask.
    Rejection(u64),
}

impl<'a> Need<'a> {
    fn vault(any_of: &'static [Verb]) -> Self {
        Self {
            any_of,
            on: Subject::Vault,
        }
    }

    pub(crate) fn secret(any_of: &'static [Verb], name: &'a SecretName) -> Self {
        Self {
            any_of,
            on: Subject::Secret(name),
        }
    }

    fn revocation(any_of: &'static [Verb], id: u64) -> Self {
        Self {
            any_of,
            on: Subject::Revocation(id),
        }
    }
}

const WRITE: &[Verb] = &[Verb::Write];
const ROTATE: &[Verb] = &[Verb::Rotate];

impl Operation {
    /// Every right that the operation needs; the record of it names the rule of the first.
    pub(crate) fn needs(&self) -> Vec<Need<'_>> {
        match self {
            Self::Set { name, .. }
            | Self::Generate { name, .. }
            | Self::Delete(name)
            | Self::Restore(name)
            | Self::Purge(name) => vec![Need::secret(WRITE, name)],
            Self::Rotate(name) => vec![Need::secret(ROTATE, name)],
            Self::Lifecycle(op) => op.needs(),
            Self::KeyAdd(_) | Self::KeyRemove(_) => vec![Need::vault(&[Verb::Key])],
        }
    }

    /// Right that the operation needs on names that are written along with its own, as the
    /// public part of a key pair is.
    pub(crate) fn needs_beside<'a>(&self, name: &'a SecretName) -> Need<'a> {
        match self {
            Self::Rotate(_) | Self::Lifecycle(_) => Need::secret(ROTATE, name),
            Self::Set { .. }
            | Self::Generate { .. }
            | Self::Delete(_)
            | Self::Restore(_)
            | Self::Purge(_)
            | Self::KeyAdd(_)
            | Self::KeyRemove(_) => Need::secret(WRITE, name),
        }
    }
}

impl LifecycleOp {
    fn needs(&self) -> Vec<Need<'_>> {
        match self {
            Self::Rollback { name, .. } | Self::Deprecate { name, .. } => {
                vec![Need::secret(ROTATE, name)]
            }
            Self::Prune { name, .. }
            | Self::Configure { name, .. }
            | Self::ConsumerAdd { name, .. }
            | Self::ConsumerRemove { name, .. } => vec![Need::secret(WRITE, name)],
            Self::Revocation(op) => op.needs(),
        }
    }
}

impl RevocationOp {
    fn needs(&self) -> Vec<Need<'_>> {
        let (take_out, new_value) = match self {
            Self::Revoke {
                name,
                immediate,
                rotate,
                ..
            } => {
                let verbs: &[Verb] = if *immediate {
                    &[Verb::Emergency]
                } else {
                    &[Verb::Revoke]
                };
                let new_value = rotate.then(|| Need::secret(ROTATE, name));
                (Need::secret(verbs, name), new_value)
            }
            Self::Execute { id, rotate } => (
                Need::revocation(&[Verb::Revoke], *id),
                rotate.then(|| Need::revocation(ROTATE, *id)),
            ),
            Self::Decide { id, approve: true } => (Need::revocation(&[Verb::Approve], *id), None),
            Self::Decide { id, approve: false } => {
                let on = Subject::Rejection(*id);
                let any_of = &[Verb::Approve];
                (Need { any_of, on }, None)
            }
        };
        [Some(take_out), new_value].into_iter().flatten().collect()
    }
}

impl Question {
    /// Every right that the question needs; none for what every manager may ask, and for what
    /// is answered secret by secret.
    pub(crate) fn needs(&self) -> Vec<Need<'_>> {
        match self {
            Self::Status
            | Self::Schedule { .. }
            | Self::Revocations { .. }
            | Self::Revocation(_) => Vec::new(),
            Self::Versions(name) => vec![Need::secret(&[Verb::List, Verb::Read], name)],
            Self::Diff { name, .. } => vec![Need::secret(&[Verb::Read], name)],
            // What a rollback to each version and a read of it would give.
            Self::HistoryExport { name, .. } => vec![
                Need::secret(&[Verb::Read], name),
                Need::secret(ROTATE, name),
            ],
            Self::Reload { .. } | Self::Explain { .. } => vec![Need::vault(&[Verb::Policy])],
            Self::KeyList => vec![Need::vault(&[Verb::Key])],
            Self::Checkpoint | Self::AuditRotate => vec![Need::vault(&[Verb::Audit])],
        }
    }
}

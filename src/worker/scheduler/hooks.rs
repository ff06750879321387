//! A rotation whose new value must reach somebody before it is current.
//!
//! The new value waits in the vault while its hook is at work. Whatever dies in
//! between, one of two things is true afterwards: the new version is current, or
//! the old one is and the hook's rollback has run (or the record says that it
//! could not).

use std::sync::Arc;

use jarvis_vault::{Body, Node, PendingVersion, Secret, SecretBytes, SecretName, VaultError};

use super::rotation_failed;
use crate::ipc::runner::{HookName, Phase};
use crate::worker::commit::change::{Change, Kind};
use crate::worker::control;
use crate::worker::gate::Gate;
use crate::worker::runner_client::{HookError, HookSubject};

/// The phases that bring a new value to where it is checked, in their order.
const PHASES: [Phase; 3] = [Phase::Prepare, Phase::Apply, Phase::Verify];

/// What became of a waiting value.
pub(super) enum Carried {
    /// It is current, or given up.
    Settled,
    /// There is no runner; it is tried again.
    Waits,
    /// The same, of the rollback after this failure.
    Doomed(String),
}

/// Everything a hook is told.
struct Errand<'g> {
    gate: &'g Gate,
    node: Arc<Node>,
    pending: PendingVersion,
    hook: Option<HookName>,
    old: Option<SecretBytes>,
    new: SecretBytes,
}

/// Brings the waiting value of secret `id` to its end, which is known where it is
/// `doomed`.
pub(super) fn carry_out(gate: &Gate, id: u64, doomed: Option<String>) -> Carried {
    let errand = match Errand::of(gate, id) {
        Ok(Some(errand)) => errand,
        // Somebody else settled it.
        Ok(None) => return Carried::Settled,
        Err(error) => {
            gate.trouble(&error);
            return doomed.map_or(Carried::Waits, Carried::Doomed);
        }
    };
    match doomed {
        Some(why) => errand.take_back(&why),
        // What an earlier worker began may have got anywhere.
        None if errand.pending.seq <= gate.opened_seq => {
            errand.take_back("the worker that began it has ended")
        }
        None => errand.go(),
    }
}

impl<'g> Errand<'g> {
    fn of(gate: &'g Gate, id: u64) -> Result<Option<Self>, VaultError> {
        let Some(node) = gate.vault.node(id)? else {
            return Ok(None);
        };
        let Some((secret, pending)) = waiting(&node) else {
            return Ok(None);
        };
        let hook = secret.settings.hook.as_deref().and_then(HookName::new);
        // Also one that was revoked: a rollback must find what was there.
        let old = match secret.newest() {
            Some(newest) => gate.vault.value(&node, newest.number)?,
            None => None,
        };
        let Some(new) = gate.vault.value(&node, pending.number)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            gate,
            pending: pending.clone(),
            hook,
            old,
            new,
            node,
        }))
    }

    fn go(&self) -> Carried {
        let Some(hook) = &self.hook else {
            return self.give_up("its hook was removed from its settings");
        };
        for phase in PHASES {
            let Err(error) = self.run(hook, phase) else {
                continue;
            };
            if matches!(error, HookError::NoRunner) && phase == Phase::Prepare {
                return Carried::Waits;
            }
            let why = format!("{}: {error}", phase.as_str());
            return match phase != Phase::Prepare || error.may_have_run() {
                true => self.take_back(&why),
                false => self.give_up(&why),
            };
        }
        match self.finish() {
            Ok(()) => Carried::Settled,
            Err(why) => self.take_back(&why),
        }
    }

    fn run(&self, hook: &HookName, phase: Phase) -> Result<(), HookError> {
        let about = HookSubject {
            name: &self.node.path,
            version: self.pending.number,
            kid: &self.pending.kid,
        };
        let old = self.old.as_ref().map(SecretBytes::expose);
        let errands = &self.gate.errands;
        errands.hook(hook, phase, &about, old, self.new.expose())
    }

    fn finish(&self) -> Result<(), String> {
        let (gate, id, number) = (self.gate, self.node.id, self.pending.number);
        let name = SecretName::parse(&self.node.path).map_err(|error| error.to_string())?;
        let done = control::commit(gate, |txn| {
            let pinned = |ino, version| gate.handles.pins(ino, version);
            let put = gate.put(self.pending.by_uid, &pinned);
            let outcome = txn.finish_rotation(id, number, &put)?;
            let derived = txn.derived_changes().into_iter();
            let derived = derived.map(|(name, outcome)| Change::along(&name, outcome));
            let change = Change {
                reason: self.pending.why.as_deref().map(str::to_owned),
                ..Change::new(Kind::Rotate, &name, outcome)
            };
            Ok(std::iter::once(change).chain(derived).collect())
        });
        done.map_err(|failure| failure.message)
    }

    /// Has the hook undo what it may have done, then gives the value up.
    fn take_back(&self, why: &str) -> Carried {
        let undone = self
            .hook
            .as_ref()
            .map(|hook| self.run(hook, Phase::Rollback));
        match undone {
            Some(Err(HookError::NoRunner)) => Carried::Doomed(why.to_owned()),
            Some(Err(error)) => self.give_up(&format!("{why}; its rollback failed, too: {error}")),
            Some(Ok(())) => self.give_up(&format!("{why}; rolled back")),
            None => self.give_up(why),
        }
    }

    /// The old version stays.
    fn give_up(&self, why: &str) -> Carried {
        let (id, number) = (self.node.id, self.pending.number);
        let abandoned = control::commit(self.gate, |txn| {
            txn.abandon_rotation(id, number)?;
            Ok(Vec::new())
        });
        match abandoned {
            Ok(()) => {
                let why = format!("version {number} given up: {why}");
                rotation_failed(self.gate, Some(&self.node.path), id, &why);
                Carried::Settled
            }
            Err(failure) => {
                tracing::error!(error = %failure.message, "a rotation could not be given up");
                Carried::Doomed(why.to_owned())
            }
        }
    }
}

/// The secret, deleted or not, and its waiting version.
fn waiting(node: &Node) -> Option<(&Secret, &PendingVersion)> {
    match &node.body {
        Body::Secret(secret) => Some((&**secret, secret.pending.as_ref()?)),
        Body::Directory { .. } => None,
    }
}

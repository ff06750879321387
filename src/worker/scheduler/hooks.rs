//! A rotation whose new value must reach somebody before it is current.
//!
//! The new value waits in the vault while its hook is at work. Whatever dies in
//! between, one of two things is true afterwards: the new version is current, or
//! the old one is and the hook's rollback has run (or the record says that it
//! could not).

use std::sync::Arc;

use jarvis_fs::FsError;
use jarvis_vault::{Body, Node, PendingVersion, Secret, SecretBytes, SecretName, VaultError};

use super::parts::SchedulerParts;
use crate::ipc::runner::{HookName, HookPhase};
use crate::worker::commit::change::{Change, ChangeKind};
use crate::worker::commit::{CommitError, with_derived};
use crate::worker::runner_client::{HookError, HookSubject};
use crate::worker::secrets::Unrecorded;

/// The phases that bring a new value to where it is checked, in their order.
const PHASES: [HookPhase; 3] = [HookPhase::Prepare, HookPhase::Apply, HookPhase::Verify];

/// Fate of a waiting value.
pub(super) enum HookOutcome {
    /// The value is current, or given up.
    Settled,
    /// There is no runner, or a record is owed; it is tried again.
    Waits,
    /// The rollback after this failure waits.
    RollbackOwed(String),
}

/// A rotation whose hook is at work.
struct HookRun<'p> {
    parts: &'p SchedulerParts,
    node: Arc<Node>,
    pending: PendingVersion,
    hook: Option<HookName>,
    old: Option<SecretBytes>,
    new: SecretBytes,
}

/// Why a hook's values are not to be had.
#[derive(Debug, thiserror::Error)]
enum ValuesError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Logged and counted already.
    #[error("the vault failed")]
    Failed(FsError),
    #[error("the rotation's record is not written yet")]
    Unrecorded(FsError),
}

/// Brings the waiting value of secret `id` to its end: a rollback, where one is owed
/// after the failure `rollback_owed`.
pub(super) fn carry_out(
    parts: &SchedulerParts,
    id: u64,
    rollback_owed: Option<String>,
) -> HookOutcome {
    let run = match HookRun::of(parts, id) {
        Ok(Some(run)) => run,
        // Somebody else settled it.
        Ok(None) => return HookOutcome::Settled,
        Err(error) => {
            match &error {
                ValuesError::Vault(error) => drop(parts.secrets.vault_failed(error)),
                ValuesError::Failed(_) | ValuesError::Unrecorded(_) => {
                    tracing::warn!(%error, "a hook waits");
                }
            }
            return rollback_owed.map_or(HookOutcome::Waits, HookOutcome::RollbackOwed);
        }
    };
    match rollback_owed {
        Some(why) => run.roll_back(&why),
        // What an earlier worker began may have got anywhere.
        None if run.pending.seq <= parts.opened_seq => {
            run.roll_back("the worker that began it has ended")
        }
        None => run.run_phases(),
    }
}

impl<'p> HookRun<'p> {
    fn of(parts: &'p SchedulerParts, id: u64) -> Result<Option<Self>, ValuesError> {
        let node = match parts.secrets.node(id) {
            Ok(node) => node,
            Err(FsError::NotFound) => return Ok(None),
            Err(error) => return Err(ValuesError::Failed(error)),
        };
        let Some((secret, pending)) = waiting(&node) else {
            return Ok(None);
        };
        // The record of the commit that began it may be owed; a hook gets no value before.
        let recorded = parts
            .committer
            .flush_outbox()
            .and_then(|()| parts.audit.hook(id, pending.seq))
            .map_err(ValuesError::Unrecorded)?;
        let hook = secret.settings.hook.as_deref().and_then(HookName::new);
        // Also one that was revoked: a rollback must find what was there.
        let old = match secret.newest() {
            Some(newest) => parts.secrets.value(&node, newest.number)?,
            None => None,
        };
        let Some(new) = parts.secrets.value(&node, pending.number)? else {
            return Ok(None);
        };
        let open = |value: Unrecorded<SecretBytes>| value.open(&recorded);
        Ok(Some(Self {
            parts,
            pending: pending.clone(),
            hook,
            old: old.map(open).transpose().map_err(ValuesError::Unrecorded)?,
            new: open(new).map_err(ValuesError::Unrecorded)?,
            node,
        }))
    }

    fn run_phases(&self) -> HookOutcome {
        let Some(hook) = &self.hook else {
            return self.abandon("its hook was removed from its settings");
        };
        for phase in PHASES {
            if let Err(error) = self.run(hook, phase) {
                return self.phase_failed(phase, &error);
            }
        }
        match self.finish() {
            // Its record is owed, but the new version is current: nothing to undo.
            Ok(()) | Err(CommitError::NotRecorded) => HookOutcome::Settled,
            Err(error) => self.roll_back(&error.to_string()),
        }
    }

    fn phase_failed(&self, phase: HookPhase, error: &HookError) -> HookOutcome {
        let first = phase == HookPhase::Prepare;
        if first && matches!(error, HookError::NoRunner) {
            return HookOutcome::Waits;
        }
        let why = format!("{}: {error}", phase.as_str());
        // Only what certainly did not begin needs no rollback.
        if first && !error.may_have_run() {
            self.abandon(&why)
        } else {
            self.roll_back(&why)
        }
    }

    fn run(&self, hook: &HookName, phase: HookPhase) -> Result<(), HookError> {
        let about = HookSubject {
            name: &self.node.path,
            version: self.pending.number,
            kid: &self.pending.kid,
        };
        let old = self.old.as_ref().map(SecretBytes::expose);
        let runner = &self.parts.runner;
        runner.hook(hook, phase, &about, old, self.new.expose())
    }

    fn finish(&self) -> Result<(), CommitError> {
        let (committer, id) = (&self.parts.committer, self.node.id);
        let name = SecretName::parse(&self.node.path).map_err(VaultError::from)?;
        committer.commit(|txn| {
            let new = committer.version_defaults(self.pending.by_uid);
            let outcome = txn.finish_rotation(id, self.pending.number, &new)?;
            let change = Change {
                reason: self.pending.why.as_deref().map(str::to_owned),
                ..Change::new(ChangeKind::Rotate, &name, outcome)
            };
            Ok(with_derived(txn, vec![change]))
        })
    }

    /// Has the hook undo what it may have done, then gives the value up.
    fn roll_back(&self, why: &str) -> HookOutcome {
        let undone = self
            .hook
            .as_ref()
            .map(|hook| self.run(hook, HookPhase::Rollback));
        match undone {
            Some(Err(HookError::NoRunner)) => HookOutcome::RollbackOwed(why.to_owned()),
            Some(Err(error)) => self.abandon(&format!("{why}; its rollback failed, too: {error}")),
            Some(Ok(())) => self.abandon(&format!("{why}; rolled back")),
            None => self.abandon(why),
        }
    }

    /// Gives the waiting value up: the old version stays. The failure is part of the
    /// commit: whatever dies after it, the record comes.
    fn abandon(&self, why: &str) -> HookOutcome {
        let (id, number) = (self.node.id, self.pending.number);
        let reason = format!("version {number} given up: {why}");
        let abandoned = self.parts.committer.commit(|txn| {
            txn.abandon_rotation(id, number)?;
            Ok(vec![Change::failed_rotation(&self.node.path, id, &reason)])
        });
        match abandoned {
            Ok(()) | Err(CommitError::NotRecorded) => {
                let committer = &self.parts.committer;
                committer.count_failed_rotation(Some(&self.node.path), &reason);
                HookOutcome::Settled
            }
            Err(error) => {
                tracing::error!(%error, "a rotation could not be given up");
                HookOutcome::RollbackOwed(why.to_owned())
            }
        }
    }
}

/// The secret, deleted or not, and its waiting version.
pub(super) fn waiting(node: &Node) -> Option<(&Secret, &PendingVersion)> {
    match &node.body {
        Body::Secret(secret) => Some((&**secret, secret.pending.as_ref()?)),
        Body::Directory { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use jarvis_audit::{Action, Outcome};
    use jarvis_vault::SecretType;

    use super::super::{RUNNER_AGAIN_MS, Scheduler};
    use super::*;
    use crate::worker::commit::rotate;
    use crate::worker::testing::{WorkerFixture, name};

    /// A secret with a hook, whose rotation was begun; gives its id.
    fn begun(fixture: &WorkerFixture) -> u64 {
        let committer = &fixture.parts.committer;
        let secret = name("db/password");
        let new = committer.version_defaults(1);
        let password = SecretType::password(32).unwrap();
        let created = fixture.vault.write(|txn| {
            let created = txn.generate(&secret, &password, &new)?;
            txn.configure(&secret, |settings| settings.hook = Some("hook".into()))?;
            Ok::<_, VaultError>(created)
        });
        let begun = committer.commit(|txn| Ok(vec![rotate(txn, &secret, &new)?]));
        begun.unwrap();
        created.unwrap().id
    }

    fn without_hook(fixture: &WorkerFixture) {
        let secret = name("db/password");
        let removed = fixture
            .vault
            .write(|txn| txn.configure(&secret, |settings| settings.hook = None));
        removed.unwrap();
    }

    #[test]
    fn a_rotation_that_is_given_up_and_its_record_are_one_commit() {
        let fixture = WorkerFixture::new();
        let id = begun(&fixture);
        without_hook(&fixture);
        assert!(matches!(
            carry_out(&fixture.parts, id, None),
            HookOutcome::Settled
        ));
        // Whoever opens this vault next finds what is to be recorded, even if this
        // process had died right behind the commit.
        let notes = fixture.vault.pending_notes(0).unwrap();
        let note = notes.last().unwrap();
        assert_eq!(note.seq, fixture.vault.counts().seq);
        let change: Change = serde_json::from_slice(&note.note).unwrap();
        assert!(change.failed && matches!(change.action, ChangeKind::Rotate));
        let record = fixture.records().pop().unwrap();
        assert_eq!(
            (record.action, record.result, record.id),
            (Action::Rotate, Outcome::Failed, Some(id))
        );
        assert!(record.reason.unwrap().contains("version 2 given up"));
    }

    #[test]
    fn a_value_that_waits_in_a_deleted_secret_is_looked_after() {
        let fixture = WorkerFixture::new();
        begun(&fixture);
        let deleted = fixture
            .vault
            .write(|txn| txn.delete(&name("db/password"), 1, 0));
        deleted.unwrap();
        let mut scheduler = Scheduler {
            parts: Arc::new(fixture.parts),
            permits: Arc::default(),
            failed: HashMap::new(),
            log: fixture.directory.path().join("log"),
            adoption: None,
        };
        assert!(
            scheduler.round() <= RUNNER_AGAIN_MS,
            "it waits for a runner"
        );
    }

    #[test]
    fn without_a_runner_a_rotation_waits_and_a_rollback_is_owed() {
        let fixture = WorkerFixture::new();
        let id = begun(&fixture);
        assert!(matches!(
            carry_out(&fixture.parts, id, None),
            HookOutcome::Waits
        ));
        let owed = carry_out(&fixture.parts, id, Some("apply: broken".into()));
        assert!(matches!(owed, HookOutcome::RollbackOwed(why) if why == "apply: broken"));
    }
}

//! Changes that are asked for: decided, committed together, recorded each.

use std::time::{Duration, Instant};

use jarvis_fs::{Answer, Caller, RequestOrigin};
use jarvis_vault::{KidPrecondition, NewVersion, SecretName, Txn, VaultError};
use serde_json::Value;

use super::answer::{ControlError, success};
use super::authorise::{decide, demand, denied};
use super::service::ControlService;
use super::{cost, lifecycle};
use crate::worker::commit::change::{Change, ChangeKind};
use crate::worker::commit::{CommitError, Urgency, rotate, with_derived};
use crate::worker::request::Operation;

/// Time after which the rest of a request is given up, and with it all of it.
const TIME_LIMIT: Duration = Duration::from_secs(4);

/// Decides every operation, commits them together, and records each.
pub(super) fn change(
    service: &ControlService,
    caller: &Caller,
    operations: Vec<Operation>,
    origin: RequestOrigin,
    result: &dyn Fn(&[Change]) -> Value,
) -> Result<Answer, ControlError> {
    let is_urgent = operations.iter().all(Operation::is_urgent);
    let begun = Instant::now();
    let mut authorised = Vec::with_capacity(operations.len());
    for operation in operations {
        // Every operation needs something.
        if let Some(actor) = demand(service, caller, &operation.needs())? {
            authorised.push((operation, actor));
        }
    }
    let asked: Vec<_> = authorised.iter().map(|(operation, _)| operation).collect();
    cost::admit(service, caller, &asked)?;
    let urgency = if is_urgent {
        Urgency::Revocation
    } else {
        Urgency::Ordinary
    };
    let mut answer = None;
    let mut missing = None;
    let committed = service.committer.commit_as(urgency, |txn| {
        let mut changes = Vec::new();
        for (operation, actor) in &authorised {
            // The estimate may be wrong, and the machine slow.
            service.in_flight.note_progress();
            if begun.elapsed() > TIME_LIMIT {
                return Err(CommitError::TooSlow);
            }
            let made = apply(service, txn, operation, caller.uid)?;
            for name in names_beside(txn, &made)? {
                let need = operation.needs_beside(&name);
                decide(service, caller, need.any_of, Some(&name)).map_err(|refused| {
                    missing = Some(refused);
                    CommitError::NotAllowed
                })?;
            }
            for mut change in with_derived(txn, made) {
                change.actor = Some(actor.clone());
                changes.push(change);
            }
        }
        let made = answer.insert(Answer {
            change: true,
            fenced: fenced(&changes),
            ..success(&result(&changes))
        });
        service.committer.journal().enter(txn, origin, &made.body)?;
        Ok(changes)
    });
    if let Some(missing) = missing {
        return Err(denied(service, caller, &missing));
    }
    let failed = |error: CommitError| ControlError::commit(&service.secrets, &error);
    match (committed, answer) {
        (Ok(()), Some(answer)) => Ok(answer),
        // The change is made all the same: pages of what it is about must go.
        (Err(error @ CommitError::NotRecorded), Some(made)) => Ok(Answer {
            fenced: made.fenced,
            ..failed(error).answer()
        }),
        (Err(error), _) => Err(failed(error)),
        // The closure has run when the commit succeeds.
        (Ok(()), None) => Err(failed(CommitError::NotRecorded)),
    }
}

/// Names that `changes` write, or will once a hook has run, besides those that were asked for.
fn names_beside(txn: &Txn<'_>, changes: &[Change]) -> Result<Vec<SecretName>, VaultError> {
    let mut names: Vec<_> = txn.derived_names().cloned().collect();
    for begun in changes.iter().filter(|change| change.begins.is_some()) {
        if let Some(name) = &begun.name {
            names.extend(txn.public_name(&SecretName::parse(name)?)?);
        }
    }
    Ok(names)
}

/// Secrets whose open handles must not be read any more.
fn fenced(changes: &[Change]) -> Vec<u64> {
    let fenced = changes.iter().filter(|change| change.fences);
    fenced.filter_map(|change| change.id).collect()
}

/// Demand on the current version that the field `if_kid` of a request makes.
fn precondition(if_kid: Option<&str>) -> KidPrecondition<'_> {
    match if_kid {
        None => KidPrecondition::Any,
        Some("none") => KidPrecondition::Absent,
        Some(kid) => KidPrecondition::Current(kid),
    }
}

fn apply(
    service: &ControlService,
    txn: &mut Txn<'_>,
    operation: &Operation,
    by_uid: u32,
) -> Result<Vec<Change>, VaultError> {
    let new = service.committer.version_defaults(by_uid);
    let change = match operation {
        Operation::Set {
            name,
            value,
            kind,
            if_kid,
            cached,
        } => {
            let new = NewVersion {
                kind: kind.as_ref(),
                cached: *cached,
                if_kid: precondition(if_kid.as_deref()),
                ..new
            };
            let outcome = txn.set(name, value.expose(), &new)?;
            Change::written(ChangeKind::Update, name, outcome)
        }
        Operation::Generate { name, kind, if_kid } => {
            let new = NewVersion {
                if_kid: precondition(if_kid.as_deref()),
                ..new
            };
            let outcome = txn.generate(name, kind, &new)?;
            Change::written(ChangeKind::Rotate, name, outcome)
        }
        Operation::Rotate(name) => rotate(txn, name, &new)?,
        Operation::Lifecycle(op) => return lifecycle::apply(service, txn, op, &new),
        Operation::Delete(name) => {
            let outcome = txn.delete(name, by_uid, new.now_ms)?;
            Change::new(ChangeKind::Delete, name, outcome)
        }
        Operation::Restore(name) => {
            let outcome = txn.restore(name, new.recoverable_since_ms)?;
            Change::new(ChangeKind::Restore, name, outcome)
        }
        Operation::Purge(name) => {
            let ids = txn.purge(name)?;
            let purged = ids.into_iter();
            return Ok(purged
                .map(|id| Change::purged(name.as_str(), id, "request"))
                .collect());
        }
        Operation::KeyAdd(credential) => {
            let slot = txn.add_slot(credential)?;
            Change::by_itself(ChangeKind::Key, format!("slot {slot} added"))
        }
        Operation::KeyRemove(slot) => {
            txn.remove_slot(*slot)?;
            Change::by_itself(ChangeKind::Key, format!("slot {slot} removed"))
        }
    };
    Ok(vec![change])
}

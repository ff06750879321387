//! Cost of a request, estimated before it is carried out: one that would keep all others
//! waiting for long is refused.

use jarvis_audit::{Action, Durability, Event};
use jarvis_fs::{Caller, FsError};
use jarvis_vault::SecretName;

use super::answer::ControlError;
use super::service::ControlService;
use crate::worker::request::{LifecycleOp, Operation, RevocationOp};

/// Most that a request may cost; about a second of a slow machine.
const MAX: u64 = 1 << 20;
/// Least cost of a request whose begin is recorded: should it end a worker, the log tells
/// whose it was.
const LONG: u64 = MAX / 4;
/// Cost of an operation, whatever it does: its decision, its pages of the vault, its record.
/// The unit is one random character.
const OPERATION: u64 = 512;
/// Cost of a key that is derived from a passphrase.
const KEY: u64 = MAX / 4;
/// Cost of a look at a deleted secret: by name, all are looked at.
const DELETED: u64 = 4;
/// Bytes of a value that cost one unit.
const BYTES: u64 = 64;

/// Estimates what `operations` of `caller` cost, and records that they begin if it is much.
///
/// # Errors
/// A refusal when it is too much.
pub(super) fn admit(
    service: &ControlService,
    caller: &Caller,
    operations: &[&Operation],
) -> Result<(), ControlError> {
    let by_name = operations
        .iter()
        .any(|op| matches!(op, Operation::Restore(_) | Operation::Purge(_)));
    let deleted = if by_name {
        service.secrets.deleted_count() as u64
    } else {
        0
    };
    let costs = operations.iter();
    let costs = costs.map(|operation| cost(service, operation, deleted));
    let cost = costs.fold(0, u64::saturating_add);
    if cost > MAX {
        let message = format!(
            "the request would take {cost} units of work, at most {MAX}: divide it into smaller ones"
        );
        return Err(ControlError::new(FsError::TooLong, "too_much", message));
    }
    if cost >= LONG {
        let event = Event {
            name: Some(jarvis_fs::CONTROL_NAME),
            reason: Some("operations of a long request"),
            count: Some(operations.len() as u64),
            ..service.audit.event(Action::Begin, Some(caller))
        };
        // Without it nothing else is recorded either, and nothing changed.
        service.audit.append(&event, Durability::Write).ok();
    }
    Ok(())
}

fn cost(service: &ControlService, operation: &Operation, deleted: u64) -> u64 {
    let rotation = |name: &SecretName| {
        let found = service.secrets.find(name).ok();
        let kind = found.and_then(|node| node.live_secret().map(|secret| secret.kind.work()));
        kind.unwrap_or_default()
    };
    let work = match operation {
        Operation::Set { value, .. } => value.len() as u64 / BYTES,
        Operation::Generate { kind, .. } => kind.work(),
        Operation::Rotate(name)
        | Operation::Lifecycle(LifecycleOp::Revocation(RevocationOp::Revoke {
            name,
            rotate: true,
            ..
        })) => rotation(name),
        Operation::Lifecycle(LifecycleOp::Revocation(RevocationOp::Execute {
            id,
            rotate: true,
        })) => {
            let found = service.secrets.revocation(*id).ok();
            let name = found.and_then(|found| SecretName::parse(&found.name).ok());
            name.as_ref().map(rotation).unwrap_or_default()
        }
        Operation::Lifecycle(LifecycleOp::Rollback { .. }) => {
            jarvis_vault::MAX_VALUE as u64 / BYTES
        }
        Operation::KeyAdd(_) => KEY,
        Operation::Restore(_) | Operation::Purge(_) => deleted * DELETED,
        Operation::Lifecycle(_) | Operation::Delete(_) | Operation::KeyRemove(_) => 0,
    };
    OPERATION + work
}

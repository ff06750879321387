//! Emergency revocation: requested, decided, executed.
//!
//! It is one commit: all versions marked. Then a counter grows that every READ compares with
//! what its handle saw last: handles of marked versions are fenced before the answer to the
//! request goes out.

use jarvis_audit::{Action, Event};
use jarvis_fs::{Caller, FsError};
use jarvis_vault::{
    ActedBy, NewVersion, Revocation, RevocationRequest, RevocationStatus, SecretName, Txn,
    VaultError,
};
use serde_json::{Value, json};

use super::answer::ControlError;
use super::authorise::may_see;
use super::page::Page;
use super::service::ControlService;
use crate::common::clock::{now_ms, rfc3339};
use crate::worker::commit::change::{Change, ChangeKind};
use crate::worker::commit::rotate as rotate_secret;
use crate::worker::request::RevocationOp;

/// Carries out `op` in `txn`.
///
/// # Errors
/// The vault's.
pub(super) fn apply(
    service: &ControlService,
    txn: &mut Txn<'_>,
    op: &RevocationOp,
    new: &NewVersion<'_>,
) -> Result<Vec<Change>, VaultError> {
    let by = ActedBy {
        uid: new.by_uid,
        at_ms: new.now_ms,
    };
    match op {
        RevocationOp::Revoke {
            name,
            reason,
            severity,
            note,
            immediate,
            rotate,
        } => {
            let request = RevocationRequest {
                reason: *reason,
                severity: *severity,
                note: note.as_deref(),
                by,
                life_ms: service.settings.versions.revocation_ms,
                immediate: *immediate,
            };
            let revocation = txn.request_revocation(name, &request)?;
            let mut changes = vec![Change {
                wanted: !immediate,
                ..told(&revocation, ChangeKind::Revoke, "requested")
            }];
            if *immediate {
                changes.extend(execute(txn, revocation.id, by, (true, *rotate), new)?);
            }
            Ok(changes)
        }
        RevocationOp::Decide { id, approve } => {
            let revocation = txn.decide_revocation(*id, *approve, by)?;
            let (kind, word) = if *approve {
                (ChangeKind::Approve, "approved")
            } else {
                (ChangeKind::Revoke, "rejected")
            };
            Ok(vec![told(&revocation, kind, word)])
        }
        RevocationOp::Execute { id, rotate } => execute(txn, *id, by, (false, *rotate), new),
    }
}

fn execute(
    txn: &mut Txn<'_>,
    id: u64,
    by: ActedBy,
    (immediate, rotate): (bool, bool),
    new: &NewVersion<'_>,
) -> Result<Vec<Change>, VaultError> {
    let (revocation, _) = txn.execute_revocation(id, by, immediate)?;
    let how = if immediate {
        "executed without approval"
    } else {
        "executed"
    };
    let mut changes = vec![Change {
        fences: true,
        ..told(&revocation, ChangeKind::Revoke, how)
    }];
    if rotate {
        let name = SecretName::parse(&revocation.name)?;
        let why = format!("after revocation {id}");
        let new = NewVersion {
            why: Some(&why),
            ..*new
        };
        match rotate_secret(txn, &name, &new) {
            Ok(change) if change.id == Some(revocation.secret) => changes.push(change),
            // Another one has the name now, which nobody spoke of.
            Ok(_) => {
                let gone = format!("{name} that revocation {id} is about");
                return Err(VaultError::NotFound(gone));
            }
            // A new value is on its way already; this is no time to wait for it.
            Err(VaultError::RotationPending(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(changes)
}

fn told(revocation: &Revocation, action: ChangeKind, what: &str) -> Change {
    let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
    let reason = format!(
        "revocation {} {what}: {}, {}",
        revocation.id,
        word(json!(revocation.reason)),
        word(json!(revocation.severity)),
    );
    Change {
        name: Some(revocation.name.to_string()),
        id: Some(revocation.secret),
        revocation: Some(revocation.id),
        ..Change::by_itself(action, reason)
    }
}

/// Revocations after number `after` that the caller has to do with: a page.
pub(super) fn revocations(
    service: &ControlService,
    caller: &Caller,
    after: u64,
) -> Result<Value, ControlError> {
    let mut page = Page::default();
    let visited = service.secrets.revocations(after, |kept| {
        let row = may_see(service, caller, kept).then(|| shown(kept));
        page.add(kept.id, row)
    });
    visited.map_err(|error| ControlError::vault(&service.secrets, &error))?;
    Ok(page.answer())
}

/// Revocation number `id`, for who has to do with it.
///
/// # Errors
/// A refusal, which is recorded, and an unknown number.
pub(super) fn revocation(
    service: &ControlService,
    caller: &Caller,
    id: u64,
) -> Result<Value, ControlError> {
    let revocation = service.secrets.revocation(id);
    let revocation = revocation.map_err(|error| ControlError::vault(&service.secrets, &error))?;
    if may_see(service, caller, &revocation) {
        return Ok(shown(&revocation));
    }
    service.audit.deny(Event {
        name: Some(&revocation.name),
        reason: Some("revocation"),
        ..service.audit.event(Action::Deny, Some(caller))
    });
    let message = "the policy does not let you see this revocation";
    Err(ControlError::new(FsError::Denied, "denied", message))
}

fn shown(revocation: &Revocation) -> Value {
    let act =
        |act: Option<ActedBy>| act.map(|act| json!({"uid": act.uid, "at": rfc3339(act.at_ms)}));
    let expired = revocation.is_expired(now_ms());
    json!({
        "id": revocation.id,
        "name": revocation.name,
        "status": if expired {
            json!("expired")
        } else {
            json!(revocation.status)
        },
        "reason": revocation.reason,
        "severity": revocation.severity,
        "note": revocation.note,
        "immediate": revocation.immediate,
        "requested": act(Some(revocation.requested)),
        "decided": act(revocation.decided),
        "executed": act(revocation.executed),
        "expires_at": matches!(revocation.status, RevocationStatus::Requested | RevocationStatus::Approved)
            .then(|| rfc3339(revocation.expires_ms)),
    })
}

//! Authorisation of requests: who may do what with the control file.

use jarvis_audit::{Action, Event};
use jarvis_fs::{Caller, FsError};
use jarvis_policy::Verb;
use jarvis_vault::{Revocation, SecretName, VaultError};

use super::answer::ControlError;
use super::service::ControlService;
use crate::worker::audit::rule_of;
use crate::worker::authorization::subject;
use crate::worker::commit::change::Actor;
use crate::worker::request::{LifecycleOp, Operation, RevocationOp};

/// Decides `operation`; a refusal is recorded.
///
/// # Errors
/// Refusals of the policy, and an unknown revocation.
pub(super) fn authorise(
    service: &ControlService,
    caller: &Caller,
    operation: &Operation,
) -> Result<Actor, ControlError> {
    let (verb, name) = operation.needs();
    let of_revocation = match operation {
        Operation::Lifecycle(LifecycleOp::Revocation(op)) => op
            .revocation()
            .map(|id| revocation_subject(service, caller, op, id))
            .transpose()?,
        _ => None,
    };
    let (verb, name) = match &of_revocation {
        Some((verb, name)) => (*verb, Some(name)),
        None => (verb, name),
    };
    let policy = service.authorization.policy();
    let subject = subject(caller);
    let Some(name) = name else {
        return if policy.grants(&subject, verb) {
            Ok(Actor::new(caller, "", verb.as_str()))
        } else {
            Err(denied(service, caller, verb, None, (None, "default")))
        };
    };
    let decision = policy.decide(&subject, verb, name.as_str());
    let (client, rule) = rule_of(&decision);
    if decision.allowed() {
        service.metrics.decided(true);
        return Ok(Actor::new(caller, client.unwrap_or_default(), rule));
    }
    Err(denied(service, caller, verb, Some(name), (client, rule)))
}

/// The name that decides who may act on revocation `id`, and with which verb.
fn revocation_subject(
    service: &ControlService,
    caller: &Caller,
    op: &RevocationOp,
    id: u64,
) -> Result<(Verb, SecretName), ControlError> {
    let failed = |error: &VaultError| ControlError::vault(&service.secrets, error);
    let revocation = service.secrets.revocation(id).map_err(|e| failed(&e))?;
    let name = SecretName::parse(&revocation.name).map_err(|e| failed(&e.into()))?;
    let own = revocation.requested.uid == caller.uid;
    let verb = match op {
        // Who asked may think better of it.
        RevocationOp::Decide { approve: false, .. } if own => Verb::Revoke,
        _ => op.needs().0,
    };
    Ok((verb, name))
}

/// Whether `caller` may, with one of `verbs`, and by which rule; a refusal is
/// recorded.
pub(super) fn demand(
    service: &ControlService,
    caller: &Caller,
    verbs: &[Verb],
    name: &SecretName,
) -> Result<Actor, ControlError> {
    let policy = service.authorization.policy();
    let mut rule = None;
    for &verb in verbs {
        let decision = policy.decide(&subject(caller), verb, name.as_str());
        let (client, pattern) = rule_of(&decision);
        if decision.allowed() {
            return Ok(Actor::new(caller, client.unwrap_or_default(), pattern));
        }
        rule = Some((verb, client.map(str::to_owned), pattern.to_owned()));
    }
    // Nothing is demanded of nobody: without a verb nothing is allowed.
    let (verb, client, pattern) = rule.unwrap_or((Verb::Read, None, "default".into()));
    let rule = (client.as_deref(), pattern.as_str());
    Err(denied(service, caller, verb, Some(name), rule))
}

/// Records a refusal; gives the answer.
pub(super) fn denied(
    service: &ControlService,
    caller: &Caller,
    verb: Verb,
    name: Option<&SecretName>,
    (client, rule): (Option<&str>, &str),
) -> ControlError {
    service.audit.deny(Event {
        name: name.map(SecretName::as_str),
        client,
        rule: Some(rule),
        reason: Some(verb.as_str()),
        ..service.audit.event(Action::Deny, Some(caller))
    });
    let message = match name {
        Some(name) => format!("the policy does not let uid {} {verb} `{name}`", caller.uid),
        None => format!(
            "the policy does not give uid {} the verb {verb}",
            caller.uid
        ),
    };
    ControlError::new(FsError::Denied, "denied", message)
}

/// Whether `caller` has to do with `revocation`.
pub(super) fn may_see(service: &ControlService, caller: &Caller, revocation: &Revocation) -> bool {
    let (policy, subject) = (service.authorization.policy(), subject(caller));
    [Verb::Revoke, Verb::Approve, Verb::Audit]
        .into_iter()
        .any(|verb| policy.decide(&subject, verb, &revocation.name).allowed())
}

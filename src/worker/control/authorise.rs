//! Authorisation of requests: who may do what with the control file.

use jarvis_audit::{Action, Event};
use jarvis_fs::{Caller, FsError};
use jarvis_policy::Verb;
use jarvis_vault::{Revocation, SecretName, VaultError};

use super::answer::ControlError;
use super::service::ControlService;
use crate::worker::audit::rule_of;
use crate::worker::authorization::{refusal, subject};
use crate::worker::commit::change::Actor;
use crate::worker::request::{Need, Subject};

/// A right that the policy does not give.
pub(super) struct Missing {
    verb: Verb,
    /// `None`: on the vault as a whole.
    name: Option<SecretName>,
    client: Option<String>,
    rule: String,
}

/// Demands all `needs` of `caller`; gives the rule of the first, if there is any need. A
/// refusal is recorded.
///
/// # Errors
/// Refusals of the policy, and an unknown revocation.
pub(super) fn demand(
    service: &ControlService,
    caller: &Caller,
    needs: &[Need<'_>],
) -> Result<Option<Actor>, ControlError> {
    let mut first = None;
    for need in needs {
        let (verbs, name) = resolve(service, caller, need)?;
        let actor = decide(service, caller, verbs, name.as_ref())
            .map_err(|missing| denied(service, caller, &missing))?;
        first.get_or_insert(actor);
    }
    Ok(first)
}

/// The verbs of `need`, one of which is enough, and on which secret; `None` is the vault.
fn resolve(
    service: &ControlService,
    caller: &Caller,
    need: &Need<'_>,
) -> Result<(&'static [Verb], Option<SecretName>), ControlError> {
    let (id, rejects) = match need.on {
        Subject::Vault => return Ok((need.any_of, None)),
        Subject::Secret(name) => return Ok((need.any_of, Some(name.clone()))),
        Subject::Revocation(id) => (id, false),
        Subject::Rejection(id) => (id, true),
    };
    let failed = |error: &VaultError| ControlError::vault(&service.secrets, error);
    let revocation = service.secrets.revocation(id).map_err(|e| failed(&e))?;
    let name = SecretName::parse(&revocation.name).map_err(|e| failed(&e.into()))?;
    let own = revocation.requested.uid == caller.uid;
    let verbs = if rejects && own {
        &[Verb::Revoke]
    } else {
        need.any_of
    };
    Ok((verbs, Some(name)))
}

/// Whether `caller` may, with one of `verbs`, and by which rule.
pub(super) fn decide(
    service: &ControlService,
    caller: &Caller,
    verbs: &[Verb],
    name: Option<&SecretName>,
) -> Result<Actor, Missing> {
    let policy = service.authorization.policy();
    let subject = subject(caller);
    // Nothing is demanded of nobody: without a verb nothing is allowed.
    let mut missing = Missing {
        verb: Verb::Read,
        name: name.cloned(),
        client: None,
        rule: "default".into(),
    };
    for &verb in verbs {
        let decision = match name {
            Some(name) => policy.decide(&subject, verb, name.as_str()),
            None => policy.decide_vault(&subject, verb),
        };
        let (client, rule) = rule_of(&decision);
        if decision.allowed() {
            service.metrics.decided(true);
            return Ok(Actor::new(caller, client.unwrap_or_default(), rule));
        }
        missing.verb = verb;
        missing.client = client.map(str::to_owned);
        missing.rule = rule.to_owned();
    }
    Err(missing)
}

/// Records a refusal; gives the answer.
pub(super) fn denied(service: &ControlService, caller: &Caller, missing: &Missing) -> ControlError {
    let Missing { verb, name, .. } = missing;
    service.audit.deny(Event {
        name: name.as_ref().map(SecretName::as_str),
        client: missing.client.as_deref(),
        rule: Some(&missing.rule),
        reason: Some(&refusal(verb.as_str(), caller)),
        ..service.audit.event(Action::Deny, Some(caller))
    });
    let message = match name {
        Some(name) => format!("the policy does not let uid {} {verb} `{name}`", caller.uid),
        None => format!(
            "the policy does not give uid {} the verb {verb} of the vault",
            caller.uid
        ),
    };
    ControlError::new(FsError::Denied, "denied", message)
}

/// Whether `caller` has to do with `revocation`.
pub(super) fn may_see(service: &ControlService, caller: &Caller, revocation: &Revocation) -> bool {
    let (policy, subject) = (service.authorization.policy(), subject(caller));
    let of_secret = |verb| policy.decide(&subject, verb, &revocation.name).allowed();
    [Verb::Revoke, Verb::Emergency, Verb::Approve]
        .into_iter()
        .any(of_secret)
        || policy.decide_vault(&subject, Verb::Audit).allowed()
}

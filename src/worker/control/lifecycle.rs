//! Carrying out requests about what becomes of secrets.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jarvis_audit::{Action, Durability};
use jarvis_fs::{Caller, FsError};
use jarvis_policy::Verb;
use jarvis_vault::{
    ActedBy, Credential, NewVersion, Node, Revocation, RevocationRequest, RevocationStatus, Secret,
    SecretBytes, SecretName, SecretSettings, Txn, VaultError, Version, VersionState,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Failure, denied, unrecordable};
use crate::common::calendar::{Windows, due_ms};
use crate::common::clock::{DAY_MS, now_ms, rfc3339};
use crate::worker::commit::change::{Actor, Change, Kind};
use crate::worker::gate::{Gate, rule_of, subject};
use crate::worker::request::{Configure, Life, MAX_CONSUMERS};

/// The name that decides who may act on revocation `id`, and with which verb.
pub(super) fn revocation_subject(
    gate: &Gate,
    caller: &Caller,
    life: &Life,
    id: u64,
) -> Result<(Verb, SecretName), Failure> {
    let failed = |error: &VaultError| Failure::vault(gate, error);
    let revocation = gate.vault.revocation(id).map_err(|e| failed(&e))?;
    let name = SecretName::parse(&revocation.name).map_err(|e| failed(&e.into()))?;
    let own = revocation.requested.uid == caller.uid;
    let verb = match life {
        // Who asked may think better of it.
        Life::Decide { approve: false, .. } if own => Verb::Revoke,
        _ => life.needs().0,
    };
    Ok((verb, name))
}

pub(super) fn apply(
    gate: &Gate,
    txn: &mut Txn<'_>,
    life: &Life,
    put: &NewVersion<'_>,
) -> Result<Vec<Change>, VaultError> {
    let changed = |action, name: &SecretName, outcome, reason: String| {
        let change = Change::new(action, name, outcome);
        Ok(vec![Change {
            reason: Some(reason),
            ..change
        }])
    };
    match life {
        Life::Rollback {
            name,
            version,
            reason,
        } => {
            let why = format!("rollback to version {version}");
            let why = reason
                .as_ref()
                .map_or(why.clone(), |r| format!("{why}: {r}"));
            let put = NewVersion {
                why: Some(&why),
                ..*put
            };
            let outcome = txn.rollback(name, *version, &put)?;
            changed(Kind::Update, name, outcome, why)
        }
        Life::Deprecate { name, version } => {
            let outcome = txn.deprecate(name, *version)?;
            changed(Kind::Configure, name, outcome, "deprecated".into())
        }
        Life::Prune { name, keep } => {
            let (outcome, gone) = txn.prune(name, *keep, put.pinned)?;
            let reason = format!("values of {} versions destroyed", gone.len());
            changed(Kind::Configure, name, outcome, reason)
        }
        Life::Configure { name, settings } => {
            let outcome = txn.configure(name, |stored| settings.apply(stored))?;
            changed(Kind::Configure, name, outcome, "settings".into())
        }
        Life::ConsumerAdd { name, consumer } => {
            let mut full = false;
            let outcome = txn.configure(name, |settings| {
                settings.consumers.retain(|c| c.name != consumer.name);
                full = settings.consumers.len() >= MAX_CONSUMERS;
                if !full {
                    settings.consumers.push(consumer.clone());
                }
            })?;
            if full {
                return Err(VaultError::TooManyConsumers(MAX_CONSUMERS));
            }
            let reason = format!("consumer {} declared", consumer.name);
            changed(Kind::Configure, name, outcome, reason)
        }
        Life::ConsumerRemove { name, consumer } => {
            let mut found = false;
            let outcome = txn.configure(name, |settings| {
                let before = settings.consumers.len();
                settings.consumers.retain(|c| &*c.name != consumer);
                found = settings.consumers.len() < before;
            })?;
            if !found {
                return Err(VaultError::NotFound(format!("{name} with that consumer")));
            }
            let reason = format!("consumer {consumer} removed");
            changed(Kind::Configure, name, outcome, reason)
        }
        Life::Revoke { .. } | Life::Decide { .. } | Life::Execute { .. } => {
            revoke(gate, txn, life, put)
        }
    }
}

fn revoke(
    gate: &Gate,
    txn: &mut Txn<'_>,
    life: &Life,
    put: &NewVersion<'_>,
) -> Result<Vec<Change>, VaultError> {
    let by = ActedBy {
        uid: put.by_uid,
        at_ms: put.now_ms,
    };
    match life {
        Life::Revoke {
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
                life_ms: gate.settings.revocation_ms,
            };
            let revocation = txn.request_revocation(name, &request)?;
            let mut changes = vec![Change {
                wanted: !immediate,
                ..told(&revocation, Kind::Revoke, "requested")
            }];
            if *immediate {
                changes.extend(execute(txn, revocation.id, by, (true, *rotate), put)?);
            }
            Ok(changes)
        }
        Life::Decide { id, approve } => {
            let revocation = txn.decide_revocation(*id, *approve, by)?;
            let (kind, word) = match approve {
                true => (Kind::Approve, "approved"),
                false => (Kind::Revoke, "rejected"),
            };
            Ok(vec![told(&revocation, kind, word)])
        }
        Life::Execute { id, rotate } => execute(txn, *id, by, (false, *rotate), put),
        _ => Ok(Vec::new()),
    }
}

fn execute(
    txn: &mut Txn<'_>,
    id: u64,
    by: ActedBy,
    (immediate, rotate): (bool, bool),
    put: &NewVersion<'_>,
) -> Result<Vec<Change>, VaultError> {
    let (revocation, _) = txn.execute_revocation(id, by, immediate)?;
    let how = match immediate {
        true => "executed without approval",
        false => "executed",
    };
    let mut changes = vec![Change {
        fences: true,
        ..told(&revocation, Kind::Revoke, how)
    }];
    if rotate {
        let name = SecretName::parse(&revocation.name)?;
        let why = format!("after revocation {id}");
        let put = NewVersion {
            why: Some(&why),
            ..*put
        };
        match super::rotate(txn, &name, &put) {
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

fn told(revocation: &Revocation, action: Kind, what: &str) -> Change {
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

impl Configure {
    fn apply(&self, stored: &mut SecretSettings) {
        let days = |days: Option<u32>| days.map(|days| i64::from(days) * DAY_MS);
        if let Some(keep) = self.keep_versions {
            stored.keep = keep;
        }
        if let Some(expiry) = self.expiry_days {
            stored.life_ms = days(expiry);
        }
        if let Some(grace) = self.grace_days {
            stored.grace_ms = days(grace);
        }
        if let Some(rotate) = self.rotate_days {
            stored.rotate_every_ms = days(rotate);
        }
        if let Some(windows) = &self.windows {
            stored.windows = windows.as_deref().map(Into::into);
        }
        if let Some(hook) = &self.hook {
            stored.hook = hook.as_deref().map(Into::into);
        }
        if let Some(refuse) = self.refuse_expired {
            stored.refuse_expired = refuse;
        }
        if let Some(end) = self.end_grace_when_adopted {
            stored.end_grace_when_adopted = end;
        }
    }
}

/// Whether `caller` may, with one of `verbs`, and by which rule; a refusal is
/// recorded.
fn demand(
    gate: &Gate,
    caller: &Caller,
    verbs: &[Verb],
    name: &SecretName,
) -> Result<Actor, Failure> {
    let policy = gate.policy();
    let mut rule = None;
    for &verb in verbs {
        let decision = policy.decide(&subject(caller), verb, name.as_str());
        let (client, pattern) = rule_of(&decision);
        if decision.allowed() {
            return Ok(Actor::new(caller, client.unwrap_or_default(), pattern));
        }
        rule = Some((verb, client.map(str::to_owned), pattern.to_owned()));
    }
    let (verb, client, pattern) = rule.unwrap_or((Verb::Read, None, "default".into()));
    let rule = (client.as_deref(), pattern.as_str());
    Err(denied(gate, caller, verb, Some(name), rule))
}

fn found(gate: &Gate, name: &SecretName) -> Result<std::sync::Arc<Node>, Failure> {
    let node = gate
        .vault
        .find(name)
        .map_err(|e| Failure::vault(gate, &e))?;
    let node = node.filter(|node| node.live_secret().is_some());
    node.ok_or_else(|| Failure::vault(gate, &VaultError::NotFound(name.to_string())))
}

/// What is known of a secret: never a value.
pub(super) fn versions(gate: &Gate, caller: &Caller, name: &SecretName) -> Result<Value, Failure> {
    demand(gate, caller, &[Verb::List, Verb::Read], name)?;
    let node = found(gate, name)?;
    let Some(secret) = node.live_secret() else {
        return Ok(Value::Null);
    };
    let versions = secret.versions.iter().map(|v| version(gate, secret, v));
    Ok(json!({
        "name": name.as_str(),
        "type": secret.kind.to_string(),
        "settings": settings(gate, secret),
        "consumers": secret.settings.consumers,
        "pending": secret.pending.as_ref().map(|pending| json!({
            "version": pending.number,
            "kid": pending.kid,
            "since": rfc3339(pending.since_ms),
            "by_uid": pending.by_uid,
        })),
        "versions": versions.collect::<Value>(),
    }))
}

fn version(gate: &Gate, secret: &Secret, version: &Version) -> Value {
    json!({
        "version": version.number,
        "kid": version.kid,
        "state": gate.state_of(secret, version),
        "expired": version.expires_ms <= now_ms(),
        "created_at": rfc3339(version.created_ms),
        "expires_at": rfc3339(version.expires_ms),
        "superseded_at": version.superseded_ms.map(rfc3339),
        "by_uid": version.by_uid,
        "reason": version.why,
    })
}

/// A secret's settings, those of the configuration where it has none.
fn settings(gate: &Gate, secret: &Secret) -> Value {
    let own = &secret.settings;
    let days = |ms: i64| ms / DAY_MS;
    json!({
        "keep_versions": own.keep.map_or(gate.settings.keep, |keep| keep as usize),
        "expiry_days": days(own.life_ms.unwrap_or(gate.settings.life_ms)),
        "grace_days": days(own.grace_ms.unwrap_or(gate.settings.grace_ms)),
        "rotate_days": own.rotate_every_ms.or(gate.settings.rotate_every_ms).map(days),
        "windows": own.windows.as_deref().or(gate.settings.windows.as_deref()),
        "hook": own.hook,
        "refuse_expired": own.refuse_expired,
        "end_grace_when_adopted": own.end_grace_when_adopted,
    })
}

/// How two versions differ: whether, in the class of their length, and where they
/// are JSON objects, in which keys.
pub(super) fn diff(
    gate: &Gate,
    caller: &Caller,
    name: &SecretName,
    (from, to): (u32, u32),
) -> Result<Value, Failure> {
    demand(gate, caller, &[Verb::Read], name)?;
    let node = found(gate, name)?;
    let load = |number| value(gate, &node, number).map_err(|e| Failure::vault(gate, &e));
    let (old, new) = (load(from)?, load(to)?);
    let keys = json_keys(old.expose(), new.expose());
    Ok(json!({
        "name": name.as_str(),
        "from": from,
        "to": to,
        "equal": old.expose() == new.expose(),
        "length_class": [length_class(old.len()), length_class(new.len())],
        "json_keys": keys,
    }))
}

/// Powers of two: enough to see a truncated value, too little to guess it by.
fn length_class(len: usize) -> String {
    match len {
        0 => "empty".into(),
        _ => format!("up to {} bytes", len.next_power_of_two()),
    }
}

/// Borrowed from the values: no copy of them is left behind.
type Fields<'v> = BTreeMap<Cow<'v, str>, &'v RawValue>;

fn json_keys(old: &[u8], new: &[u8]) -> Option<Value> {
    let old: Fields<'_> = serde_json::from_slice(old).ok()?;
    let new: Fields<'_> = serde_json::from_slice(new).ok()?;
    let only = |a: &Fields<'_>, b: &Fields<'_>| -> Value {
        let missing = a.keys().filter(|key| !b.contains_key(*key));
        missing.map(|key| json!(key)).collect()
    };
    let differs =
        |key: &str, field: &RawValue| new.get(key).is_some_and(|other| other.get() != field.get());
    let changed = old.iter().filter(|(key, field)| differs(key, field));
    Some(json!({
        "added": only(&new, &old),
        "removed": only(&old, &new),
        "changed": changed.map(|(key, _)| json!(key)).collect::<Value>(),
    }))
}

/// All that is kept of a secret, values included, for who has `credential`.
/// Nobody gets more than with a rollback to each version and a read of it; each is
/// recorded before the answer.
pub(super) fn export(
    gate: &Gate,
    caller: &Caller,
    name: &SecretName,
    credential: &Credential,
) -> Result<Value, Failure> {
    demand(gate, caller, &[Verb::Rotate], name)?;
    let actor = demand(gate, caller, &[Verb::Read], name)?;
    let node = found(gate, name)?;
    let failed = |error| Failure::vault(gate, &error);
    let secret = node
        .live_secret()
        .ok_or_else(|| failed(VaultError::NotFound(name.to_string())))?;
    let (sealed, versions) = gate
        .vault
        .export(&node, secret, credential, now_ms())
        .map_err(failed)?;
    gate.settle().map_err(|_| unrecordable())?;
    for version in &versions {
        let event = jarvis_audit::Event {
            name: Some(name.as_str()),
            id: Some(node.id),
            version: Some(version.number),
            kid: Some(&version.kid),
            client: Some(&actor.client),
            rule: Some(&actor.rule),
            ..gate.event(Action::Export, Some(caller))
        };
        gate.append(&event, Durability::Sync)
            .map_err(|_| unrecordable())?;
    }
    let numbers = versions.iter().map(|version| version.number);
    Ok(json!({
        "name": name.as_str(),
        "versions": numbers.collect::<Vec<_>>(),
        "history_b64": STANDARD.encode(sealed),
    }))
}

fn value(gate: &Gate, node: &Node, number: u32) -> Result<SecretBytes, VaultError> {
    let secret = node.live_secret();
    let name = || node.path.to_string();
    let version = secret.and_then(|secret| secret.version(number));
    let version = version.ok_or_else(|| VaultError::NoSuchVersion {
        name: name(),
        version: number,
    })?;
    let state = version.state(now_ms(), 0);
    let value = match state {
        VersionState::Revoked => None,
        _ => gate.vault.value(node, number)?,
    };
    value.ok_or_else(|| VaultError::Unusable {
        name: name(),
        version: number,
        state: state.as_str(),
    })
}

/// What is to be rotated when, of what the caller may rotate or list.
pub(super) fn schedule(gate: &Gate, caller: &Caller) -> Result<Value, Failure> {
    let (policy, subject, now) = (gate.policy(), subject(caller), now_ms());
    let mut rows = Vec::new();
    let walk = gate.vault.walk(jarvis_vault::ROOT, &mut |node, secret| {
        let may = |verb| policy.decide(&subject, verb, &node.path).allowed();
        let due = due_ms(node.id, secret, gate.settings.rotate_every_ms);
        if let Some(due) = due.filter(|_| may(Verb::Rotate) || may(Verb::List)) {
            rows.push(json!({
                "name": node.path,
                "due_at": rfc3339(due),
                "due": due <= now,
                "in_window": in_window(gate, secret, now),
                "hook": secret.settings.hook,
                "pending": secret.pending.is_some(),
            }));
        }
    });
    walk.map_err(|error| Failure::vault(gate, &error))?;
    Ok(Value::Array(rows))
}

/// Whether `secret` may be rotated by schedule now.
pub(crate) fn in_window(gate: &Gate, secret: &Secret, now_ms: i64) -> bool {
    let windows = secret.settings.windows.as_deref();
    match windows.or(gate.settings.windows.as_deref()) {
        None => true,
        // They were checked when they were stored; what is not understood is shut.
        Some(text) => Windows::parse(text).is_ok_and(|windows| windows.contains(now_ms)),
    }
}

/// Every revocation the caller has to do with.
pub(super) fn revocations(gate: &Gate, caller: &Caller) -> Result<Value, Failure> {
    let all = gate.vault.revocations();
    let all = all.map_err(|error| Failure::vault(gate, &error))?;
    let seen = all.iter().filter(|r| may_see(gate, caller, r));
    Ok(seen.map(shown).collect())
}

pub(super) fn revocation(gate: &Gate, caller: &Caller, id: u64) -> Result<Value, Failure> {
    let revocation = gate.vault.revocation(id);
    let revocation = revocation.map_err(|error| Failure::vault(gate, &error))?;
    match may_see(gate, caller, &revocation) {
        true => Ok(shown(&revocation)),
        false => {
            gate.deny(jarvis_audit::Event {
                name: Some(&revocation.name),
                reason: Some("revocation"),
                ..gate.event(Action::Deny, Some(caller))
            });
            let message = "the policy does not let you see this revocation";
            Err(Failure::new(FsError::Denied, "denied", message))
        }
    }
}

fn may_see(gate: &Gate, caller: &Caller, revocation: &Revocation) -> bool {
    let (policy, subject) = (gate.policy(), subject(caller));
    [Verb::Revoke, Verb::Approve, Verb::Audit]
        .into_iter()
        .any(|verb| policy.decide(&subject, verb, &revocation.name).allowed())
}

fn shown(revocation: &Revocation) -> Value {
    let act =
        |act: Option<ActedBy>| act.map(|act| json!({"uid": act.uid, "at": rfc3339(act.at_ms)}));
    let expired = revocation.is_expired(now_ms());
    json!({
        "id": revocation.id,
        "name": revocation.name,
        "status": match expired {
            true => json!("expired"),
            false => json!(revocation.status),
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

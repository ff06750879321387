//! Questions about a secret's versions: never a value.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jarvis_fs::Caller;
use jarvis_policy::Verb;
use jarvis_vault::{Node, Secret, SecretBytes, SecretName, VaultError, Version, VersionState};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::answer::ControlError;
use super::page::Page;
use super::service::ControlService;
use crate::common::clock::{DAY_MS, now_ms, rfc3339};
use crate::worker::authorization::subject;
use crate::worker::due::{due_ms, in_window};

/// The versions of a secret and its settings, for who may list or read it: never a value.
pub(super) fn versions(service: &ControlService, name: &SecretName) -> Result<Value, ControlError> {
    let node = service.secrets.find(name);
    let node = node.map_err(|error| ControlError::vault(&service.secrets, &error))?;
    let Some(secret) = node.live_secret() else {
        return Ok(Value::Null);
    };
    let versions = secret.versions.iter().map(|v| version(service, secret, v));
    Ok(json!({
        "name": name.as_str(),
        "type": secret.kind.to_string(),
        "settings": settings(service, secret),
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

fn version(service: &ControlService, secret: &Secret, version: &Version) -> Value {
    json!({
        "version": version.number,
        "kid": version.kid,
        "state": service.secrets.state_of(secret, version),
        "expired": version.expires_ms <= now_ms(),
        "created_at": rfc3339(version.created_ms),
        "expires_at": rfc3339(version.expires_ms),
        "superseded_at": version.superseded_ms.map(rfc3339),
        "by_uid": version.by_uid,
        "reason": version.why,
    })
}

/// A secret's settings, those of the configuration where it has none.
fn settings(service: &ControlService, secret: &Secret) -> Value {
    let own = &secret.settings;
    let days = |ms: i64| ms / DAY_MS;
    json!({
        "keep_versions": own.keep.map_or(service.settings.versions.keep, |keep| keep as usize),
        "expiry_days": days(own.life_ms.unwrap_or(service.settings.versions.life_ms)),
        "grace_days": days(own.grace_ms.unwrap_or(service.settings.versions.grace_ms)),
        "rotate_days": own.rotate_every_ms.or(service.settings.rotation.every_ms).map(days),
        "windows": own.windows.as_deref().or(service.settings.rotation.windows.as_deref()),
        "hook": own.hook,
        "refuse_expired": own.refuse_expired,
        "end_grace_when_adopted": own.end_grace_when_adopted,
    })
}

/// How two versions differ: whether, in the class of their length, and where they
/// are JSON objects, in which keys.
pub(super) fn diff(
    service: &ControlService,
    name: &SecretName,
    (from, to): (u32, u32),
) -> Result<Value, ControlError> {
    let node = service.secrets.find(name);
    let node = node.map_err(|error| ControlError::vault(&service.secrets, &error))?;
    let (old, new) = (value(service, &node, from)?, value(service, &node, to)?);
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

/// The value of a version that is neither revoked nor destroyed, for a comparison.
fn value(service: &ControlService, node: &Node, number: u32) -> Result<SecretBytes, ControlError> {
    let failed = |error: VaultError| ControlError::vault(&service.secrets, &error);
    let name = || node.path.to_string();
    let secret = node.live_secret();
    let version = secret.and_then(|secret| secret.version(number));
    let version = version.ok_or_else(|| {
        failed(VaultError::NoSuchVersion {
            name: name(),
            version: number,
        })
    })?;
    let state = version.state(now_ms(), 0);
    let value = match state {
        VersionState::Revoked => None,
        _ => service.secrets.value(node, number).map_err(failed)?,
    };
    let value = value.ok_or_else(|| {
        failed(VaultError::Unusable {
            name: name(),
            version: number,
            state: state.as_str(),
        })
    })?;
    let token = service.audit.comparison(node.id);
    let other = |errno| ControlError::new(errno, "io", "the vault failed; see the daemon's log");
    value.open(&token).map_err(other)
}

/// Due times of secrets with ids above `after` that the caller may rotate or list: a page.
pub(super) fn schedule(
    service: &ControlService,
    caller: &Caller,
    after: u64,
) -> Result<Value, ControlError> {
    let (policy, subject, now) = (service.authorization.policy(), subject(caller), now_ms());
    let row = |node: &Node| {
        let secret = node.live_secret()?;
        let due = due_ms(node.id, secret, service.settings.rotation.every_ms)?;
        let may = |verb| policy.decide(&subject, verb, &node.path).allowed();
        (may(Verb::Rotate) || may(Verb::List)).then(|| {
            json!({
                "name": node.path,
                "due_at": rfc3339(due),
                "due": due <= now,
                "in_window": in_window(&service.settings, secret, now),
                "hook": secret.settings.hook,
                "pending": secret.pending.is_some(),
            })
        })
    };
    let mut page = Page::default();
    let visited = service
        .secrets
        .nodes(after, |node| page.add(node.id, row(node)));
    visited.map_err(|error| ControlError::vault(&service.secrets, &error))?;
    Ok(page.answer())
}

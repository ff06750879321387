//! Changes of what becomes of secrets: versions, settings, consumers.

use jarvis_vault::{NewVersion, SecretName, SecretSettings, Txn, VaultError};

use super::revocation;
use super::service::ControlService;
use crate::common::clock::DAY_MS;
use crate::worker::commit::change::{Change, ChangeKind};
use crate::worker::request::{LifecycleOp, MAX_CONSUMERS, SettingsChange};

/// Carries out `op` in `txn`.
///
/// # Errors
/// The vault's.
pub(super) fn apply(
    service: &ControlService,
    txn: &mut Txn<'_>,
    op: &LifecycleOp,
    new: &NewVersion<'_>,
) -> Result<Vec<Change>, VaultError> {
    let changed = |action, name: &SecretName, outcome, reason: String| {
        let change = Change::new(action, name, outcome);
        Ok(vec![Change {
            reason: Some(reason),
            ..change
        }])
    };
    match op {
        LifecycleOp::Rollback {
            name,
            version,
            reason,
        } => {
            let why = format!("rollback to version {version}");
            let why = reason
                .as_ref()
                .map_or(why.clone(), |r| format!("{why}: {r}"));
            let new = NewVersion {
                why: Some(&why),
                ..*new
            };
            let outcome = txn.rollback(name, *version, &new)?;
            changed(ChangeKind::Update, name, outcome, why)
        }
        LifecycleOp::Deprecate { name, version } => {
            let outcome = txn.deprecate(name, *version)?;
            changed(ChangeKind::Configure, name, outcome, "deprecated".into())
        }
        LifecycleOp::Prune { name, keep } => {
            let (outcome, gone) = txn.prune(name, *keep, new.pinned)?;
            let reason = format!("values of {} versions destroyed", gone.len());
            changed(ChangeKind::Configure, name, outcome, reason)
        }
        LifecycleOp::Configure { name, settings } => {
            let outcome = txn.configure(name, |stored| apply_settings(settings, stored))?;
            changed(ChangeKind::Configure, name, outcome, "settings".into())
        }
        LifecycleOp::ConsumerAdd { name, consumer } => {
            let mut full = false;
            let outcome = txn.configure(name, |settings| {
                settings.consumers.retain(|c| c.name != consumer.name);
                full = settings.consumers.len() >= MAX_CONSUMERS;
                if !full {
                    settings.consumers.push(consumer.clone());
                }
            })?;
            if full {
                return Err(VaultError::TooManyConsumers {
                    name: name.to_string(),
                    max: MAX_CONSUMERS,
                });
            }
            let reason = format!("consumer {} declared", consumer.name);
            changed(ChangeKind::Configure, name, outcome, reason)
        }
        LifecycleOp::ConsumerRemove { name, consumer } => {
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
            changed(ChangeKind::Configure, name, outcome, reason)
        }
        LifecycleOp::Revocation(op) => revocation::apply(service, txn, op, new),
    }
}

/// Applies `change` to what is stored of a secret.
fn apply_settings(change: &SettingsChange, stored: &mut SecretSettings) {
    let days = |days: &u32| i64::from(*days) * DAY_MS;
    change.keep_versions.apply(&mut stored.keep, |keep| *keep);
    change.expiry_days.apply(&mut stored.life_ms, days);
    change.grace_days.apply(&mut stored.grace_ms, days);
    change.rotate_days.apply(&mut stored.rotate_every_ms, days);
    let text = |text: &String| text.as_str().into();
    change.windows.apply(&mut stored.windows, text);
    change.hook.apply(&mut stored.hook, text);
    if let Some(refuse) = change.refuse_expired {
        stored.refuse_expired = refuse;
    }
    if let Some(end) = change.end_grace_when_adopted {
        stored.end_grace_when_adopted = end;
    }
}

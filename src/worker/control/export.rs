//! Everything kept of a secret, values included, for who has a credential.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jarvis_fs::{Caller, FsError};
use jarvis_vault::{Credential, SecretName, VaultError};
use serde_json::{Value, json};

use super::answer::ControlError;
use super::service::ControlService;
use crate::worker::audit::RecordSubject;
use crate::worker::commit::change::Actor;

/// Seals all that is kept of a secret for `credential`; `actor` is who may read it. Nobody gets more than with a
/// rollback to each version and a read of it; each is recorded before the answer.
///
/// # Errors
/// Refusals of the vault, and a log that takes no record.
pub(super) fn export(
    service: &ControlService,
    (caller, actor): (&Caller, Option<Actor>),
    name: &SecretName,
    credential: &Credential,
) -> Result<Value, ControlError> {
    let failed = |error: VaultError| ControlError::vault(&service.secrets, &error);
    let node = service.secrets.find(name).map_err(failed)?;
    let (sealed, versions) = service.secrets.export(&node, credential).map_err(failed)?;
    let unrecordable = |_: FsError| ControlError::unrecordable(service);
    service.committer.flush_outbox().map_err(unrecordable)?;
    let subjects: Vec<_> = versions
        .iter()
        .map(|version| RecordSubject {
            name: name.as_str(),
            id: node.id,
            version: version.number,
            kid: &version.kid,
        })
        .collect();
    let rule = actor.as_ref();
    let rule = rule.map_or(("", "default"), |a| (&*a.client, &*a.rule));
    let recorded = service.audit.export(caller, node.id, &subjects, rule);
    let recorded = recorded.map_err(unrecordable)?;
    let sealed = sealed.open(&recorded).map_err(unrecordable)?;
    let numbers = versions.iter().map(|version| version.number);
    Ok(json!({
        "name": name.as_str(),
        "versions": numbers.collect::<Vec<_>>(),
        "history_b64": STANDARD.encode(sealed),
    }))
}

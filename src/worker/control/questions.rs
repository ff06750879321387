//! Questions: they change no secret.

use jarvis_fs::{Caller, FsError};
use jarvis_vault::SlotInfo;
use serde_json::{Value, json};

use super::answer::ControlError;
use super::authorise::demand;
use super::service::ControlService;
use super::{export, revocation, versions};
use crate::worker::request::Question;

/// Answers `question`.
///
/// # Errors
/// Refusals of the policy, and what is wrong with the question.
pub(super) fn ask(
    service: &ControlService,
    caller: &Caller,
    question: &Question,
) -> Result<Value, ControlError> {
    // Who may open the control file may ask how the daemon is.
    let actor = demand(service, caller, &question.needs())?;
    match question {
        Question::Status => Ok(status(service)),
        Question::Versions(name) => versions::versions(service, name),
        Question::Diff { name, from, to } => versions::diff(service, name, (*from, *to)),
        Question::HistoryExport { name, credential } => {
            export::export(service, (caller, actor), name, credential)
        }
        Question::Schedule { after } => versions::schedule(service, caller, *after),
        Question::Revocations { after } => revocation::revocations(service, caller, *after),
        Question::Revocation(id) => revocation::revocation(service, caller, *id),
        Question::Reload { force } => {
            let clients = service.authorization.reload(Some(caller), *force)?;
            Ok(json!({"clients": clients}))
        }
        Question::AuditRotate => match service.audit.rotate_segment() {
            Ok(segment) => Ok(json!({"segment": segment})),
            Err(error) => {
                tracing::error!(%error, "the audit log goes on in its segment");
                let message = "the segment could not be ended; see the daemon's log";
                Err(ControlError::new(FsError::Io, "io", message))
            }
        },
        Question::Checkpoint => match service.audit.checkpoint() {
            Ok(note) => Ok(json!({"note": note.to_string()})),
            Err(_) => Err(ControlError::unrecordable(service)),
        },
        Question::KeyList => {
            let slots = service
                .secrets
                .slots()
                .map_err(|e| ControlError::vault(&service.secrets, &e))?;
            let slot = |s: &SlotInfo| json!({"slot": s.number, "kind": s.kind, "detail": s.detail});
            Ok(slots.iter().map(slot).collect())
        }
        Question::Explain {
            name,
            verb,
            uid,
            gid,
            groups,
        } => {
            let somebody = jarvis_policy::Caller {
                uid: *uid,
                gid: *gid,
                groups,
                containerized: false,
                namespace: jarvis_policy::Namespace::Host,
            };
            let policy = service.authorization.policy();
            let decision = policy.decide(&somebody, *verb, name.as_str());
            Ok(json!({"allowed": decision.allowed(), "rule": decision.rule().to_string()}))
        }
    }
}

fn status(service: &ControlService) -> Value {
    let counts = service.status.counts();
    let gauges = service.status.gauges();
    let trouble = service.secrets.vault_trouble();
    let troubles = service.status.troubles();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "places": service.places.json(),
        "uptime_secs": service.status.uptime_secs(),
        "ready": troubles.is_empty(),
        "troubles": troubles,
        "secrets_count": counts.secrets,
        "vault_seq": counts.seq,
        "open_handles": gauges.handles,
        "policy_clients": service.authorization.policy().clients(),
        "audit_records": service.metrics.service.audit_records.get(),
        "audit_log": service.status.fault().unwrap_or_else(|| "ok".into()),
        "audit_errors": service.metrics.service.audit_errors.get(),
        "runner": service.status.runner_answers(),
        "worker_generation": gauges.facts.generation,
        "vault_readable": trouble.reads.is_none(),
        "vault_writable": trouble.changes.is_none(),
        "vault_problem": trouble.reads.or(trouble.changes),
        "opens_limited": service.metrics.access.limited.with_label_values(&["caller"]).get(),
    })
}

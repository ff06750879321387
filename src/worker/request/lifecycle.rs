//! Requests about what becomes of secrets: versions, settings, revocations.
//!
//! None of them carries a value, so serde may keep copies while it looks at `op`.

use jarvis_vault::{Consumer, Criticality, RevocationReason, Severity};
use serde::Deserialize;

use super::checks::{Checked, checked_name, invalid, json_error, text, word, words};
use super::operation::{LifecycleOp, Operation, Parsed, Question, RevocationOp, SettingsChange};
use crate::common::calendar::Windows;
use crate::common::clock::MAX_DAYS;
use crate::ipc::runner::HookName;

/// Most consumers declared of one secret.
pub(crate) const MAX_CONSUMERS: usize = 256;
/// Most versions that a setting may keep.
const MAX_KEPT: u32 = 1000;

/// A request as it stands in JSON.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum LifecycleFields {
    Rollback {
        name: String,
        version: u32,
        reason: Option<String>,
    },
    Deprecate {
        name: String,
        version: u32,
    },
    Prune {
        name: String,
        keep: usize,
    },
    Configure {
        name: String,
        settings: SettingsChange,
    },
    ConsumerAdd {
        name: String,
        consumer: String,
        criticality: Option<Criticality>,
        owner: Option<String>,
        restart: Option<String>,
    },
    ConsumerRemove {
        name: String,
        consumer: String,
    },
    Revoke {
        name: String,
        reason: RevocationReason,
        severity: Option<Severity>,
        note: Option<String>,
        #[serde(default)]
        immediate: bool,
        #[serde(default)]
        rotate: bool,
    },
    RevokeApprove {
        id: u64,
    },
    RevokeReject {
        id: u64,
    },
    RevokeExecute {
        id: u64,
        #[serde(default)]
        rotate: bool,
    },
    Versions {
        name: String,
    },
    Diff {
        name: String,
        from: u32,
        to: u32,
    },
    Schedule {
        #[serde(default)]
        after: u64,
    },
    Revocations {
        #[serde(default)]
        after: u64,
    },
    Revocation {
        id: u64,
    },
}

/// The kind of a request alone.
#[derive(Deserialize)]
struct Peek {
    op: String,
}

/// The operations that are parsed here.
const OPS: [&str; 15] = [
    "rollback",
    "deprecate",
    "prune",
    "configure",
    "consumer_add",
    "consumer_remove",
    "revoke",
    "revoke_approve",
    "revoke_reject",
    "revoke_execute",
    "versions",
    "diff",
    "schedule",
    "revocations",
    "revocation",
];

/// The request in `text`, if it is of this kind. What is no JSON is for somebody
/// else to refuse.
pub(super) fn parse(text: &str) -> Option<Checked<Parsed>> {
    let peek: Peek = serde_json::from_str(text).ok()?;
    OPS.contains(&peek.op.as_str()).then(|| {
        let wire: LifecycleFields = serde_json::from_str(text).map_err(|e| json_error(&e))?;
        wire.check()
    })
}

impl LifecycleFields {
    fn check(self) -> Checked<Parsed> {
        let revocation = LifecycleOp::Revocation;
        let op = match self {
            Self::Rollback {
                name,
                version,
                reason,
            } => LifecycleOp::Rollback {
                name: checked_name(&name)?,
                version,
                reason: words("reason", reason)?,
            },
            Self::Deprecate { name, version } => LifecycleOp::Deprecate {
                name: checked_name(&name)?,
                version,
            },
            Self::Prune { name, keep } if (1..=1000).contains(&keep) => LifecycleOp::Prune {
                name: checked_name(&name)?,
                keep,
            },
            Self::Prune { .. } => return invalid("`keep` must be 1 to 1000"),
            Self::Configure { name, settings } => LifecycleOp::Configure {
                name: checked_name(&name)?,
                settings: Box::new(checked_settings(settings)?),
            },
            Self::ConsumerAdd {
                name,
                consumer,
                criticality,
                owner,
                restart,
            } => LifecycleOp::ConsumerAdd {
                name: checked_name(&name)?,
                consumer: Consumer {
                    name: word("consumer", consumer)?.into(),
                    criticality: criticality.unwrap_or(Criticality::Medium),
                    owner: words("owner", owner)?.map(Into::into),
                    restart: words("restart", restart)?.map(Into::into),
                },
            },
            Self::ConsumerRemove { name, consumer } => LifecycleOp::ConsumerRemove {
                name: checked_name(&name)?,
                consumer,
            },
            Self::Revoke {
                name,
                reason,
                severity,
                note,
                immediate,
                rotate,
            } => revocation(RevocationOp::Revoke {
                name: checked_name(&name)?,
                reason,
                severity: severity.unwrap_or(Severity::High),
                note: words("note", note)?,
                immediate,
                rotate,
            }),
            Self::RevokeApprove { id } => revocation(RevocationOp::Decide { id, approve: true }),
            Self::RevokeReject { id } => revocation(RevocationOp::Decide { id, approve: false }),
            Self::RevokeExecute { id, rotate } => revocation(RevocationOp::Execute { id, rotate }),
            Self::Versions { name } => {
                return Ok(Parsed::Ask(Question::Versions(checked_name(&name)?)));
            }
            Self::Diff { name, from, to } => {
                let name = checked_name(&name)?;
                return Ok(Parsed::Ask(Question::Diff { name, from, to }));
            }
            Self::Schedule { after } => return Ok(Parsed::Ask(Question::Schedule { after })),
            Self::Revocations { after } => {
                return Ok(Parsed::Ask(Question::Revocations { after }));
            }
            Self::Revocation { id } => return Ok(Parsed::Ask(Question::Revocation(id))),
        };
        Ok(Parsed::One(Operation::Lifecycle(op)))
    }
}

fn checked_settings(settings: SettingsChange) -> Checked<SettingsChange> {
    let days = [
        ("expiry_days", &settings.expiry_days, 1),
        ("grace_days", &settings.grace_days, 0),
        ("rotate_days", &settings.rotate_days, 1),
    ];
    for (field, setting, least) in days {
        if setting
            .value()
            .is_some_and(|days| !(least..=MAX_DAYS).contains(days))
        {
            return invalid(format!("`{field}` must be {least} to {MAX_DAYS}"));
        }
    }
    let kept = settings.keep_versions.value();
    if kept.is_some_and(|kept| !(1..=MAX_KEPT).contains(kept)) {
        return invalid(format!("`keep_versions` must be 1 to {MAX_KEPT}"));
    }
    if let Some(windows) = settings.windows.value() {
        let parsed = text("windows", windows).map(|()| Windows::parse(windows))?;
        parsed.or_else(|why| invalid(format!("`windows`: {why}")))?;
    }
    if let Some(hook) = settings.hook.value()
        && HookName::new(hook.as_str()).is_none()
    {
        return invalid(
            "`hook` must be 1 to 64 of a-z, 0-9, `.`, `_` and `-`, the first a letter or digit",
        );
    }
    Ok(settings)
}

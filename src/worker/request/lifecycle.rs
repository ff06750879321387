//! Requests about what becomes of secrets: versions, settings, revocations.
//!
//! None of them carries a value, so serde may keep copies while it looks at `op`.

use jarvis_policy::Verb;
use jarvis_vault::{Consumer, Criticality, RevocationReason, SecretName, Severity};
use serde::{Deserialize, Deserializer};

use super::{Checked, Malformed, Operation, Parsed, Question, checked_name, invalid, json_error};
use crate::common::calendar::Windows;
use crate::ipc::runner::HookName;

/// Longest text of somebody's own words, in bytes.
const MAX_TEXT: usize = 512;
/// Longest name of a consumer, hook or owner, in bytes.
const MAX_WORD: usize = 128;
/// Most consumers declared of one secret.
pub(crate) const MAX_CONSUMERS: usize = 256;
/// Longest time in a setting: a century.
const MAX_DAYS: u32 = 36_525;

/// A change of what becomes of a secret.
pub(crate) enum Life {
    Rollback {
        name: SecretName,
        version: u32,
        reason: Option<String>,
    },
    Deprecate {
        name: SecretName,
        version: u32,
    },
    Prune {
        name: SecretName,
        keep: usize,
    },
    Configure {
        name: SecretName,
        settings: Box<Configure>,
    },
    ConsumerAdd {
        name: SecretName,
        consumer: Consumer,
    },
    ConsumerRemove {
        name: SecretName,
        consumer: String,
    },
    Revoke {
        name: SecretName,
        reason: RevocationReason,
        severity: Severity,
        note: Option<String>,
        immediate: bool,
        rotate: bool,
    },
    Decide {
        id: u64,
        approve: bool,
    },
    Execute {
        id: u64,
        rotate: bool,
    },
}

impl Life {
    /// The verb the caller needs, and on which secret, unless only the
    /// revocation tells.
    pub(crate) fn needs(&self) -> (Verb, Option<&SecretName>) {
        match self {
            Self::Rollback { name, .. } | Self::Deprecate { name, .. } => {
                (Verb::Rotate, Some(name))
            }
            Self::Prune { name, .. }
            | Self::Configure { name, .. }
            | Self::ConsumerAdd { name, .. }
            | Self::ConsumerRemove { name, .. } => (Verb::Write, Some(name)),
            Self::Revoke { name, .. } => (Verb::Revoke, Some(name)),
            Self::Execute { .. } => (Verb::Revoke, None),
            Self::Decide { .. } => (Verb::Approve, None),
        }
    }

    /// The revocation that tells which secret it is about.
    pub(crate) fn revocation(&self) -> Option<u64> {
        match self {
            Self::Decide { id, .. } | Self::Execute { id, .. } => Some(*id),
            _ => None,
        }
    }
}

/// New settings of a secret: `None` leaves one as it is, `Some(None)` makes it
/// the configuration's again.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Configure {
    #[serde(deserialize_with = "given")]
    pub(crate) keep_versions: Option<Option<u32>>,
    #[serde(deserialize_with = "given")]
    pub(crate) expiry_days: Option<Option<u32>>,
    #[serde(deserialize_with = "given")]
    pub(crate) grace_days: Option<Option<u32>>,
    #[serde(deserialize_with = "given")]
    pub(crate) rotate_days: Option<Option<u32>>,
    #[serde(deserialize_with = "given")]
    pub(crate) windows: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    pub(crate) hook: Option<Option<String>>,
    pub(crate) refuse_expired: Option<bool>,
    pub(crate) end_grace_when_adopted: Option<bool>,
}

/// A field that stands there, also as `null`.
fn given<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

impl Configure {
    fn check(self) -> Checked<Self> {
        let days = [
            ("expiry_days", self.expiry_days, 1),
            ("grace_days", self.grace_days, 0),
            ("rotate_days", self.rotate_days, 1),
        ];
        for (field, value, least) in days {
            if value.flatten().is_some_and(|d| d < least || d > MAX_DAYS) {
                return invalid(format!("`{field}` must be {least} to {MAX_DAYS}"));
            }
        }
        if self
            .keep_versions
            .flatten()
            .is_some_and(|n| n == 0 || n > 1000)
        {
            return invalid("`keep_versions` must be 1 to 1000");
        }
        if let Some(Some(windows)) = &self.windows {
            let parsed = text("windows", windows).map(|()| Windows::parse(windows))?;
            parsed.or_else(|why| invalid(format!("`windows`: {why}")))?;
        }
        if let Some(Some(hook)) = &self.hook
            && HookName::new(hook.as_str()).is_none()
        {
            return invalid(
                "`hook` must be 1 to 64 of a-z, 0-9, `.`, `_` and `-`, the first a letter or digit",
            );
        }
        Ok(self)
    }
}

/// A request as it stands in JSON.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Wire {
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
        settings: Configure,
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
    Schedule {},
    Revocations {},
    Revocation {
        id: u64,
    },
}

/// Only what kind of request it is.
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
        let wire: Wire = serde_json::from_str(text).map_err(|e| json_error(&e))?;
        wire.check()
    })
}

impl Wire {
    fn check(self) -> Checked<Parsed> {
        let life = match self {
            Self::Rollback {
                name,
                version,
                reason,
            } => Life::Rollback {
                name: checked_name(&name)?,
                version,
                reason: words("reason", reason)?,
            },
            Self::Deprecate { name, version } => Life::Deprecate {
                name: checked_name(&name)?,
                version,
            },
            Self::Prune { name, keep } if (1..=1000).contains(&keep) => Life::Prune {
                name: checked_name(&name)?,
                keep,
            },
            Self::Prune { .. } => return invalid("`keep` must be 1 to 1000"),
            Self::Configure { name, settings } => Life::Configure {
                name: checked_name(&name)?,
                settings: Box::new(settings.check()?),
            },
            Self::ConsumerAdd {
                name,
                consumer,
                criticality,
                owner,
                restart,
            } => Life::ConsumerAdd {
                name: checked_name(&name)?,
                consumer: Consumer {
                    name: word("consumer", consumer)?.into(),
                    criticality: criticality.unwrap_or(Criticality::Medium),
                    owner: words("owner", owner)?.map(Into::into),
                    restart: words("restart", restart)?.map(Into::into),
                },
            },
            Self::ConsumerRemove { name, consumer } => Life::ConsumerRemove {
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
            } => Life::Revoke {
                name: checked_name(&name)?,
                reason,
                severity: severity.unwrap_or(Severity::High),
                note: words("note", note)?,
                immediate,
                rotate,
            },
            Self::RevokeApprove { id } => Life::Decide { id, approve: true },
            Self::RevokeReject { id } => Life::Decide { id, approve: false },
            Self::RevokeExecute { id, rotate } => Life::Execute { id, rotate },
            Self::Versions { name } => {
                return Ok(Parsed::Ask(Question::Versions(checked_name(&name)?)));
            }
            Self::Diff { name, from, to } => {
                let name = checked_name(&name)?;
                return Ok(Parsed::Ask(Question::Diff { name, from, to }));
            }
            Self::Schedule {} => return Ok(Parsed::Ask(Question::Schedule)),
            Self::Revocations {} => return Ok(Parsed::Ask(Question::Revocations)),
            Self::Revocation { id } => return Ok(Parsed::Ask(Question::Revocation(id))),
        };
        Ok(Parsed::One(Operation::Life(life)))
    }
}

/// Somebody's words: printable, and not too many.
fn text(field: &str, text: &str) -> Checked<()> {
    if text.len() > MAX_TEXT {
        let message = format!("`{field}` has {} bytes, at most {MAX_TEXT}", text.len());
        return Err(Malformed::TooLong(message));
    }
    match text.chars().any(char::is_control) {
        true => invalid(format!("`{field}` has a control character in it")),
        false => Ok(()),
    }
}

fn words(field: &str, given: Option<String>) -> Checked<Option<String>> {
    if let Some(given) = &given {
        text(field, given)?;
    }
    Ok(given)
}

fn word(field: &str, given: String) -> Checked<String> {
    text(field, &given)?;
    match given.is_empty() || given.len() > MAX_WORD {
        true => invalid(format!("`{field}` must have 1 to {MAX_WORD} bytes")),
        false => Ok(given),
    }
}

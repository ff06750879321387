//! Answers to control requests: JSON, and the errno of the write.

use jarvis_fs::{Answer, FsError};
use jarvis_vault::VaultError;
use serde::Serialize;
use serde_json::{Value, json};

use super::service::ControlService;
use crate::common::policy_file::LoadError;
use crate::worker::commit::CommitError;
use crate::worker::commit::change::{Change, ChangeKind};
use crate::worker::request::Malformed;
use crate::worker::secrets::{Secrets, refusal};

/// A refused request: for the caller as errno and as JSON.
pub(crate) struct ControlError {
    errno: FsError,
    code: &'static str,
    message: String,
}

impl ControlError {
    pub(super) fn new(errno: FsError, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            errno,
            code,
            message: message.into(),
        }
    }

    /// The vault's answer is for the caller when the caller can do something about it;
    /// a failure is for the log, and counted.
    pub(super) fn vault(secrets: &Secrets, error: &VaultError) -> Self {
        match refusal(error) {
            Some((errno, code)) => Self::new(errno, code, error.to_string()),
            None => {
                let errno = secrets.vault_failed(error);
                Self::new(errno, "io", "the vault failed; see the daemon's log")
            }
        }
    }

    /// A change that was not made, or not recorded.
    pub(super) fn commit(secrets: &Secrets, error: &CommitError) -> Self {
        let code = match error {
            CommitError::Refused(error) => return Self::vault(secrets, error),
            CommitError::NotAllowed => {
                return Self::new(FsError::Denied, "denied", error.to_string());
            }
            CommitError::TooSlow => {
                return Self::new(FsError::TooLong, "too_much", error.to_string());
            }
            CommitError::VaultFailed | CommitError::Note(_) => "io",
            CommitError::VaultUnwritable(_) => "vault_unwritable",
            CommitError::NotRecorded => "not_recorded",
            CommitError::AuditUnavailable(_) => "audit_unavailable",
        };
        Self::new(FsError::Io, code, error.to_string())
    }

    /// The audit log takes no record of what was asked for.
    pub(super) fn unrecordable(service: &ControlService) -> Self {
        let error = CommitError::unavailable(&service.audit);
        Self::new(FsError::Io, "audit_unavailable", error.to_string())
    }

    /// The answer to the refused request.
    pub(super) fn answer(self) -> Answer {
        let error = json!({"code": self.code, "message": self.message});
        Answer {
            body: line(&json!({"ok": false, "error": error})),
            error: Some(self.errno),
            change: false,
            fenced: Vec::new(),
        }
    }
}

impl From<Malformed> for ControlError {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Invalid(message) => Self::new(FsError::Invalid, "invalid", message),
            Malformed::NameTooLong(message) => {
                Self::new(FsError::NameTooLong, "name_too_long", message)
            }
            Malformed::TooLong(message) => Self::new(FsError::TooLong, "too_long", message),
        }
    }
}

impl From<LoadError> for ControlError {
    fn from(error: LoadError) -> Self {
        Self::new(FsError::Invalid, "policy", error.to_string())
    }
}

/// The answer to a request that was not even read.
pub(super) fn refuse(error: FsError, message: &str) -> Answer {
    let code = match error {
        FsError::TooLong => "too_long",
        FsError::Busy => "busy",
        _ => "unavailable",
    };
    ControlError::new(error, code, message).answer()
}

/// Short form of `answer`, for when its user's handles, or all, hold too many.
pub(super) fn shorten(answer: Answer) -> Answer {
    if answer.error.is_none() && !answer.change {
        let message = "open control handles hold too many answers; close them, and ask again";
        return ControlError::new(FsError::Busy, "busy", message).answer();
    }
    let body = match answer.error {
        None => success(&Value::Null).body,
        Some(error) => refuse(error, "refused; too many answers are held to say why").body,
    };
    Answer { body, ..answer }
}

/// The answer to a request that was carried out and gave `result`.
pub(super) fn success(result: &Value) -> Answer {
    Answer {
        body: line(&json!({"ok": true, "result": result})),
        error: None,
        change: false,
        fenced: Vec::new(),
    }
}

fn line(value: &Value) -> Vec<u8> {
    let mut body = value.to_string().into_bytes();
    body.push(b'\n');
    body
}

/// A change as its answer shows it.
#[derive(Serialize)]
pub(super) struct Done<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
    action: ChangeKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revocation: Option<u64>,
    /// The version that waits for its hook.
    #[serde(skip_serializing_if = "Option::is_none")]
    pending: Option<u32>,
}

impl<'a> Done<'a> {
    /// Answer to a single request that made `changes`: of an immediate revocation more than its first change.
    pub(super) fn of_all(changes: &[Change]) -> Value {
        let Some((first, rest)) = changes.split_first() else {
            return Value::Null;
        };
        let mut answer = json!(Done::of(first));
        let further = |change: &&Change| change.revocation.is_some();
        let notes: Vec<_> = std::iter::once(first)
            .chain(rest.iter().filter(further))
            .filter_map(|change| change.reason.as_deref())
            .collect();
        let next = rest
            .iter()
            .find(|change| change.name == first.name && change.kid.is_some());
        if first.revocation.is_some()
            && let Some(fields) = answer.as_object_mut()
        {
            let mut note = notes.join("; ");
            if let Some(next) = next {
                note.push_str(match next.begins {
                    Some(_) => "; a clean value waits for its hook",
                    None => "; a clean value is current",
                });
            }
            fields.insert("note".into(), note.into());
        }
        answer
    }

    pub(super) fn of(change: &'a Change) -> Self {
        Self {
            name: change.name.as_deref(),
            version: change.version,
            kid: change.kid.as_deref(),
            action: change.action,
            note: change.reason.as_deref(),
            revocation: change.revocation,
            pending: change.begins,
        }
    }
}

//! What worker, supervisor, runner and keeper say to each other.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::{Level, Notify};
use crate::ipc::short;

/// Most hooks at work at once.
pub(crate) const MAX_HOOKS: usize = 8;
/// Longest name of a hook, in bytes.
const MAX_NAME: usize = 64;

/// To the runner: first from the supervisor ([`Terms`], then each [`Notify`]),
/// then from workers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToRunner {
    /// The first message. The one fd, where there are hooks, is their directory.
    Become(Terms),
    /// Somebody to notify. The one fd is the directory of the command, or the
    /// key of the signature where there is one.
    Sink(Notify),
    /// Answer with the same number.
    Ping(u64),
    /// There is a new worker: nobody waits any more for what the last one asked.
    Employed,
    /// Run a hook. Fds: the old value when there is one, the new value.
    Hook(Order),
    /// Tell everybody who wants to know.
    Notify(u64, Event),
}

/// To the worker: all that a hijacked runner can say.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum FromRunner {
    /// The answer to [`ToRunner::Ping`].
    Pong(u64),
    /// How the hook with this number ended.
    Hook(u64, End),
    /// What became of the notification with this number.
    Settled(u64, Tally),
}

/// What a runner is and may.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Terms {
    /// Who to be, when that is to change.
    pub(crate) user: Option<(u32, u32)>,
    /// Seconds that a hook may take.
    pub(crate) hook_secs: u32,
    /// How many sinks follow.
    pub(crate) sinks: usize,
    /// The host's name in notifications.
    pub(crate) host: String,
    /// What is logged.
    pub(crate) level: Level,
}

/// Name of a hook: 1 to 64 of `a-z 0-9 . _ -`, the first a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HookName(String);

impl HookName {
    /// `None` for what can't be a hook's name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Option<Self> {
        let name = name.into();
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = |b: u8| plain(&b) || b"._-".contains(&b);
        let fits = name.len() <= MAX_NAME && name.bytes().all(good);
        // Neither hidden, nor `..`, nor like an option.
        (fits && name.as_bytes().first().is_some_and(plain)).then_some(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HookName {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(name).ok_or("a hook's name is 1 to 64 of a-z 0-9 . _ -, no dot first")
    }
}

impl From<HookName> for String {
    fn from(name: HookName) -> Self {
        name.0
    }
}

impl fmt::Display for HookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Step of a rotation, in the order of a good one; each may run twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// See to it that `apply` can work; the old value stays in force.
    Prepare,
    /// Put the new value in force.
    Apply,
    /// Prove that the new value works.
    Verify,
    /// Undo `prepare` and `apply`.
    Rollback,
}

impl Phase {
    /// As the hook is told.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Apply => "apply",
            Self::Verify => "verify",
            Self::Rollback => "rollback",
        }
    }
}

/// A hook that is to be run.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) id: u64,
    pub(crate) hook: HookName,
    pub(crate) phase: Phase,
    /// The secret.
    pub(crate) name: String,
    /// The new version.
    pub(crate) version: u32,
    pub(crate) kid: String,
    /// There is an old value.
    pub(crate) old: bool,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    /// With this exit status.
    Exited(u8),
    /// By this signal.
    Killed(u8),
    /// It was ended for it took too long.
    TimedOut,
    /// It never began.
    Refused(Refusal),
    /// Whoever kept it is gone.
    Lost,
}

/// Why a program was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// No directory of hooks is configured.
    NoDirectory,
    /// The directory belongs to somebody who must not have it.
    DirectoryOwner,
    /// Others may write the directory.
    DirectoryWritable,
    /// There is no such file.
    Missing,
    /// It is a link, a directory or something else that is no file.
    NoFile,
    /// It belongs to somebody who must not have it.
    Owner,
    /// Others may write it.
    Writable,
    /// Nobody may execute it.
    NotExecutable,
    /// Too many programs are at work.
    Busy,
    /// The system refused, with this errno.
    System(i32),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoDirectory => "the configuration names no [hooks] dir",
            Self::DirectoryOwner => "its directory does not belong to root",
            Self::DirectoryWritable => "its directory can be written by group or others",
            Self::Missing => "it is not there",
            Self::NoFile => "it is no regular file",
            Self::Owner => "it does not belong to root",
            Self::Writable => "it can be written by group or others",
            Self::NotExecutable => "it is not executable",
            Self::Busy => "too many are at work",
            Self::System(errno) => {
                return std::io::Error::from_raw_os_error(*errno).fmt(f);
            }
        })
    }
}

/// What happened that somebody may want to know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A secret was rotated.
    Rotation,
    /// A rotation was given up.
    RotationFailed,
    /// A version is past its time, or soon will be.
    Expiry,
    /// A version was revoked.
    Revocation,
    /// Somebody waits for an approval.
    ApprovalWanted,
    /// Suspicious activity was found.
    Suspicious,
    /// The audit log has come further; nobody is told who does not ask for it.
    Checkpoint,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Rotation,
        Self::RotationFailed,
        Self::Expiry,
        Self::Revocation,
        Self::ApprovalWanted,
        Self::Suspicious,
        Self::Checkpoint,
    ];

    /// As configuration, body and metric have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rotation => "rotation",
            Self::RotationFailed => "rotation_failed",
            Self::Expiry => "expiry",
            Self::Revocation => "revocation",
            Self::ApprovalWanted => "approval_wanted",
            Self::Suspicious => "suspicious",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// Something that happened; never a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    kind: EventKind,
    time_ms: i64,
    name: Option<String>,
    version: Option<u32>,
    kid: Option<String>,
    uid: Option<u32>,
    reason: Option<String>,
    checkpoint: Option<String>,
}

impl Event {
    /// Something of `kind` that happened just now.
    #[must_use]
    pub fn new(kind: EventKind) -> Self {
        Self {
            kind,
            time_ms: crate::common::clock::now_ms(),
            name: None,
            version: None,
            kid: None,
            uid: None,
            reason: None,
            checkpoint: None,
        }
    }

    /// With the secret it is about.
    #[must_use]
    pub fn secret(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// With the version it is about.
    #[must_use]
    pub fn version(mut self, version: u32, kid: &str) -> Self {
        self.version = Some(version);
        self.kid = Some(kid.to_owned());
        self
    }

    /// With whoever did it.
    #[must_use]
    pub fn actor(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// With a sentence, of which the first 2 KiB are kept.
    #[must_use]
    pub fn reason(mut self, reason: &str) -> Self {
        self.reason = Some(short(reason));
        self
    }

    /// The audit log has come as far as `note` says.
    #[must_use]
    pub fn checkpoint(note: &str) -> Self {
        let mut event = Self::new(EventKind::Checkpoint);
        event.checkpoint = Some(short(note));
        event
    }

    /// What kind of thing happened.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        self.kind
    }

    /// What receivers get: one JSON object. `id` is the same for all of them,
    /// and when the event is sent again.
    pub(crate) fn body(&self, id: u64, host: &str) -> serde_json::Result<String> {
        serde_json::to_string(&Body {
            id: format!("{id:016x}"),
            kind: self.kind,
            host,
            time: crate::common::clock::rfc3339(self.time_ms),
            name: self.name.as_deref(),
            version: self.version,
            kid: self.kid.as_deref(),
            uid: self.uid,
            reason: self.reason.as_deref(),
            checkpoint: self.checkpoint.as_deref(),
        })
    }
}

#[derive(Serialize)]
struct Body<'e> {
    id: String,
    kind: EventKind,
    host: &'e str,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<&'e str>,
}

/// To how many a notification went, and to how many not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) delivered: u8,
    /// Given up.
    pub(crate) failed: u8,
    /// Newer ones had pushed it out of a queue.
    pub(crate) dropped: u8,
}

/// From the runner to a keeper: a program to run. Fds: its directory, then its
/// input or the values, as `kind` says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) kind: TaskKind,
    pub(crate) limit_ms: u64,
    /// What belongs to the own user is as good as root's: there is no root.
    pub(crate) trust_self: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum TaskKind {
    /// The old value, if `old`, as fd 3, and the new one as fd 4.
    Hook { old: bool },
    /// A text as standard input.
    Notice,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hooks_lead_nowhere_else() {
        for good in ["a", "postgres-single-role", "0.sh", &"x".repeat(MAX_NAME)] {
            assert!(HookName::new(good).is_some(), "{good}");
        }
        let long = "x".repeat(MAX_NAME + 1);
        for bad in [
            "", ".", "..", ".a", "-a", "a/b", "/a", "A", "a b", "a\0", "ä", &long,
        ] {
            assert!(HookName::new(bad).is_none(), "{bad}");
        }
        let sent = postcard::to_allocvec("../../bin/sh").unwrap();
        assert!(postcard::from_bytes::<HookName>(&sent).is_err());
    }

    #[test]
    fn kinds_are_called_the_same_everywhere() {
        for kind in EventKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn the_longest_event_is_no_long_message() {
        let event = Event::new(EventKind::RotationFailed)
            .secret(&"n".repeat(16 * 256))
            .version(u32::MAX, &"k".repeat(300))
            .reason(&"\u{1}".repeat(100_000));
        let body = event.body(1, "0123456789abcdef").unwrap();
        assert!(body.len() < 32 * 1024, "{}", body.len());
        assert!(postcard::to_allocvec(&event).unwrap().len() < 8 * 1024);
    }
}

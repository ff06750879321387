//! Messages to the runner, from supervisor and worker, and its answers.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{EventKind, LogLevel, NotifyConfig};
use crate::ipc::keeper::ExitCause;
use crate::ipc::{Channel, short};

/// The supervisor's and then the worker's end of the socket to the runner.
pub(crate) type RunnerChannel = Channel<ToRunner, FromRunner>;
/// The runner's end.
pub(crate) type RunnerEnd = Channel<FromRunner, ToRunner>;

/// Most hooks at work at once.
pub(crate) const MAX_HOOKS: usize = 8;
/// How long after a hook's time limit its answer may still come.
pub(crate) const HOOK_ANSWER_MARGIN: Duration = Duration::from_secs(15);
/// Longest name of a hook.
const MAX_NAME_BYTES: usize = 64;

/// Message to the runner: first from the supervisor ([`RunnerConfig`], then each
/// [`Notify`]), then from workers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToRunner {
    /// The first message. The one fd, where there are hooks, is their directory.
    Configure(RunnerConfig),
    /// A receiver of notifications; as many come as the first message said. The
    /// one fd is the directory of the command, or the key of the signature where
    /// there is one.
    AddSink(NotifyConfig),
    /// A sign of life is wanted: [`FromRunner::Pong`] with the same number.
    Ping(u64),
    /// A new worker speaks from now on: nobody waits for what the last one asked.
    WorkerChanged,
    /// A hook is to be run. Fds: the old value when there is one, the new value.
    Hook(HookRequest),
    /// An event for all sinks that want its kind, and its number.
    Notify(u64, Event),
}

/// Message to the worker: all that a hijacked runner can say.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum FromRunner {
    /// The answer to [`ToRunner::Ping`].
    Pong(u64),
    /// The hook with this number has ended.
    Hook(u64, ExitCause),
    /// The notification with this number is settled for all sinks.
    Settled(u64, DeliveryCounts),
}

/// Configuration of a runner.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RunnerConfig {
    /// The runner's user and group, when it is to change them.
    pub(crate) user: Option<(u32, u32)>,
    /// Seconds that a hook may take.
    pub(crate) hook_secs: u32,
    /// How many sinks follow.
    pub(crate) sinks: usize,
    /// The host's name in notifications.
    pub(crate) host: String,
    /// Least level that is logged.
    pub(crate) level: LogLevel,
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
        let fits = name.len() <= MAX_NAME_BYTES && name.bytes().all(good);
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
pub enum HookPhase {
    /// See to it that `apply` can work; the old value stays in force.
    Prepare,
    /// Put the new value in force.
    Apply,
    /// Prove that the new value works.
    Verify,
    /// Undo `prepare` and `apply`.
    Rollback,
}

impl HookPhase {
    /// The word that the hook is given.
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

/// Request to run a hook.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HookRequest {
    pub(crate) id: u64,
    pub(crate) hook: HookName,
    pub(crate) phase: HookPhase,
    /// Name of the secret.
    pub(crate) name: String,
    /// Number of the new version.
    pub(crate) version: u32,
    pub(crate) kid: String,
    /// An old value comes with the new one.
    pub(crate) has_old: bool,
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

    /// Event of `kind` just now, about the secret called `name`, if it has a name.
    #[must_use]
    pub fn about(kind: EventKind, name: Option<&str>) -> Self {
        let mut event = Self::new(kind);
        event.name = name.map(str::to_owned);
        event
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

    /// The kind of thing that happened.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        self.kind
    }

    /// The text for receivers: one JSON object. `id` is the same for all of them,
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

/// Receivers of one notification, by what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeliveryCounts {
    pub(crate) delivered: u8,
    /// Given up.
    pub(crate) failed: u8,
    /// Newer ones had pushed it out of a queue.
    pub(crate) dropped: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hooks_lead_nowhere_else() {
        for good in [
            "a",
            "postgres-single-role",
            "0.sh",
            &"x".repeat(MAX_NAME_BYTES),
        ] {
            assert!(HookName::new(good).is_some(), "{good}");
        }
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for bad in [
            "", ".", "..", ".a", "-a", "a/b", "/a", "A", "a b", "a\0", "ä", &long,
        ] {
            assert!(HookName::new(bad).is_none(), "{bad}");
        }
        let sent = postcard::to_allocvec("../../bin/sh").unwrap();
        assert!(postcard::from_bytes::<HookName>(&sent).is_err());
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

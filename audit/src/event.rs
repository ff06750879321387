//! Events, as the log takes them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The daemon started; certifies the epoch key.
    Start,
    /// The daemon stopped in order.
    Stop,
    /// A request that takes long is about to be carried out.
    Begin,
    /// A secret was opened.
    Read,
    /// A value went into an encrypted file.
    Export,
    /// Names or metadata were shown.
    List,
    /// A secret was made.
    Create,
    /// A secret got a new value from outside.
    Update,
    /// A secret left the tree.
    Delete,
    /// A deleted secret came back.
    Restore,
    /// A deleted secret was destroyed.
    Purge,
    /// A secret got a generated value.
    Rotate,
    /// A secret was taken out of service.
    Revoke,
    /// A revocation was approved.
    Approve,
    /// A request was refused.
    Deny,
    /// The policy was loaded or refused.
    Policy,
    /// Settings of a secret, or the state of a version, changed.
    Configure,
    /// A version's life ends soon, or has ended.
    Expiry,
    /// A key slot changed.
    Key,
    /// The system's clock jumped.
    Clock,
    /// A bound was hit.
    Limit,
    /// A handle was read by another user than its opener.
    SharedHandle,
    /// Records before this one look suspicious together.
    Suspicious,
    /// Something found damaged was put right.
    Repair,
    /// The records before this one that have no signature are vouched for by its own.
    Signature,
    /// The epoch key changed.
    Epoch,
    /// A segment was closed or begun.
    Segment,
    /// Old segments were removed.
    Prune,
    /// A checkpoint was published.
    Checkpoint,
}

impl Action {
    /// Whether a record of this kind must have a signature of its own: on it depends whose
    /// signatures count after it, or what need not be there.
    pub(crate) fn must_be_signed(self) -> bool {
        matches!(
            self,
            Self::Start | Self::Stop | Self::Signature | Self::Epoch | Self::Segment | Self::Prune
        )
    }
}

/// Outcome of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Ok,
    /// Refused.
    Denied,
    /// Tried, and failed.
    Failed,
}

/// The word as it stands in a record.
fn word(f: &mut fmt::Formatter<'_>, value: &impl Serialize) -> fmt::Result {
    let json = serde_json::to_string(value).map_err(|_| fmt::Error)?;
    f.write_str(json.trim_matches('"'))
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        word(f, self)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        word(f, self)
    }
}

/// Details of a `clock` record: a jump of the system's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockJump {
    /// Time it should have been, as in RFC 3339, by the time before and by what has passed.
    pub from: String,
    /// Time that the clock showed instead.
    pub to: String,
}

/// Lowest number that the kernel gives to a namespace (`PROC_DYNAMIC_FIRST`): no uid that
/// anybody has is as high.
pub const FIRST_NAMESPACE: u32 = 0xF000_0000;

/// One event to be recorded; borrows everything. Fields are written in this
/// order, after the chain's own (`v seq prev time host epoch`).
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Event<'a> {
    /// The vault's last commit that is recorded, this record included.
    pub vault_seq: u64,
    /// Kind of event.
    pub action: Action,
    /// Outcome of the event.
    pub result: Outcome,
    /// Name of the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    /// Id of the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Number of the secret's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Key id of that version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<&'a str>,
    /// Caller's user id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Caller's group id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Caller's process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Account of a caller in another user namespace than the daemon's: the uid of its
    /// owner; of one that root made its number; 4,294,967,295 if nobody could tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<u32>,
    /// Caller's systemd unit, as its cgroup tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'a str>,
    /// Id or name of the caller's container, as its cgroup tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<&'a str>,
    /// Path of the caller's program, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<&'a str>,
    /// Client of the policy that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<&'a str>,
    /// Pattern of the policy that decided, or `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'a str>,
    /// Error that the caller got, as in errno(3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// More about the event, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// Number of events that this record stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// True if the kernel sent the request a second time.
    #[serde(skip_serializing_if = "is_false")]
    pub resent: bool,
    /// True for a record written after the fact, of a change whose own was lost in a crash.
    #[serde(skip_serializing_if = "is_false")]
    pub recovered: bool,
    /// The jump that a `clock` record is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<&'a ClockJump>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Event<'_> {
    /// An event without particulars.
    #[must_use]
    pub fn new(action: Action, result: Outcome, vault_seq: u64) -> Self {
        Self {
            vault_seq,
            action,
            result,
            name: None,
            id: None,
            version: None,
            kid: None,
            uid: None,
            gid: None,
            pid: None,
            account: None,
            unit: None,
            container: None,
            exe: None,
            client: None,
            rule: None,
            errno: None,
            reason: None,
            count: None,
            resent: false,
            recovered: false,
            clock: None,
        }
    }
}

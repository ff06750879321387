//! Records as they stand in the log.

use serde::{Deserialize, Serialize};

use crate::event::{Action, ClockJump, Outcome};

/// Number of the format.
pub(crate) const FORMAT: u8 = 2;

/// End of the log before a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreviousEnd {
    /// No record.
    None,
    /// A stop record.
    Clean,
    /// No stop record: a crash, a kill or a power loss.
    Unclean,
}

/// Details of a `start` record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartDetails {
    /// Version of the daemon.
    pub daemon: String,
    /// Number of the segment the record is in.
    pub segment: u32,
    /// End of the log before.
    pub previous: PreviousEnd,
    /// Bytes after the last record that were set aside: an incomplete one, or some that were
    /// never acknowledged.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub torn_bytes: u64,
    /// Records before this one that have no signature and that nobody vouches for: none of
    /// those who knew them lived to see this start.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unsigned: u64,
    /// Loss of records that were known, which the operator accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<LostRecords>,
    /// The epoch's public key, base64url.
    pub epoch_key: String,
    /// The identity key's certificate for it, base64url.
    pub cert: String,
}

/// A loss of records that somebody knew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRecords {
    /// Sequence number of the last record that was known; it is gone, or another one is in
    /// its place.
    pub known: u64,
    /// Sequence number of the last record that was found, 0 when there was none.
    pub found: u64,
}

/// Details of an `epoch` record: the key of the record after it. The old key's
/// signature over the record vouches for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextEpoch {
    /// Number of the epoch that begins.
    pub epoch: u64,
    /// Public key of that epoch, base64url.
    pub epoch_key: String,
}

/// Details of a `segment` record that ends one: no record of this segment comes
/// after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentClose {
    /// Number of the segment.
    pub segment: u32,
    /// Sequence number of the segment's first record.
    pub first_seq: u64,
    /// Length of the segment in bytes before this record.
    pub bytes: u64,
}

/// Details of a `segment` record that begins one, with a new epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentOpen {
    /// Number of the segment.
    pub segment: u32,
    /// Length of the segment before it in bytes.
    pub bytes_before: u64,
    /// The epoch's public key, base64url.
    pub epoch_key: String,
    /// The identity key's certificate for it, base64url.
    pub cert: String,
}

/// Details of a `prune` record: the end of what was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneDetails {
    /// Number of the last segment that was removed, with all before it.
    pub segment: u32,
    /// Sequence number of that segment's last record.
    pub seq: u64,
    /// Digest of that record, hexadecimal.
    pub head: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A record, owned. Fields of later releases are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Number of the format, 2.
    pub v: u8,
    /// Sequence number, from 1.
    pub seq: u64,
    /// Digest of the record before, hexadecimal.
    pub prev: String,
    /// Time as in RFC 3339, UTC, with microseconds.
    pub time: String,
    /// Id of the host.
    pub host: String,
    /// Number of the epoch whose key signed the record.
    pub epoch: u64,
    /// The vault's last commit that is recorded.
    pub vault_seq: u64,
    /// Kind of event.
    pub action: Action,
    /// Outcome of the event.
    pub result: Outcome,
    /// Name of the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Id of the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Number of the secret's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Key id of that version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// Caller's user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Caller's group id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Caller's process id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Account of a caller in another user namespace than the daemon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<u32>,
    /// Caller's systemd unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Caller's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Path of the caller's program, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Client of the policy that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Pattern of the policy that decided, or `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Error that the caller got, as in errno(3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// More about the event, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Number of events that this record stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// True if the kernel sent the request a second time.
    #[serde(default)]
    pub resent: bool,
    /// True for a record written after the fact, of a change whose own was lost in a crash.
    #[serde(default)]
    pub recovered: bool,
    /// Details of a `clock` record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockJump>,
    /// Details of a `start` record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<StartDetails>,
    /// Details of an `epoch` record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextEpoch>,
    /// Details of the last record of a segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close: Option<SegmentClose>,
    /// Details of the first record of a segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<SegmentOpen>,
    /// Details of a `prune` record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<PruneDetails>,
}

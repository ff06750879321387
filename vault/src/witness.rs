//! The vault's memory of things outside of it: how far the audit log had come, and what
//! time it was. Both are compared at the next start.

use serde::{Deserialize, Serialize};

/// The last record of the audit log that was known to be on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogWitness {
    /// Id of the host whose log it is.
    pub host: [u8; 8],
    /// Sequence number of the record.
    pub seq: u64,
    /// Digest of the record.
    pub head: [u8; 32],
}

/// The time, as it was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockWitness {
    /// Id of the system's boot.
    pub boot: [u8; 16],
    /// Time since that boot, suspensions included, in milliseconds.
    pub since_boot_ms: i64,
    /// Time that the system's clock showed, Unix milliseconds.
    pub wall_ms: i64,
    /// Latest time that is beyond doubt, Unix milliseconds.
    pub settled_ms: i64,
    /// How long the daemon has run since the clock jumped ahead; none without doubt.
    pub doubted_ms: Option<i64>,
}

/// Both, as they are stored; what was never seen is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// The audit log.
    pub log: Option<LogWitness>,
    /// The clock.
    pub clock: Option<ClockWitness>,
}

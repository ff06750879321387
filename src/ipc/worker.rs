//! Messages between supervisor and worker.

use std::path::PathBuf;

use jarvis_audit::{EpochClaim, SegmentClaim};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::ipc::{Channel, Signature};

/// The supervisor's end of the socket to a worker.
pub(crate) type WorkerChannel = Channel<ToWorker, FromWorker>;
/// A worker's end of the socket to the supervisor.
pub(crate) type SupervisorChannel = Channel<FromWorker, ToWorker>;

/// From the supervisor to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// The first message. Fds: directory of the vault, directory of the audit
    /// log, handle table, watch, keys, memory for requests, the log's end, and who tells programs.
    Start(Box<Start>),
    /// The predecessor is dead: open vault and audit log. The one fd has the
    /// text of the policy in force.
    Open(Open),
    /// Serve the device, which is the one fd.
    Attach,
    /// Answer HTTP on the one fd: nobody else does.
    Listen,
    /// Why readers do not get to the mount; or that they do.
    MountTrouble(Option<String>),
    /// Say that you live.
    Ping(SupervisorStats),
    /// The policy's text is behind the one fd; or why it can't be read.
    Policy(Result<(), String>),
    /// Load the policy anew.
    Reload,
    /// The signature that was asked for.
    Certificate(Signature),
    /// The one fd leads to the runner.
    Runner,
    /// Stop answering, record why, and end.
    Retire(String),
}

/// Settings that a worker needs before it opens anything.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) config: Config,
    /// The file that the configuration was read from; absolute.
    pub(crate) config_path: PathBuf,
    /// The worker's user and group, when it is to change them.
    pub(crate) user: Option<(u32, u32)>,
    /// Tells this mount's requests from all others'.
    pub(crate) mount: [u8; 16],
    /// When the service began, Unix milliseconds.
    pub(crate) started_ms: i64,
    /// Where the vault's directory was when the supervisor opened it.
    pub(crate) vault_directory: Option<PathBuf>,
    pub(crate) accepted: AcceptedLosses,
    /// The last record of the audit log that a kept checkpoint tells of.
    pub(crate) kept: Option<KeptRecord>,
    /// The host's name in records.
    pub(crate) host: jarvis_audit::HostId,
}

/// Losses that the operator accepts, once.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct AcceptedLosses {
    /// The vault is older than its audit log.
    pub(crate) restored_vault: bool,
    /// The audit log lost records, or is another one.
    pub(crate) lost_log: bool,
}

/// A record of the audit log that a kept checkpoint tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptRecord {
    pub(crate) seq: u64,
    pub(crate) head: [u8; 32],
}

/// How to open vault and audit log.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Open {
    /// No worker of this supervisor had them open: check everything.
    pub(crate) fresh: bool,
    /// The predecessor ended by its own fault: what it was at work on is suspect.
    pub(crate) crashed: bool,
    /// Reason of the predecessor's end, as far as it is known.
    pub(crate) reason: Option<String>,
}

/// Counts of the supervisor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SupervisorStats {
    /// Number of the ping.
    pub(crate) ping: u64,
    /// Workers that have served so far.
    pub(crate) generation: u64,
    /// Ends of serving workers: by a signal from outside, by their own fault,
    /// because they did not answer, for an upgrade.
    pub(crate) killed: u64,
    pub(crate) crashed: u64,
    pub(crate) hung: u64,
    pub(crate) replaced: u64,
    /// The last time nobody served, in microseconds.
    pub(crate) gap_us: u64,
    /// The path of the audit log's directory does not lead to the one that workers have.
    pub(crate) log_missing: bool,
}

/// From a worker to the supervisor: all that a hijacked worker can ask for.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum FromWorker {
    /// Sandboxed and waiting for [`ToWorker::Open`].
    Ready,
    /// Vault and audit log are open; the number of secrets.
    Opened(u64),
    /// The device is being served.
    Serving,
    /// Alive, and no request is stuck.
    Pong(u64),
    /// Certify the first epoch key; once in a worker's life, which may be while it serves:
    /// a log that can't be written is opened later.
    Certify(EpochClaim),
    /// Certify the first key of a segment of the audit log; only upwards.
    CertifySegment(SegmentClaim),
    /// Give me the policy's text as it is now.
    Policy,
    /// The policy last given is in force.
    Accepted,
    /// How far the audit log has come, as a note.
    Checkpoint(String),
    /// The worker can't go on, and another could not either.
    Failed(String),
    /// The device is gone.
    Ended(String),
    /// The answer to [`ToWorker::Retire`].
    Retired,
}

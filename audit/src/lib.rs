//! The signed audit log of jarvis-secretsd.
//!
//! Runs in: the worker, which writes it; the supervisor, which certifies keys and keeps
//! checkpoints; `jarvisctl`, which reads and verifies.
//! Touches: the log's files; the identity key where it is given (the supervisor,
//! `jarvisctl init`). No secret: no record has a field for a value, its length or a hash
//! of it.
//! Imported by: the daemon's configuration and processes, and `jarvisctl`.
//!
//! One line of JSON a record. Each record is chained to the one before it by a
//! SHA-256 digest; signatures with an epoch's Ed25519 key, which the host's
//! identity key certifies at each start, each vouch for all records up to theirs: everything verifies from the identity's
//! public half alone. docs/FORMATS.md gives the bytes.
#![forbid(unsafe_code)]

mod certificate;
mod checkpoint;
mod event;
mod keys;
mod line;
mod log;
mod read;
mod receipt;
mod recent;
mod record;
mod suspicion;
#[cfg(test)]
mod testing;
mod verify;

pub use certificate::CertificateError;
pub use checkpoint::{Checkpoint, CheckpointError, MAX_CHECKPOINT_BYTES};
pub use event::{Action, ClockJump, Event, FIRST_NAMESPACE, Outcome};
pub use keys::{Certify, EpochClaim, HostId, Identity, KeyError, PublicIdentity, SegmentClaim};
pub use log::{
    AppendError, Counters, Durability, HeadMark, KnownHead, KnownRecord, Log, LogFault, LogHead,
    OpenError, Opening, PruneError, RecordMark, RotationError, SegmentLimits, StartKey, Tail,
};
pub use read::{Records, last_segment, read_records};
pub use receipt::{ReceiptError, ReceiptFault, receipt, verify_receipt};
pub use recent::recent_records;
pub use record::{
    LostRecords, NextEpoch, PreviousEnd, PruneDetails, Record, SegmentClose, SegmentOpen,
    StartDetails,
};
pub use suspicion::{
    Detector, Finding, FindingKind, Findings, MAX_BULK_SECRETS, MAX_DENIALS, Observation,
    Threshold, Thresholds,
};
pub use verify::{
    AcceptedLoss, FailureKind, Follower, LogEnd, UnsignedRecords, VerifyFailure, VerifyOptions,
    VerifyProgress, VerifyReport, verify, verify_against, verify_with,
};

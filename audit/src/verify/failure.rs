//! Faults of a log.

use std::fmt;
use std::io;

/// Place and fault of the first bad record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyFailure {
    /// Sequence number expected there.
    pub seq: u64,
    /// Number of the segment.
    pub segment: u32,
    /// Line in the segment, from 1.
    pub line: u64,
    /// Offset of the line in the segment, in bytes.
    pub offset: u64,
    /// Fault of the record.
    pub kind: FailureKind,
}

/// Fault of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The file system refused, with its answer.
    Unreadable(String),
    /// No record at all.
    Empty,
    /// The log ends within a line.
    Torn,
    /// The line is over 32 KiB.
    TooLong,
    /// No JSON, fields missing, or a signature that is none.
    NotARecord,
    /// An unknown format, this one.
    Version(u8),
    /// Another sequence number than expected, this one.
    Sequence(u64),
    /// `prev` is not the digest of the record before.
    Chain,
    /// Another host id.
    Host,
    /// Another epoch than the last start or epoch record's.
    Epoch,
    /// The log does not begin with a start record.
    NoStart,
    /// The identity key did not certify the epoch key for this place.
    Certificate,
    /// The checkpoint tells of another record, or its signature does not match.
    Checkpoint,
    /// The log ends before the checkpoint's record.
    CutOff,
    /// The checkpoint's record was pruned.
    CheckpointPruned,
    /// A segment begins or ends here as it should not.
    Border,
    /// A prune record tells of other records than those that are gone.
    Prune,
    /// An epoch record without a usable key.
    NextKey,
    /// The epoch key did not sign this.
    Signature,
    /// No signature, where a record of its kind must have one.
    Unsigned,
    /// `start.previous` contradicts the record before, or `start.unsigned` the records before.
    Previous,
    /// `start.segment` names another segment, this one.
    Segment(u32),
    /// This segment is gone and later ones are there.
    MissingSegment,
}

impl VerifyFailure {
    /// A failure of the log as a whole, or after its last record: not of a line.
    pub(super) fn of_log(seq: u64, kind: FailureKind) -> Self {
        Self {
            seq,
            segment: 1,
            line: 1,
            offset: 0,
            kind,
        }
    }

    /// The failure to read on, with the system's answer.
    pub(super) fn unreadable(seq: u64, error: &io::Error) -> Self {
        Self::of_log(seq, FailureKind::Unreadable(error.to_string()))
    }

    /// The failure to find record `seq`, which was in `segment`.
    pub(super) fn missing_segment(segment: u32, seq: u64) -> Self {
        Self {
            segment,
            ..Self::of_log(seq, FailureKind::MissingSegment)
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "the log cannot be read: {error}"),
            Self::Empty => f.write_str("the log has no record"),
            Self::Torn => f.write_str("the log ends within it"),
            Self::TooLong => f.write_str("the line is too long"),
            Self::NotARecord => f.write_str("the line is no record"),
            Self::Version(v) => write!(f, "record format {v} is unknown; use another jarvisctl"),
            Self::Sequence(found) => write!(f, "record {found} stands here"),
            Self::Chain => f.write_str("it does not follow the record before it"),
            Self::Host => f.write_str("it is another host's record"),
            Self::Epoch => f.write_str("it is of another epoch"),
            Self::NoStart => f.write_str("no start record certifies its key"),
            Self::Certificate => f.write_str("the host's identity did not certify its epoch key"),
            Self::Checkpoint => f.write_str("the checkpoint tells of another record here"),
            Self::CutOff => f.write_str("it is missing: the log ends before the checkpoint"),
            Self::CheckpointPruned => {
                f.write_str("the checkpoint is older than this record, before which all was pruned")
            }
            Self::Border => f.write_str("a segment begins or ends here as it should not"),
            Self::Prune => f.write_str("it tells of other records than those that are gone"),
            Self::NextKey => f.write_str("the key of the next epoch is none"),
            Self::Signature => f.write_str("the signature does not match"),
            Self::Unsigned => f.write_str("it has no signature"),
            Self::Previous => f.write_str("it misreports how the log ended before"),
            Self::Segment(found) => write!(f, "it was written for segment {found}"),
            Self::MissingSegment => f.write_str("its segment is missing"),
        }
    }
}

impl fmt::Display for VerifyFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seq,
            segment,
            line,
            offset,
            kind,
        } = self;
        write!(
            f,
            "record {seq} is bad: {kind} (segment {segment}, line {line}, byte {offset})"
        )
    }
}

impl std::error::Error for VerifyFailure {}

//! The result of a verification without failure.

use std::collections::BTreeMap;

use crate::event::{Action, Outcome};
use crate::record::LostRecords;

/// End of a verified log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEnd {
    /// A stop record.
    Stopped,
    /// Any other record: the daemon runs, or it died.
    Open,
    /// The end of a segment, and no other follows: it was removed, unless
    /// the daemon died in that moment.
    Closed,
}

/// Records that nobody vouches for, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsignedRecords {
    /// Sequence number of the first.
    pub first: u64,
    /// Number of them.
    pub count: u64,
}

/// A start that came after a loss of known records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedLoss {
    /// Sequence number of the start.
    pub start: u64,
    /// The records that were known, and found.
    pub records: LostRecords,
}

/// Facts about a log of which every record is good.
#[derive(Clone, Debug)]
pub struct VerifyReport {
    /// Number of records.
    pub records: u64,
    /// Number of the last segment.
    pub segments: u32,
    /// Sequence number of the first record; more than 1 when older ones were
    /// pruned, which a record says.
    pub first_seq: u64,
    /// Sequence number of the last record.
    pub last_seq: u64,
    /// Time of the first record.
    pub first_time: String,
    /// Time of the last record.
    pub last_time: String,
    /// Records whose time is before that of the record before them: the clock went back.
    pub times_back: u64,
    /// Sequence number of the first of them.
    pub first_back: Option<u64>,
    /// Number of start records.
    pub starts: u64,
    /// Starts after an orderly stop; the very first start is neither.
    pub clean_starts: u64,
    /// Starts after something else than an orderly stop.
    pub unclean_starts: u64,
    /// Records without a signature that a start came after, which says that it can't vouch
    /// for them: daemon and worker died together. Somebody else may have changed them.
    pub unsigned: Vec<UnsignedRecords>,
    /// Records at the end that no signature vouches for yet.
    pub not_signed_yet: u64,
    /// Starts that came after a loss of known records, which the operator accepted.
    pub lost: Vec<AcceptedLoss>,
    /// Epoch keys that signed.
    pub epochs: u64,
    /// Digest of the last record, hexadecimal: equal heads, equal logs.
    pub head: String,
    /// Records by action and result.
    pub counts: BTreeMap<(Action, Outcome), u64>,
    /// End of the log.
    pub end: LogEnd,
    /// True if the log has the record of the checkpoint it was verified against. Records
    /// cut off at the end leave no trace in the log itself: without a checkpoint compare
    /// `head` with one noted elsewhere.
    pub anchored: bool,
}

impl VerifyReport {
    /// The report on a log of which no record is checked yet.
    pub(super) fn empty() -> Self {
        Self {
            records: 0,
            segments: 0,
            first_seq: 0,
            last_seq: 0,
            first_time: String::new(),
            last_time: String::new(),
            times_back: 0,
            first_back: None,
            starts: 0,
            clean_starts: 0,
            unclean_starts: 0,
            unsigned: Vec::new(),
            not_signed_yet: 0,
            lost: Vec::new(),
            epochs: 0,
            head: String::new(),
            counts: BTreeMap::new(),
            end: LogEnd::Open,
            anchored: false,
        }
    }
}

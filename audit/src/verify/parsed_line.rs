//! A line of the log taken apart, of which nothing is verified yet.

use super::failure::FailureKind;
use super::record_view::RecordView;
use crate::line::{MAX_LINE_BYTES, RecordDigest, RecordLine};
use crate::read::LogLine;
use crate::record::Record;

/// A line with its content, or the reason why it has none.
pub(super) struct ParsedLine {
    pub(super) line: LogLine,
    pub(super) content: Result<LineContent, FailureKind>,
}

/// Content of a line.
pub(super) struct LineContent {
    /// The record, as far as the chain depends on it ([`RecordView::record`]).
    pub(super) record: Record,
    pub(super) digest: RecordDigest,
    /// The record's own; it may have none.
    pub(super) signature: Option<[u8; 64]>,
}

impl ParsedLine {
    pub(super) fn new(line: LogLine) -> Self {
        let content = LineContent::of(&line);
        Self { line, content }
    }
}

impl LineContent {
    fn of(line: &LogLine) -> Result<Self, FailureKind> {
        if !line.complete {
            return Err(if line.bytes.len() >= MAX_LINE_BYTES {
                FailureKind::TooLong
            } else {
                FailureKind::Torn
            });
        }
        let split = RecordLine::split(&line.bytes).ok_or(FailureKind::NotARecord)?;
        let record = RecordView::record(&split.payload());
        Ok(Self {
            record: record.ok_or(FailureKind::NotARecord)?,
            digest: split.digest(),
            signature: split.signature,
        })
    }
}

//! Where segments begin and end.

use super::failure::FailureKind;
use crate::event::Action;
use crate::read::LogLine;
use crate::record::{PruneDetails, Record};

/// Border checks: what the records so far say of their segments.
#[derive(Default)]
pub(super) struct SegmentBorders {
    /// Number of the segment read last.
    segment: u32,
    /// Sequence number of that segment's first record.
    first_seq: u64,
    /// Length of that segment in bytes, as far as it is read.
    bytes: u64,
    /// True once a record closed it.
    closed: bool,
    /// End of the segments that are gone, if the log begins late.
    gone: Option<GoneSegments>,
    /// True once a record says that they were pruned.
    explained: bool,
}

/// End of what is gone from the beginning of a log.
struct GoneSegments {
    /// Number of the last segment.
    segment: u32,
    /// Sequence number of that segment's last record.
    seq: u64,
    /// Digest of that record, hexadecimal.
    head: String,
}

impl SegmentBorders {
    /// Everything up to record `seq`, whose digest is `head`, is gone.
    pub(super) fn begin_late(&mut self, segment: u32, seq: u64, head: &str) {
        self.gone = Some(GoneSegments {
            segment: segment.saturating_sub(1),
            seq,
            head: head.to_owned(),
        });
    }

    /// The last segment that is gone although no record says that it was pruned.
    pub(super) fn unexplained(&self) -> Option<u32> {
        let gone = self.gone.as_ref().filter(|_| !self.explained)?;
        Some(gone.segment)
    }

    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    pub(super) fn check(&mut self, line: &LogLine, record: &Record) -> Result<(), FailureKind> {
        let begins = line.segment != self.segment;
        self.check_beginning(line, record, begins)?;
        if begins {
            (self.segment, self.first_seq) = (line.segment, record.seq);
        }
        self.closed = self.check_end(line, record)?;
        self.bytes = line.offset + line.bytes.len() as u64 + 1;
        if let Some(prune) = &record.prune {
            self.check_prune(record, prune)?;
        }
        Ok(())
    }

    /// A segment begins with a start, or after a closed one with a `segment`
    /// record; nothing follows in a closed one.
    fn check_beginning(
        &self,
        line: &LogLine,
        record: &Record,
        begins: bool,
    ) -> Result<(), FailureKind> {
        if let Some(start) = record.start.as_ref().filter(|s| s.segment != line.segment) {
            return Err(FailureKind::Segment(start.segment));
        }
        let Some(open) = &record.open else {
            // The very first record is judged by its key.
            let may_begin = record.start.is_some() || line.segment == 1;
            return border(if begins { may_begin } else { !self.closed });
        };
        if open.segment != line.segment {
            return Err(FailureKind::Segment(open.segment));
        }
        // Of what is gone nothing can be compared.
        let late = self.segment == 0 && self.gone.is_some();
        let follows = self.closed && open.bytes_before == self.bytes;
        border(begins && (late || follows))
    }

    fn check_end(&self, line: &LogLine, record: &Record) -> Result<bool, FailureKind> {
        let Some(close) = &record.close else {
            // Of `segment` records there are two kinds.
            if record.action == Action::Segment && record.open.is_none() {
                return Err(FailureKind::NotARecord);
            }
            return Ok(false);
        };
        if close.segment != line.segment {
            return Err(FailureKind::Segment(close.segment));
        }
        let agrees = close.first_seq == self.first_seq && close.bytes == line.offset;
        border(agrees && record.action == Action::Segment && record.open.is_none())?;
        Ok(true)
    }

    fn check_prune(&mut self, record: &Record, prune: &PruneDetails) -> Result<(), FailureKind> {
        if record.action != Action::Prune || prune.segment >= self.segment {
            return Err(FailureKind::Prune);
        }
        let Some(gone) = &self.gone else {
            return Ok(());
        };
        if prune.segment == gone.segment && (prune.seq, &prune.head) != (gone.seq, &gone.head) {
            return Err(FailureKind::Prune);
        }
        // Of several segments the last may be left when the power fails.
        self.explained |= prune.segment >= gone.segment;
        Ok(())
    }
}

fn border(is_right: bool) -> Result<(), FailureKind> {
    if is_right {
        Ok(())
    } else {
        Err(FailureKind::Border)
    }
}

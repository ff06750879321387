//! Where segments begin and end.

use super::FailureKind;
use crate::event::Action;
use crate::read::{LogLine, PruneDetails, Record};

/// What is known of segments so far.
#[derive(Default)]
pub(super) struct SegmentBorders {
    /// The one read last, its first record, and its length in bytes.
    segment: u32,
    first_seq: u64,
    bytes: u64,
    /// Its last record closed it.
    closed: bool,
    /// The log begins late: the last segment that is gone, its last record, and
    /// that one's digest in hexadecimal.
    gone: Option<(u32, u64, String)>,
    explained: bool,
}

impl SegmentBorders {
    /// Everything up to record `seq`, whose digest is `head`, is gone.
    pub(super) fn begin_late(&mut self, segment: u32, seq: u64, head: &str) {
        self.gone = Some((segment.saturating_sub(1), seq, head.to_owned()));
    }

    /// The last segment that is gone although no record says that it was pruned.
    pub(super) fn unexplained(&self) -> Option<u32> {
        let (segment, ..) = self.gone.as_ref().filter(|_| !self.explained)?;
        Some(*segment)
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
            return match if begins { may_begin } else { !self.closed } {
                true => Ok(()),
                false => Err(FailureKind::Border),
            };
        };
        if open.segment != line.segment {
            return Err(FailureKind::Segment(open.segment));
        }
        // Of what is gone nothing can be compared.
        let late = self.segment == 0 && self.gone.is_some();
        let follows = self.closed && open.bytes_before == self.bytes;
        match begins && (late || follows) {
            true => Ok(()),
            false => Err(FailureKind::Border),
        }
    }

    fn check_end(&self, line: &LogLine, record: &Record) -> Result<bool, FailureKind> {
        let Some(close) = &record.close else {
            // Of `segment` records there are two kinds.
            return match record.action == Action::Segment && record.open.is_none() {
                true => Err(FailureKind::NotARecord),
                false => Ok(false),
            };
        };
        if close.segment != line.segment {
            return Err(FailureKind::Segment(close.segment));
        }
        let agrees = close.first_seq == self.first_seq && close.bytes == line.offset;
        match agrees && record.action == Action::Segment && record.open.is_none() {
            true => Ok(true),
            false => Err(FailureKind::Border),
        }
    }

    fn check_prune(&mut self, record: &Record, prune: &PruneDetails) -> Result<(), FailureKind> {
        if record.action != Action::Prune || prune.segment >= self.segment {
            return Err(FailureKind::Prune);
        }
        let Some((segment, seq, head)) = &self.gone else {
            return Ok(());
        };
        if prune.segment == *segment && (prune.seq, &prune.head) != (*seq, head) {
            return Err(FailureKind::Prune);
        }
        // Of several segments the last may be left when the power fails.
        self.explained |= prune.segment >= *segment;
        Ok(())
    }
}

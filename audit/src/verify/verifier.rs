//! The chain, followed from record to record.

use super::borders::SegmentBorders;
use super::failure::{FailureKind, VerifyFailure};
use super::parsed_line::{LineContent, ParsedLine};
use super::report::{AcceptedLoss, LogEnd, UnsignedRecords, VerifyReport};
use super::signatures::SignatureClaim;
use crate::certificate::{segment_key, start_key};
use crate::checkpoint::Checkpoint;
use crate::event::Action;
use crate::keys::{EpochPublic, PublicIdentity};
use crate::line::{self, RecordDigest};
use crate::read::LogLine;
use crate::record::{FORMAT, PreviousEnd, Record, SegmentOpen, StartDetails};

/// State of the chain after the records checked so far.
pub(super) struct Verifier<'i> {
    identity: &'i PublicIdentity,
    host: String,
    seq: u64,
    digest: RecordDigest,
    epoch: u64,
    /// Key that signs the next record, unless that brings another.
    key: Option<EpochPublic>,
    last: Option<Action>,
    /// Records up to the last one that no signature vouches for yet.
    unsigned: u64,
    borders: SegmentBorders,
    against: Option<&'i Checkpoint>,
    report: VerifyReport,
}

/// Epoch and key that a record hands over to.
type NextKey = (u64, EpochPublic);

impl<'i> Verifier<'i> {
    pub(super) fn new(identity: &'i PublicIdentity, against: Option<&'i Checkpoint>) -> Self {
        Self {
            identity,
            host: identity.host().to_string(),
            seq: 0,
            digest: [0; 32],
            epoch: 0,
            key: None,
            last: None,
            unsigned: 0,
            borders: SegmentBorders::default(),
            against,
            report: VerifyReport::empty(),
        }
    }

    /// Checks the next line, all but its signature: that goes to `claims`. What
    /// is found after that only counts if the signature is good.
    pub(super) fn check(
        &mut self,
        parsed: &ParsedLine,
        claims: &mut Vec<SignatureClaim>,
    ) -> Result<(), FailureKind> {
        let line = &parsed.line;
        let content = parsed.content.as_ref().map_err(Clone::clone)?;
        let record = &content.record;
        if self.last.is_none() && line.segment > 1 {
            self.begin_late(line.segment, record)?;
        }
        self.check_place(record)?;
        self.borders.check(line, record)?;
        let started = self.check_key(line, record)?;
        if Some(record.epoch) != self.epoch.checked_add(u64::from(started.is_some())) {
            return Err(FailureKind::Epoch);
        }
        let key = started.or(self.key).ok_or(FailureKind::NoStart)?;
        if key.is_weak() {
            return Err(FailureKind::Signature);
        }
        match content.signature {
            Some(signature) => claims.push(SignatureClaim {
                otherwise: self.failure(line, FailureKind::Signature),
                digest: content.digest,
                signature,
                key,
            }),
            None if record.action.must_be_signed() => return Err(FailureKind::Unsigned),
            None => {}
        }
        self.key = Some(key);
        let next = self.check_next(record)?;
        self.check_against(record, content.digest, next.as_ref())?;
        self.note_signature(content);
        self.advance(line, record, content.digest);
        if let Some((epoch, key)) = next {
            (self.epoch, self.key) = (epoch, Some(key));
            self.report.epochs += 1;
        }
        Ok(())
    }

    /// Sequence number of the last record checked.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Sequence number that the next record should have, for messages.
    pub(super) fn next_seq(&self) -> u64 {
        // Unverified numbers may be as great as they like.
        self.seq.saturating_add(1)
    }

    /// The failure `kind` of the next record, which is in `line`.
    pub(super) fn failure(&self, line: &LogLine, kind: FailureKind) -> VerifyFailure {
        VerifyFailure {
            seq: self.next_seq(),
            segment: line.segment,
            line: line.number,
            offset: line.offset,
            kind,
        }
    }

    /// Begins after pruned records: takes their end from the first record, which
    /// a prune record must confirm.
    fn begin_late(&mut self, segment: u32, record: &Record) -> Result<(), FailureKind> {
        let seq = record.seq.checked_sub(1).filter(|&seq| seq > 0);
        self.seq = seq.ok_or(FailureKind::Sequence(record.seq))?;
        hex::decode_to_slice(&record.prev, &mut self.digest).map_err(|_| FailureKind::Chain)?;
        self.epoch = record.epoch.checked_sub(1).ok_or(FailureKind::Epoch)?;
        self.borders.begin_late(segment, self.seq, &record.prev);
        match self.against {
            Some(note) if note.seq <= self.seq => Err(FailureKind::CheckpointPruned),
            _ => Ok(()),
        }
    }

    fn check_place(&self, record: &Record) -> Result<(), FailureKind> {
        if record.v != FORMAT {
            return Err(FailureKind::Version(record.v));
        }
        if Some(record.seq) != self.seq.checked_add(1) {
            return Err(FailureKind::Sequence(record.seq));
        }
        let mut prev = [0; 64];
        // 32 bytes always fill 64 digits.
        let _ = hex::encode_to_slice(self.digest, &mut prev);
        if record.prev.as_bytes() != prev {
            return Err(FailureKind::Chain);
        }
        if record.host != self.host {
            return Err(FailureKind::Host);
        }
        Ok(())
    }

    /// The key that a `start` or the first record of a segment brings.
    fn check_key(
        &self,
        line: &LogLine,
        record: &Record,
    ) -> Result<Option<EpochPublic>, FailureKind> {
        match (record.action, &record.start, &record.open) {
            (Action::Start, Some(start), None) => self.check_start(line, record, start).map(Some),
            (Action::Segment, None, Some(open)) => self.check_open(record, open).map(Some),
            (Action::Start, ..) | (_, Some(_), _) | (_, _, Some(_)) => Err(FailureKind::NotARecord),
            _ => Ok(None),
        }
    }

    fn check_start(
        &self,
        line: &LogLine,
        record: &Record,
        start: &StartDetails,
    ) -> Result<EpochPublic, FailureKind> {
        let key = start_key(self.identity, record, start).map_err(|_| FailureKind::Certificate)?;
        let previous = match self.last {
            // Only the pruned record before it could tell.
            None if line.segment > 1 => start.previous,
            None => PreviousEnd::None,
            Some(Action::Stop) => PreviousEnd::Clean,
            Some(_) => PreviousEnd::Unclean,
        };
        let known = self.last.is_some();
        if start.previous != previous
            || (known && start.unsigned != 0 && start.unsigned != self.unsigned)
        {
            return Err(FailureKind::Previous);
        }
        EpochPublic::from_bytes(&key).ok_or(FailureKind::Certificate)
    }

    fn check_open(&self, record: &Record, open: &SegmentOpen) -> Result<EpochPublic, FailureKind> {
        let key = segment_key(self.identity, record, open).map_err(|_| FailureKind::Certificate)?;
        EpochPublic::from_bytes(&key).ok_or(FailureKind::Certificate)
    }

    /// The key that an `epoch` record hands over to; it counts only if the signature is good.
    fn check_next(&self, record: &Record) -> Result<Option<NextKey>, FailureKind> {
        let next = match &record.next {
            Some(next) if record.action == Action::Epoch => next,
            None if record.action != Action::Epoch => return Ok(None),
            _ => return Err(FailureKind::NotARecord),
        };
        if Some(next.epoch) != record.epoch.checked_add(1) {
            return Err(FailureKind::Epoch);
        }
        let key = line::decode(&next.epoch_key).ok_or(FailureKind::NextKey)?;
        let key = EpochPublic::from_bytes(&key).ok_or(FailureKind::NextKey)?;
        Ok(Some((next.epoch, key)))
    }

    /// Compares the checkpoint's record, once it comes, with the one that was noted.
    fn check_against(
        &mut self,
        record: &Record,
        digest: RecordDigest,
        next: Option<&NextKey>,
    ) -> Result<(), FailureKind> {
        let Some(note) = self.against.filter(|note| note.seq == record.seq) else {
            return Ok(());
        };
        // The key that signs the record after this one has signed the note.
        let (epoch, key) = match next {
            Some((epoch, key)) => (*epoch, Some(key)),
            None => (record.epoch, self.key.as_ref()),
        };
        let same = note.host == self.host && note.head == digest && note.epoch == epoch;
        self.report.anchored = same && key.is_some_and(|key| note.signed_by(key));
        if !self.report.anchored {
            return Err(FailureKind::Checkpoint);
        }
        Ok(())
    }

    /// Notes what a record's signature vouches for, or that it has none.
    fn note_signature(&mut self, content: &LineContent) {
        if content.signature.is_none() {
            self.unsigned += 1;
            return;
        }
        // A start vouches for what is before it, unless it says that it can't.
        if let Some(start) = content.record.start.as_ref().filter(|s| s.unsigned > 0) {
            self.report.unsigned.push(UnsignedRecords {
                first: content.record.seq.saturating_sub(start.unsigned),
                count: start.unsigned,
            });
        }
        self.unsigned = 0;
    }

    fn advance(&mut self, line: &LogLine, record: &Record, digest: RecordDigest) {
        self.seq = record.seq;
        self.digest = digest;
        self.epoch = record.epoch;
        self.last = Some(record.action);
        let report = &mut self.report;
        report.records += 1;
        report.segments = line.segment;
        report.last_seq = record.seq;
        if report.records == 1 {
            report.first_seq = record.seq;
            report.first_time.clone_from(&record.time);
        }
        // Times have one form, in which text has their order.
        if record.time < report.last_time {
            report.times_back += 1;
            report.first_back.get_or_insert(record.seq);
        }
        report.last_time.clone_from(&record.time);
        report.epochs += u64::from(record.start.is_some() || record.open.is_some());
        if let Some(start) = &record.start {
            report.starts += 1;
            report.clean_starts += u64::from(start.previous == PreviousEnd::Clean);
            report.unclean_starts += u64::from(start.previous == PreviousEnd::Unclean);
            report.lost.extend(start.lost.map(|records| AcceptedLoss {
                start: record.seq,
                records,
            }));
        }
        *report
            .counts
            .entry((record.action, record.result))
            .or_default() += 1;
    }

    /// The verdict after the last line.
    pub(super) fn finish(mut self) -> Result<VerifyReport, VerifyFailure> {
        if let Some(segment) = self.borders.unexplained() {
            let seq = self.report.first_seq.saturating_sub(1);
            return Err(VerifyFailure::missing_segment(segment, seq));
        }
        if self.against.is_some() && !self.report.anchored {
            return Err(VerifyFailure::of_log(self.next_seq(), FailureKind::CutOff));
        }
        self.report.head = hex::encode(self.digest);
        self.report.not_signed_yet = self.unsigned;
        self.report.end = match self.last {
            None => return Err(VerifyFailure::of_log(1, FailureKind::Empty)),
            Some(Action::Stop) => LogEnd::Stopped,
            Some(_) if self.borders.closed() => LogEnd::Closed,
            Some(_) => LogEnd::Open,
        };
        Ok(self.report)
    }

    #[cfg(test)]
    pub(super) fn records(&self) -> u64 {
        self.report.records
    }
}

//! Checking a log from the identity's public key alone.
//!
//! What makes the time is signatures, and they can be checked in any order once it
//! is known whose they should be: pipeline has them checked on all cores, while one
//! thread follows the chain from record to record.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::event::{Action, Outcome};
use crate::keys::{EpochClaim, EpochPublic, PublicIdentity, SegmentClaim};
use crate::line::{self, RecordDigest};
use crate::read::{
    LogLine, LogLines, PreviousEnd, Record, SegmentOpen, StartDetails, segment_numbers,
};

mod borders;
mod failure;
mod follow;
mod meter;
mod pipeline;
mod signatures;

use borders::SegmentBorders;
use meter::ProgressMeter;
use pipeline::{ParsedLine, PipelineLimits};
use signatures::SignatureClaim;

pub use failure::{FailureKind, VerifyFailure};
pub use follow::Follower;
pub use meter::VerifyProgress;

/// How a verified log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEnd {
    /// With a stop record.
    Stopped,
    /// Without one: the daemon runs, or it died.
    Open,
    /// With the end of a segment, and no other follows: it was removed, unless
    /// the daemon died in that moment.
    Closed,
}

/// What was checked.
#[derive(Clone, Debug)]
pub struct VerifyReport {
    /// Records.
    pub records: u64,
    /// Segments.
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
    /// Start records.
    pub starts: u64,
    /// Starts after an orderly stop; the very first start is neither.
    pub clean_starts: u64,
    /// Starts after something else than an orderly stop.
    pub unclean_starts: u64,
    /// Epoch keys that signed.
    pub epochs: u64,
    /// Digest of the last record, hexadecimal: equal heads, equal logs.
    pub head: String,
    /// Records by action and result.
    pub counts: BTreeMap<(Action, Outcome), u64>,
    /// How it ends.
    pub end: LogEnd,
    /// Whether a checkpoint vouches for the end. Never yet: records cut off at
    /// the end leave no trace in the log itself, so compare `head` with one noted
    /// elsewhere.
    pub anchored: bool,
}

/// How to verify.
#[derive(Default)]
pub struct VerifyOptions<'a> {
    /// The log must have what this says.
    pub against: Option<&'a Checkpoint>,
    /// Check each signature by itself instead of many in one equation. That takes
    /// longer and refuses also signatures of unusual form, which only the holder
    /// of an epoch's key could have made.
    pub strict: bool,
    /// Called at most ten times a second, and at a good end.
    pub progress: Option<&'a mut dyn FnMut(VerifyProgress)>,
}

/// Checks every record of the log in `dir`: form, sequence, chain, host,
/// certificates and signatures.
///
/// # Errors
/// [`VerifyFailure`] for the first bad record.
pub fn verify(dir: &Path, identity: &PublicIdentity) -> Result<VerifyReport, VerifyFailure> {
    verify_with(dir, identity, VerifyOptions::default())
}

/// The same, and that the log has what `checkpoint` says.
///
/// # Errors
/// As [`verify`]; [`FailureKind::Checkpoint`] and [`FailureKind::CutOff`].
pub fn verify_against(
    dir: &Path,
    identity: &PublicIdentity,
    checkpoint: &Checkpoint,
) -> Result<VerifyReport, VerifyFailure> {
    let options = VerifyOptions {
        against: Some(checkpoint),
        ..VerifyOptions::default()
    };
    verify_with(dir, identity, options)
}

/// The same, as `options` say.
///
/// # Errors
/// As [`verify_against`].
pub fn verify_with(
    dir: &Path,
    identity: &PublicIdentity,
    options: VerifyOptions<'_>,
) -> Result<VerifyReport, VerifyFailure> {
    let mut ignored = |_| {};
    let mut meter = ProgressMeter::new(dir, options.progress.unwrap_or(&mut ignored));
    let mut verifier = Verifier::new(identity);
    verifier.against = options.against;
    let lines = LogLines::open(dir).map_err(|error| nowhere(1, unreadable(&error)))?;
    let limits = PipelineLimits {
        strict: options.strict,
        ..PipelineLimits::default()
    };
    pipeline::run(lines, &mut verifier, limits, &mut |done| meter.show(done))?;
    let report = finish(dir, verifier)?;
    meter.finish();
    Ok(report)
}

fn unreadable(error: &io::Error) -> FailureKind {
    FailureKind::Unreadable(error.to_string())
}

/// A failure that is not a line's.
fn nowhere(seq: u64, kind: FailureKind) -> VerifyFailure {
    VerifyFailure {
        seq,
        segment: 1,
        line: 1,
        offset: 0,
        kind,
    }
}

/// What can only be said after the last line.
fn finish(dir: &Path, verifier: Verifier<'_>) -> Result<VerifyReport, VerifyFailure> {
    check_segments(dir, &verifier)?;
    if let Some(segment) = verifier.borders.unexplained() {
        let seq = verifier.report.first_seq.saturating_sub(1);
        return Err(VerifyFailure {
            segment,
            ..nowhere(seq, FailureKind::MissingSegment)
        });
    }
    if verifier.against.is_some() && !verifier.report.anchored {
        return Err(nowhere(verifier.next_seq(), FailureKind::CutOff));
    }
    verifier
        .finish()
        .ok_or_else(|| nowhere(1, FailureKind::Empty))
}

/// Reading ends at the first gap between segments; none may follow it.
fn check_segments(dir: &Path, verifier: &Verifier<'_>) -> Result<(), VerifyFailure> {
    let failure = |segment, kind| VerifyFailure {
        segment,
        ..nowhere(verifier.next_seq(), kind)
    };
    let numbers = segment_numbers(dir).map_err(|error| failure(1, unreadable(&error)))?;
    let first = numbers.first().copied().unwrap_or(1);
    match (first..).zip(numbers).find(|(want, found)| want != found) {
        Some((missing, _)) => Err(failure(missing, FailureKind::MissingSegment)),
        None => Ok(()),
    }
}

struct Verifier<'i> {
    identity: &'i PublicIdentity,
    host: String,
    seq: u64,
    digest: RecordDigest,
    epoch: u64,
    key: Option<EpochPublic>,
    last: Option<Action>,
    borders: SegmentBorders,
    against: Option<&'i Checkpoint>,
    report: VerifyReport,
}

impl<'i> Verifier<'i> {
    fn new(identity: &'i PublicIdentity) -> Self {
        Self {
            identity,
            host: identity.host().to_string(),
            seq: 0,
            digest: [0; 32],
            epoch: 0,
            key: None,
            last: None,
            borders: SegmentBorders::default(),
            against: None,
            report: VerifyReport {
                records: 0,
                segments: 0,
                first_seq: 0,
                last_seq: 0,
                first_time: String::new(),
                last_time: String::new(),
                starts: 0,
                clean_starts: 0,
                unclean_starts: 0,
                epochs: 0,
                head: String::new(),
                counts: BTreeMap::new(),
                end: LogEnd::Open,
                anchored: false,
            },
        }
    }

    /// Checks the next line, all but its signature: that goes to `claims`. What
    /// is found after that only counts if the signature is good.
    fn check(
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
        claims.push(SignatureClaim {
            otherwise: self.failure(line, FailureKind::Signature),
            digest: content.digest,
            signature: content.signature,
            key,
        });
        self.key = Some(key);
        let next = self.check_next(record)?;
        self.check_against(record, content.digest, next.as_ref())?;
        self.advance(line, record, content.digest);
        if let Some((epoch, key)) = next {
            (self.epoch, self.key) = (epoch, Some(key));
            self.report.epochs += 1;
        }
        Ok(())
    }

    /// What the next record's number should be, for messages.
    fn next_seq(&self) -> u64 {
        // Unverified numbers may be as great as they like.
        self.seq.saturating_add(1)
    }

    /// What is wrong with the next record, which is in `line`.
    fn failure(&self, line: &LogLine, kind: FailureKind) -> VerifyFailure {
        VerifyFailure {
            seq: self.next_seq(),
            segment: line.segment,
            line: line.number,
            offset: line.offset,
            kind,
        }
    }

    /// What came before was pruned: takes its end from the first record, which
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

    fn check_open(&self, record: &Record, open: &SegmentOpen) -> Result<EpochPublic, FailureKind> {
        let key = line::decode(&open.epoch_key).ok_or(FailureKind::Certificate)?;
        let certificate = line::decode(&open.cert).ok_or(FailureKind::Certificate)?;
        let claim = SegmentClaim {
            segment: open.segment,
            epoch: record.epoch,
            key,
        };
        if !self.identity.certified_segment(&claim, &certificate) {
            return Err(FailureKind::Certificate);
        }
        EpochPublic::from_bytes(&key).ok_or(FailureKind::Certificate)
    }

    /// At the checkpoint's record: is it the one that was noted?
    fn check_against(
        &mut self,
        record: &Record,
        digest: RecordDigest,
        next: Option<&(u64, EpochPublic)>,
    ) -> Result<(), FailureKind> {
        let Some(note) = self.against.filter(|note| note.seq == record.seq) else {
            return Ok(());
        };
        // Whose key signs the record after this one, and signed the note.
        let (epoch, key) = match next {
            Some((epoch, key)) => (*epoch, Some(key)),
            None => (record.epoch, self.key.as_ref()),
        };
        let same = note.host == self.host && note.head == digest && note.epoch == epoch;
        self.report.anchored = same && key.is_some_and(|key| note.signed_by(key));
        match self.report.anchored {
            true => Ok(()),
            false => Err(FailureKind::Checkpoint),
        }
    }

    fn check_place(&self, record: &Record) -> Result<(), FailureKind> {
        if record.v != 1 {
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

    fn check_start(
        &self,
        line: &LogLine,
        record: &Record,
        start: &StartDetails,
    ) -> Result<EpochPublic, FailureKind> {
        let key = line::decode(&start.epoch_key).ok_or(FailureKind::Certificate)?;
        let certificate = line::decode(&start.cert).ok_or(FailureKind::Certificate)?;
        let claim = EpochClaim {
            epoch: record.epoch,
            first_seq: record.seq,
            prev: self.digest,
            key,
        };
        if !self.identity.certified(&claim, &certificate) {
            return Err(FailureKind::Certificate);
        }
        let previous = match self.last {
            // Only the pruned record before it could tell.
            None if line.segment > 1 => start.previous,
            None => PreviousEnd::None,
            Some(Action::Stop) => PreviousEnd::Clean,
            Some(_) => PreviousEnd::Unclean,
        };
        if start.previous != previous {
            return Err(FailureKind::Previous);
        }
        EpochPublic::from_bytes(&key).ok_or(FailureKind::Certificate)
    }

    /// The key that an `epoch` record hands over to; its signature is good.
    fn check_next(&self, record: &Record) -> Result<Option<(u64, EpochPublic)>, FailureKind> {
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
        report.last_time.clone_from(&record.time);
        report.epochs += u64::from(record.start.is_some() || record.open.is_some());
        if let Some(start) = &record.start {
            report.starts += 1;
            report.clean_starts += u64::from(start.previous == PreviousEnd::Clean);
            report.unclean_starts += u64::from(start.previous == PreviousEnd::Unclean);
        }
        *report
            .counts
            .entry((record.action, record.result))
            .or_default() += 1;
    }

    fn finish(mut self) -> Option<VerifyReport> {
        self.report.head = hex::encode(self.digest);
        self.report.end = match self.last? {
            Action::Stop => LogEnd::Stopped,
            _ if self.borders.closed() => LogEnd::Closed,
            _ => LogEnd::Open,
        };
        Some(self.report)
    }
}

#[cfg(test)]
use crate::line::{MAX_LINE_BYTES, SignedLine};
#[cfg(test)]
mod attacks;
#[cfg(test)]
mod tests;

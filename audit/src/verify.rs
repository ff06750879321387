//! Checking a log from the identity's public key alone.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::event::{Action, Outcome};
use crate::keys::{EpochClaim, EpochPublic, PublicIdentity};
use crate::line::{self, Link, Signed};
use crate::read::{Line, Lines, Previous, Record, Start, parse};

/// How a verified log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With a stop record.
    Stopped,
    /// Without one: the daemon runs, or it died.
    Open,
}

/// What was checked.
#[derive(Clone, Debug)]
pub struct Report {
    /// Records.
    pub records: u64,
    /// Segments.
    pub segments: u32,
    /// Time of the first record.
    pub first_time: String,
    /// Time of the last record.
    pub last_time: String,
    /// Start records.
    pub starts: u64,
    /// Starts after something else than an orderly stop.
    pub unclean_starts: u64,
    /// Digest of the last record, hexadecimal: equal heads, equal logs.
    pub head: String,
    /// Records by action and result.
    pub counts: BTreeMap<(Action, Outcome), u64>,
    /// How it ends. Records cut off at its end leave no trace in the log
    /// itself; that takes a checkpoint kept elsewhere.
    pub end: End,
}

/// The first record that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The sequence number expected there.
    pub seq: u64,
    /// Segment.
    pub segment: u32,
    /// Line in the segment, from 1.
    pub line: u64,
    /// Offset of the line in the segment, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub kind: FailureKind,
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FailureKind {
    Unreadable(String),
    Empty,
    Torn,
    NotARecord,
    Version(u8),
    Sequence(u64),
    Chain,
    Host,
    Epoch,
    NoStart,
    Certificate,
    Signature,
    Previous,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "the log cannot be read: {error}"),
            Self::Empty => f.write_str("the log has no record"),
            Self::Torn => f.write_str("the line is incomplete or too long"),
            Self::NotARecord => f.write_str("the line is no record"),
            Self::Version(v) => write!(f, "record format {v} is unknown; use a newer jarvisctl"),
            Self::Sequence(found) => write!(f, "record {found} stands here"),
            Self::Chain => f.write_str("it does not follow the record before it"),
            Self::Host => f.write_str("it is another host's record"),
            Self::Epoch => f.write_str("it is of another epoch"),
            Self::NoStart => f.write_str("no start record certifies its key"),
            Self::Certificate => f.write_str("the host's identity did not certify its epoch key"),
            Self::Signature => f.write_str("the signature does not match"),
            Self::Previous => f.write_str("it misreports how the log ended before"),
        }
    }
}

impl fmt::Display for Failure {
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

impl std::error::Error for Failure {}

/// Checks every record of the log in `dir`: form, sequence, chain, host,
/// certificates and signatures.
///
/// # Errors
/// [`Failure`] for the first bad record.
pub fn verify(dir: &Path, identity: &PublicIdentity) -> Result<Report, Failure> {
    let mut verifier = Verifier::new(identity);
    let unreadable = |seq, kind| Failure {
        seq,
        segment: 1,
        line: 1,
        offset: 0,
        kind,
    };
    let lines =
        Lines::open(dir).map_err(|e| unreadable(1, FailureKind::Unreadable(e.to_string())))?;
    for line in lines {
        let line =
            line.map_err(|e| unreadable(verifier.seq + 1, FailureKind::Unreadable(e.to_string())))?;
        verifier.check(&line).map_err(|kind| Failure {
            seq: verifier.seq + 1,
            segment: line.segment,
            line: line.number,
            offset: line.offset,
            kind,
        })?;
    }
    verifier
        .finish()
        .ok_or_else(|| unreadable(1, FailureKind::Empty))
}

struct Verifier<'i> {
    identity: &'i PublicIdentity,
    host: String,
    seq: u64,
    link: Link,
    epoch: u64,
    key: Option<EpochPublic>,
    last: Option<Action>,
    report: Report,
}

impl<'i> Verifier<'i> {
    fn new(identity: &'i PublicIdentity) -> Self {
        Self {
            identity,
            host: identity.host().to_string(),
            seq: 0,
            link: [0; 32],
            epoch: 0,
            key: None,
            last: None,
            report: Report {
                records: 0,
                segments: 0,
                first_time: String::new(),
                last_time: String::new(),
                starts: 0,
                unclean_starts: 0,
                head: String::new(),
                counts: BTreeMap::new(),
                end: End::Open,
            },
        }
    }

    fn check(&mut self, line: &Line) -> Result<(), FailureKind> {
        if !line.complete {
            return Err(FailureKind::Torn);
        }
        let signed = Signed::split(&line.bytes).ok_or(FailureKind::NotARecord)?;
        let record = parse(&signed).map_err(|_| FailureKind::NotARecord)?;
        self.check_place(&record)?;
        let started = match &record.start {
            Some(start) if record.action == Action::Start => {
                Some(self.check_start(&record, start)?)
            }
            None if record.action != Action::Start => None,
            _ => return Err(FailureKind::NotARecord),
        };
        let key = started.as_ref().or(self.key.as_ref());
        if record.epoch != self.epoch + u64::from(started.is_some()) {
            return Err(FailureKind::Epoch);
        }
        if !signed.signed_by(key.ok_or(FailureKind::NoStart)?) {
            return Err(FailureKind::Signature);
        }
        self.key = started.or(self.key.take());
        self.advance(line, &record, signed.link());
        Ok(())
    }

    fn check_place(&self, record: &Record) -> Result<(), FailureKind> {
        if record.v != 1 {
            return Err(FailureKind::Version(record.v));
        }
        if record.seq != self.seq + 1 {
            return Err(FailureKind::Sequence(record.seq));
        }
        if record.prev != hex::encode(self.link) {
            return Err(FailureKind::Chain);
        }
        if record.host != self.host {
            return Err(FailureKind::Host);
        }
        Ok(())
    }

    fn check_start(&self, record: &Record, start: &Start) -> Result<EpochPublic, FailureKind> {
        let key = line::decode(&start.epoch_key).ok_or(FailureKind::Certificate)?;
        let certificate = line::decode(&start.cert).ok_or(FailureKind::Certificate)?;
        let claim = EpochClaim {
            epoch: record.epoch,
            first_seq: record.seq,
            prev: &self.link,
            key: &key,
        };
        if !self.identity.certified(&claim, &certificate) {
            return Err(FailureKind::Certificate);
        }
        let previous = match self.last {
            None => Previous::None,
            Some(Action::Stop) => Previous::Clean,
            Some(_) => Previous::Unclean,
        };
        if start.previous != previous {
            return Err(FailureKind::Previous);
        }
        EpochPublic::from_bytes(&key).ok_or(FailureKind::Certificate)
    }

    fn advance(&mut self, line: &Line, record: &Record, link: Link) {
        self.seq = record.seq;
        self.link = link;
        self.epoch = record.epoch;
        self.last = Some(record.action);
        let report = &mut self.report;
        report.records += 1;
        report.segments = line.segment;
        if report.first_time.is_empty() {
            report.first_time.clone_from(&record.time);
        }
        report.last_time.clone_from(&record.time);
        if let Some(start) = &record.start {
            report.starts += 1;
            report.unclean_starts += u64::from(start.previous == Previous::Unclean);
        }
        *report
            .counts
            .entry((record.action, record.result))
            .or_default() += 1;
    }

    fn finish(mut self) -> Option<Report> {
        self.report.head = hex::encode(self.link);
        self.report.end = match self.last? {
            Action::Stop => End::Stopped,
            _ => End::Open,
        };
        Some(self.report)
    }
}

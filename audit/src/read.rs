//! Records as a reader sees them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::event::{Action, Outcome};
use crate::line::{MAX_LINE_BYTES, SignedLine};

/// How the log ended before a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreviousEnd {
    /// There was no record.
    None,
    /// With a stop record.
    Clean,
    /// Without one: a crash, a kill or a power loss.
    Unclean,
}

/// What a `start` record carries besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartDetails {
    /// Version of the daemon.
    pub daemon: String,
    /// Number of the segment the record is in.
    pub segment: u32,
    /// How the log ended before.
    pub previous: PreviousEnd,
    /// Bytes of an incomplete last record that were set aside.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub torn_bytes: u64,
    /// The epoch's public key, base64url.
    pub epoch_key: String,
    /// The identity key's certificate for it, base64url.
    pub cert: String,
}

/// What an `epoch` record carries besides: the key of the record after it. The
/// old key's signature over the record vouches for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextEpoch {
    /// Number of the epoch that begins.
    pub epoch: u64,
    /// Its public key, base64url.
    pub epoch_key: String,
}

/// What a `segment` record carries that ends one: no record of this segment
/// comes after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentClose {
    /// Number of the segment.
    pub segment: u32,
    /// Sequence number of its first record.
    pub first_seq: u64,
    /// Its length in bytes before this record.
    pub bytes: u64,
}

/// What a `segment` record carries that begins one, with a new epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentOpen {
    /// Number of the segment.
    pub segment: u32,
    /// Length of the segment before it in bytes.
    pub bytes_before: u64,
    /// The epoch's public key, base64url.
    pub epoch_key: String,
    /// The identity key's certificate for it, base64url.
    pub cert: String,
}

/// What a `prune` record carries: the end of what was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneDetails {
    /// Number of the last segment that was removed, with all before it.
    pub segment: u32,
    /// Sequence number of its last record.
    pub seq: u64,
    /// Digest of that record, hexadecimal.
    pub head: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A record, owned. Fields of later releases are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Format, 1.
    pub v: u8,
    /// Counts from 1.
    pub seq: u64,
    /// Digest of the record before, hexadecimal.
    pub prev: String,
    /// RFC 3339, UTC, microseconds.
    pub time: String,
    /// Host id.
    pub host: String,
    /// Epoch.
    pub epoch: u64,
    /// The vault's last commit that is recorded.
    pub vault_seq: u64,
    /// What happened.
    pub action: Action,
    /// How it ended.
    pub result: Outcome,
    /// Name of the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Id of the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Its key id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// Caller's user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Caller's group id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Caller's process id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Caller's systemd unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Caller's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Path of the caller's program, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Client of the policy that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Its pattern, or `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What the caller got, as in errno(3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// More, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many events this record stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The kernel sent the request a second time.
    #[serde(default)]
    pub resent: bool,
    /// Written after the fact, for a change whose record was lost in a crash.
    #[serde(default)]
    pub recovered: bool,
    /// Of `start` records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<StartDetails>,
    /// Of `epoch` records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextEpoch>,
    /// Of the last record of a segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close: Option<SegmentClose>,
    /// Of the first record of a segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<SegmentOpen>,
    /// Of `prune` records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<PruneDetails>,
}

/// The file of segment `number` in `dir`.
pub(crate) fn segment_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08}.jsonl"))
}

/// The numbers of the segments in `dir`, ascending.
pub(crate) fn segment_numbers(dir: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(segment_number));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".jsonl")?;
    let plain = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit());
    let number = plain.then(|| digits.parse().ok()).flatten();
    number.filter(|&number| number > 0)
}

/// One line and where it stands.
pub(crate) struct LogLine {
    pub(crate) segment: u32,
    /// Counts from 1 within the segment.
    pub(crate) number: u64,
    /// Of its first byte in the segment.
    pub(crate) offset: u64,
    /// Without its newline.
    pub(crate) bytes: Vec<u8>,
    /// Whether it ended with a newline within [`MAX_LINE_BYTES`].
    pub(crate) complete: bool,
}

/// The lines of all segments in order, each bounded.
pub(crate) struct LogLines {
    dir: PathBuf,
    segment: u32,
    number: u64,
    offset: u64,
    file: Option<BufReader<File>>,
}

impl LogLines {
    /// # Errors
    /// When the first segment can't be opened.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let mut lines = Self {
            dir: dir.to_owned(),
            // What was pruned is not missing: the verifier knows what was.
            segment: segment_numbers(dir)?.first().copied().unwrap_or(1) - 1,
            number: 0,
            offset: 0,
            file: None,
        };
        lines.next_segment()?;
        Ok(lines)
    }

    /// Number of the segment that is read.
    pub(crate) fn segment(&self) -> u32 {
        self.segment
    }

    /// The next line, unless it is not complete yet: then it is read again.
    pub(crate) fn next_complete(&mut self) -> io::Result<Option<LogLine>> {
        let Some(line) = self.read_line()? else {
            return Ok(None);
        };
        if line.complete || line.bytes.len() >= MAX_LINE_BYTES {
            return Ok(Some(line));
        }
        (self.number, self.offset) = (self.number - 1, line.offset);
        if let Some(file) = &mut self.file {
            file.seek(io::SeekFrom::Start(line.offset))?;
        }
        Ok(None)
    }

    pub(crate) fn next_segment(&mut self) -> io::Result<()> {
        let file = File::open(segment_path(&self.dir, self.segment + 1))?;
        self.segment += 1;
        (self.number, self.offset) = (0, 0);
        self.file = Some(BufReader::with_capacity(64 * 1024, file));
        Ok(())
    }

    fn read_line(&mut self) -> io::Result<Option<LogLine>> {
        let Some(file) = &mut self.file else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let read = file
            .take(MAX_LINE_BYTES as u64)
            .read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        let offset = self.offset;
        self.offset += read as u64;
        self.number += 1;
        let complete = bytes.pop_if(|last| *last == b'\n').is_some();
        Ok(Some(LogLine {
            segment: self.segment,
            number: self.number,
            offset,
            bytes,
            complete,
        }))
    }
}

impl Iterator for LogLines {
    type Item = io::Result<LogLine>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.read_line() {
                Ok(Some(line)) => return Some(Ok(line)),
                Err(error) => {
                    self.file = None;
                    return Some(Err(error));
                }
                Ok(None) => match self.file.is_some().then(|| self.next_segment()) {
                    Some(Ok(())) => {}
                    Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                        self.file = None;
                        return Some(Err(error));
                    }
                    _ => return None,
                },
            }
        }
    }
}

/// Parses the payload of a split line.
pub(crate) fn parse(signed: &SignedLine) -> Result<Record, serde_json::Error> {
    serde_json::from_slice(&signed.payload)
}

/// Records in order, not verified: for queries over a log that
/// [`crate::verify`] accepted.
pub struct Records(LogLines);

/// The records of the log in `dir`.
///
/// # Errors
/// When the first segment can't be opened.
pub fn read_records(dir: &Path) -> io::Result<Records> {
    LogLines::open(dir).map(Records)
}

impl Iterator for Records {
    type Item = io::Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = match self.0.next()? {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        let record = SignedLine::split(&line.bytes).and_then(|signed| parse(&signed).ok());
        let place = || {
            format!(
                "segment {}, line {} is no record",
                line.segment, line.number
            )
        };
        Some(record.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, place())))
    }
}

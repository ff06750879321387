//! Records that somebody else knows the log to have: without them it lost its end, or
//! it is another log.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use super::error::{OpenError, io_error};
use super::tail::{self, ResumePoint, Tail};
use crate::keys::HostId;
use crate::line::{MAX_LINE_BYTES, RecordDigest, RecordLine};
use crate::read::{segment_numbers, segment_path};

/// A record and its digest, for others to remember how far the log had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMark {
    /// Sequence number of the record.
    pub seq: u64,
    /// Digest of the record.
    pub head: RecordDigest,
}

/// A record that was on disk when somebody took note of it.
#[derive(Clone, Copy, Debug)]
pub struct KnownRecord<'a> {
    /// The one that took note, for messages.
    pub source: &'a str,
    /// Host whose log it was in.
    pub host: HostId,
    /// The record.
    pub mark: RecordMark,
}

/// Checks that the log in `dir`, which ends at `resume`, is `host`'s and has the record
/// that is `known`.
///
/// # Errors
/// [`OpenError::Lost`], [`OpenError::Replaced`], [`OpenError::OtherIdentity`].
pub(super) fn check(
    dir: &Path,
    resume: &ResumePoint,
    host: HostId,
    known: &KnownRecord<'_>,
) -> Result<(), OpenError> {
    let (source, seq) = (known.source.to_owned(), known.mark.seq);
    if known.host != host {
        return Err(OpenError::OtherIdentity {
            source_of: source,
            known: known.host,
            seq,
            own: host,
        });
    }
    let found = resume.tail.map_or(0, |tail| tail.seq);
    if found < seq {
        return Err(OpenError::Lost {
            source_of: source,
            known: seq,
            found,
        });
    }
    match digest_of(dir, resume.tail, seq)? {
        Some(digest) if digest != known.mark.head => Err(OpenError::Replaced {
            source_of: source,
            seq,
        }),
        // What was pruned since is not lost.
        _ => Ok(()),
    }
}

/// The digest of record `seq`; `None` when it was pruned.
fn digest_of(dir: &Path, tail: Option<Tail>, seq: u64) -> Result<Option<RecordDigest>, OpenError> {
    if let Some(tail) = tail.filter(|tail| tail.seq == seq) {
        return Ok(Some(tail.digest));
    }
    let numbers = segment_numbers(dir).map_err(io_error("list", dir))?;
    for number in numbers.into_iter().rev() {
        let path = segment_path(dir, number);
        let file = File::open(&path).map_err(io_error("open", &path))?;
        let first = tail::first_record(&file, &path)?;
        if let Some(first) = first.filter(|first| first.seq <= seq) {
            let file = File::open(&path).map_err(io_error("open", &path))?;
            let line = nth_line(file, seq - first.seq).map_err(io_error("read", &path))?;
            // A line that is none has no digest that anybody could know.
            let digest = RecordLine::split(&line).map(|signed| signed.digest());
            return Ok(Some(digest.unwrap_or_default()));
        }
    }
    Ok(None)
}

/// Line `n` of `file`, from 0, without its newline.
fn nth_line(file: File, n: u64) -> io::Result<Vec<u8>> {
    let mut lines = BufReader::with_capacity(64 * 1024, file);
    for _ in 0..n {
        lines.skip_until(b'\n')?;
    }
    let mut line = Vec::new();
    lines
        .take(MAX_LINE_BYTES as u64)
        .read_until(b'\n', &mut line)?;
    line.pop_if(|last| *last == b'\n');
    Ok(line)
}

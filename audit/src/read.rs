//! The log's files, read line by line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use crate::line::{MAX_LINE_BYTES, RecordLine};
use crate::record::Record;

/// Bytes read ahead from a file.
const BUFFER_BYTES: usize = 64 * 1024;

/// Path of segment `number` in `dir`.
pub(crate) fn segment_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08}.jsonl"))
}

/// Numbers of the segments in `dir`, ascending.
pub(crate) fn segment_numbers(dir: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(segment_number));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Number of the last segment in `dir`, as the names there say.
///
/// # Errors
/// What the system says.
pub fn last_segment(dir: &Path) -> io::Result<Option<u32>> {
    Ok(segment_numbers(dir)?.last().copied())
}

fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".jsonl")?;
    let plain = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit());
    let number = plain.then(|| digits.parse().ok()).flatten();
    number.filter(|&number| number > 0)
}

/// One line and its place in the log.
pub(crate) struct LogLine {
    pub(crate) segment: u32,
    /// Number of the line in its segment, from 1.
    pub(crate) number: u64,
    /// Offset of the line in the segment, in bytes.
    pub(crate) offset: u64,
    /// The line without its newline.
    pub(crate) bytes: Vec<u8>,
    /// True if it ended with a newline within [`MAX_LINE_BYTES`].
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
    /// Opens the log in `dir` at its first segment.
    ///
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

    /// Segment and offset of the next line.
    pub(crate) fn place(&self) -> (u32, u64) {
        (self.segment, self.offset)
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
        self.file = Some(BufReader::with_capacity(BUFFER_BYTES, file));
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
pub(crate) fn parse(line: &RecordLine<'_>) -> Result<Record, serde_json::Error> {
    serde_json::from_slice(&line.payload())
}

/// Records in order, not verified: for queries over a log that
/// [`crate::verify()`] accepted.
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
        let record = RecordLine::split(&line.bytes).and_then(|signed| parse(&signed).ok());
        let place = || {
            format!(
                "segment {}, line {} is no record",
                line.segment, line.number
            )
        };
        Some(record.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, place())))
    }
}

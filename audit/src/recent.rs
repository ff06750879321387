//! The end of a log, however long the log is.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::line::{MAX_LINE_BYTES, RecordLine};
use crate::read::{parse, segment_numbers, segment_path};
use crate::record::Record;

/// The records in the newest `most` bytes of the log in `dir`, the oldest first.
/// They are not verified, and what is no record is left out.
///
/// # Errors
/// When the segments can't be listed.
pub fn recent_records(dir: &Path, most: u64) -> io::Result<impl Iterator<Item = Record>> {
    let mut pieces = Vec::new();
    let mut wanted = most;
    for number in segment_numbers(dir)?.into_iter().rev() {
        let path = segment_path(dir, number);
        // Old ones may be removed meanwhile.
        let Ok(len) = path.metadata().map(|file| file.len()) else {
            break;
        };
        pieces.push((path, len.saturating_sub(wanted)));
        wanted = wanted.saturating_sub(len);
        if wanted == 0 {
            break;
        }
    }
    let lines = pieces
        .into_iter()
        .rev()
        .filter_map(SegmentLines::open)
        .flatten();
    Ok(lines.filter_map(|line| parse(&RecordLine::split(&line)?).ok()))
}

/// SegmentLines of one segment, each bounded; a longer one comes in pieces.
struct SegmentLines(BufReader<File>);

impl SegmentLines {
    /// From the first line on that begins at or after `from`.
    fn open((path, from): (PathBuf, u64)) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        // The byte before tells whether a line begins at `from`.
        file.seek(SeekFrom::Start(from.saturating_sub(1))).ok()?;
        let mut lines = Self(BufReader::with_capacity(64 * 1024, file));
        if from > 0 {
            lines.next();
        }
        Some(lines)
    }
}

impl Iterator for SegmentLines {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        let bounded = &mut (&mut self.0).take(MAX_LINE_BYTES as u64);
        bounded.read_until(b'\n', &mut line).ok()?;
        let read = !line.is_empty();
        line.pop_if(|last| *last == b'\n');
        read.then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{LogHome, filled};

    fn seqs(home: &LogHome, most: u64) -> Vec<u64> {
        let records = recent_records(home.path(), most).unwrap();
        records.map(|record| record.seq).collect()
    }

    #[test]
    fn only_whole_records_within_the_bound_come() {
        let home = filled(5);
        let lines = home.lines();
        let last = lines.iter().rev().map(|line| line.len() as u64);
        let (one, two) = (last.clone().take(1).sum(), last.clone().take(2).sum());
        assert_eq!(seqs(&home, one), [7]);
        assert_eq!(seqs(&home, two - 1), [7]);
        assert_eq!(seqs(&home, two), [6, 7]);
        assert_eq!(seqs(&home, last.sum()), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(seqs(&home, u64::MAX).len(), 7);
        assert!(seqs(&home, 0).is_empty());
    }

    #[test]
    fn segments_come_in_order_and_only_as_far_back_as_needed() {
        let home = filled(5);
        let lines = home.lines();
        home.put(&lines[..4].concat());
        std::fs::write(segment_path(home.path(), 2), lines[4..].concat()).unwrap();
        assert_eq!(seqs(&home, u64::MAX), [1, 2, 3, 4, 5, 6, 7]);
        let second: u64 = lines[4..].iter().map(|line| line.len() as u64).sum();
        assert_eq!(seqs(&home, second), [5, 6, 7]);
        assert_eq!(seqs(&home, second + lines[3].len() as u64), [4, 5, 6, 7]);
    }

    #[test]
    fn what_is_no_record_is_left_out() {
        let home = filled(2);
        let lines = home.lines();
        let long = [vec![b'x'; 3 * MAX_LINE_BYTES], b"\n".to_vec()].concat();
        let cut = &lines[3][..40];
        let bytes = [&lines[0], &long, &lines[1], &b"\n"[..], &lines[2], cut].concat();
        home.put(&bytes);
        assert_eq!(seqs(&home, u64::MAX), [1, 2, 3]);
    }
}

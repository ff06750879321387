//! A log that grows, verified record by record.

use std::io;
use std::path::{Path, PathBuf};

use super::failure::VerifyFailure;
use super::parsed_line::ParsedLine;
use super::pipeline::{self, PipelineLimits};
use super::signatures::check_each;
use super::verifier::Verifier;
use crate::keys::PublicIdentity;
use crate::line::RecordLine;
use crate::read::{LogLine, LogLines, last_segment, parse, segment_path};
use crate::record::Record;

/// Reads a log while somebody writes it.
pub struct Follower<'i> {
    dir: PathBuf,
    lines: LogLines,
    verifier: Verifier<'i>,
}

/// Iterator over the complete lines that are there now.
struct SoFar<'l> {
    dir: &'l Path,
    lines: &'l mut LogLines,
    /// Lines that begin here or later are not wanted.
    end: Option<LogPlace>,
}

/// Place in a log: a segment, and an offset in it in bytes.
type LogPlace = (u32, u64);

impl SoFar<'_> {
    fn read(&mut self) -> io::Result<Option<LogLine>> {
        loop {
            if self.end.is_some_and(|end| self.lines.place() >= end) {
                return Ok(None);
            }
            if let Some(line) = self.lines.next_complete()? {
                return Ok(Some(line));
            }
            // A segment gets its first byte after the last one of the one before:
            // what has come of that since is read before it is left.
            let next = segment_path(self.dir, self.lines.segment() + 1);
            if !next.metadata().is_ok_and(|metadata| metadata.len() > 0) {
                return Ok(None);
            }
            if let Some(line) = self.lines.next_complete()? {
                return Ok(Some(line));
            }
            self.lines.next_segment()?;
        }
    }
}

impl Iterator for SoFar<'_> {
    type Item = io::Result<LogLine>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

impl<'i> Follower<'i> {
    /// Verifies what the log in `dir` has so far. What is written meanwhile comes from
    /// [`Self::next_record`], as all that is written later.
    ///
    /// # Errors
    /// [`VerifyFailure`] for the first bad record, or when there is none yet.
    pub fn new(dir: &Path, identity: &'i PublicIdentity) -> Result<Self, VerifyFailure> {
        let end = end_of(dir).map_err(|error| VerifyFailure::unreadable(1, &error))?;
        Self::after(dir, identity, end)
    }

    /// Verifies the lines that begin before `end`.
    fn after(
        dir: &Path,
        identity: &'i PublicIdentity,
        end: LogPlace,
    ) -> Result<Self, VerifyFailure> {
        let lines = LogLines::open(dir).map_err(|error| VerifyFailure::unreadable(1, &error))?;
        let mut follower = Self {
            dir: dir.to_owned(),
            lines,
            verifier: Verifier::new(identity, None),
        };
        let so_far = SoFar {
            dir: &follower.dir,
            lines: &mut follower.lines,
            end: Some(end),
        };
        let verifier = &mut follower.verifier;
        pipeline::run(so_far, verifier, PipelineLimits::default(), &mut |_| {})?;
        Ok(follower)
    }

    /// Sequence number of the last record that was verified.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.verifier.seq()
    }

    /// The next record, verified; `None` while there is none yet.
    ///
    /// # Errors
    /// [`VerifyFailure`]; nothing comes after it.
    pub fn next_record(&mut self) -> Result<Option<Record>, VerifyFailure> {
        let mut so_far = SoFar {
            dir: &self.dir,
            lines: &mut self.lines,
            end: None,
        };
        let next_seq = self.verifier.next_seq();
        let line = so_far.read();
        let line = line.map_err(|error| VerifyFailure::unreadable(next_seq, &error))?;
        let Some(line) = line else {
            return Ok(None);
        };
        let (parsed, mut claims) = (ParsedLine::new(line), Vec::new());
        let checked = self.verifier.check(&parsed, &mut claims);
        // A bad signature comes before what the record says.
        check_each(&claims)?;
        checked.map_err(|kind| self.verifier.failure(&parsed.line, kind))?;
        // With all that it says.
        Ok(RecordLine::split(&parsed.line.bytes).and_then(|line| parse(&line).ok()))
    }
}

fn end_of(dir: &Path) -> io::Result<LogPlace> {
    let last = last_segment(dir)?.unwrap_or_default();
    let len = match segment_path(dir, last).metadata() {
        Ok(metadata) => metadata.len(),
        // Its reader says what is wrong with it.
        Err(_) => 0,
    };
    Ok((last, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{LogHome, filled, identity, read};
    use crate::{Durability, FailureKind};

    #[test]
    fn records_come_as_they_are_written_also_over_segments() {
        let home = LogHome::new();
        let log = home.open(7).unwrap();
        let public = identity().public();
        let mut follower = Follower::new(home.path(), &public).unwrap();
        assert_eq!(follower.seq(), 1);
        assert!(follower.next_record().unwrap().is_none());
        for uid in 0..3 {
            log.append(&read(uid), Durability::Write).unwrap();
            assert_eq!(follower.next_record().unwrap().unwrap().uid, Some(uid));
            log.rotate_segment(&identity()).unwrap();
            for action in ["close", "open"] {
                let border = follower.next_record().unwrap().unwrap();
                assert_eq!(border.close.is_some(), action == "close");
            }
            assert!(follower.next_record().unwrap().is_none());
        }
        log.stop(7, None).unwrap();
        assert_eq!(follower.next_record().unwrap().unwrap().seq, 11);
        drop(log);
        home.open(7).unwrap();
        assert!(follower.next_record().unwrap().unwrap().start.is_some());
    }

    #[test]
    fn what_is_written_while_it_catches_up_is_shown() {
        let home = LogHome::new();
        let log = home.open(7).unwrap();
        log.append(&read(1), Durability::Write).unwrap();
        let begun = end_of(home.path()).unwrap();
        log.append(&read(2), Durability::Write).unwrap();
        log.rotate_segment(&identity()).unwrap();
        log.append(&read(3), Durability::Write).unwrap();
        let public = identity().public();
        let mut follower = Follower::after(home.path(), &public, begun).unwrap();
        assert_eq!(follower.seq(), 2);
        let mut shown = Vec::new();
        while let Some(record) = follower.next_record().unwrap() {
            shown.push(record.seq);
        }
        assert_eq!(shown, [3, 4, 5, 6]);
    }

    #[test]
    fn half_a_line_is_waited_for_and_a_bad_one_found() {
        let home = filled(3);
        let public = identity().public();
        let (whole, lines) = (home.bytes(), home.lines());
        home.put(&whole[..whole.len() - 10]);
        let mut follower = Follower::new(home.path(), &public).unwrap();
        assert_eq!(follower.seq(), 4);
        assert!(follower.next_record().unwrap().is_none());
        home.put(&whole);
        assert_eq!(follower.next_record().unwrap().unwrap().seq, 5);

        home.put(&lines[..4].concat());
        let mut follower = Follower::new(home.path(), &public).unwrap();
        let mut bad = whole.clone();
        // Another signature, and still one by its letters.
        let letter = &mut bad[whole.len() - 20];
        *letter = if *letter == b'A' { b'B' } else { b'A' };
        home.put(&bad);
        let failure = follower.next_record().unwrap_err();
        assert_eq!((failure.seq, failure.kind), (5, FailureKind::Signature));
        assert!(Follower::new(home.path(), &public).is_err());
    }
}

//! The end of the log, in memory that outlives its writer.
//!
//! Records are written without a signature of their own ([`super::signing`]); until one
//! follows, only this memory tells that nobody changed them. Before a batch of lines is
//! written the end that it will have is noted, and once it is in the file that this is the
//! end now; only then is anything released. Whoever is killed at any point in between
//! leaves a log that ends in one of the two places.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use jarvis_sys::SharedWords;
use rustix::io::{Errno, Result};

use crate::line::RecordDigest;

/// Name of the memory, as /proc shows it.
const NAME: &str = "jarvis-log-head";
/// Words of a place: sequence number, segment, length, digest.
const MARK_WORDS: usize = 7;
/// Words of a cell: how often it was set, then two places, of which the one set last counts.
const CELL_WORDS: usize = 1 + 2 * MARK_WORDS;
const WORDS: usize = 2 * CELL_WORDS;

/// A record as the end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadMark {
    /// Sequence number of the record.
    pub seq: u64,
    /// Digest of the record.
    pub digest: RecordDigest,
    /// Number of the segment it is in.
    pub segment: u32,
    /// Length of the segment in bytes, the record included.
    pub len: u64,
}

impl HeadMark {
    /// Words that tell of no record.
    const NOTHING: [u64; MARK_WORDS] = [0; MARK_WORDS];

    fn words(&self) -> [u64; MARK_WORDS] {
        let mut words = [self.seq, self.segment.into(), self.len, 0, 0, 0, 0];
        let (digest, _) = self.digest.as_chunks();
        for (word, bytes) in words.iter_mut().skip(3).zip(digest) {
            *word = u64::from_be_bytes(*bytes);
        }
        words
    }

    fn of(words: &[u64; MARK_WORDS]) -> Option<Self> {
        let [seq, segment, len, rest @ ..] = words;
        let mut digest = [0; 32];
        let (chunks, _) = digest.as_chunks_mut();
        for (bytes, word) in chunks.iter_mut().zip(rest) {
            *bytes = word.to_be_bytes();
        }
        Some(Self {
            seq: Some(*seq).filter(|&seq| seq > 0)?,
            digest,
            segment: u32::try_from(*segment).ok()?,
            len: *len,
        })
    }
}

/// A log's end, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownHead {
    /// The last record of which anybody may know.
    pub written: HeadMark,
    /// The last record of the batch that was written last, or was about to be: the log may
    /// end with it as well.
    pub intended: Option<HeadMark>,
}

impl KnownHead {
    /// Whether a log may end with record `seq` that has `digest`.
    #[must_use]
    pub fn allows(&self, seq: u64, digest: &RecordDigest) -> bool {
        let is = |mark: HeadMark| mark.seq == seq && mark.digest == *digest;
        is(self.written) || self.intended.is_some_and(is)
    }
}

/// Memory with the end of the log. One process writes it at a time, the one that has the
/// log open.
pub struct LogHead(SharedWords);

/// The two things that are noted.
#[derive(Clone, Copy)]
enum HeadCell {
    Written,
    Intended,
}

impl LogHead {
    /// Memory of a log of which nothing is known yet.
    ///
    /// # Errors
    /// The kernel's errno from memfd_create, ftruncate, seal or mmap.
    pub fn create() -> Result<Self> {
        SharedWords::create(NAME, WORDS).map(Self)
    }

    /// Maps the memory behind `fd`, which another process made.
    ///
    /// # Errors
    /// EINVAL when it is none of this release; otherwise the errno of mmap.
    pub fn map(fd: OwnedFd) -> Result<Self> {
        let words = SharedWords::map(fd)?;
        if words.as_ref().len() == WORDS {
            Ok(Self(words))
        } else {
            Err(Errno::INVAL)
        }
    }

    /// The memory, to be passed to another process.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }

    /// The log's end, as far as it is known; `None` while nothing is.
    #[must_use]
    pub fn known(&self) -> Option<KnownHead> {
        Some(KnownHead {
            written: self.read(HeadCell::Written)?,
            intended: self.read(HeadCell::Intended),
        })
    }

    /// Notes the end that the log is about to have.
    pub(super) fn intend(&self, mark: &HeadMark) {
        self.set(HeadCell::Intended, &mark.words());
    }

    /// Notes the end that the log has.
    pub(super) fn note_written(&self, mark: &HeadMark) {
        self.set(HeadCell::Written, &mark.words());
    }

    /// Notes the end that the log has again, after what was written was taken back: `None`
    /// when there is no record.
    pub(super) fn go_back(&self, mark: Option<&HeadMark>) {
        let words = mark.map_or(HeadMark::NOTHING, HeadMark::words);
        self.set(HeadCell::Written, &words);
    }

    fn cell(&self, cell: HeadCell) -> Option<(&AtomicU64, &[AtomicU64])> {
        let (written, intended) = self.0.as_ref().split_at_checked(CELL_WORDS)?;
        match cell {
            HeadCell::Written => written.split_first(),
            HeadCell::Intended => intended.split_first(),
        }
    }

    fn set(&self, cell: HeadCell, mark: &[u64; MARK_WORDS]) {
        let Some((count, places)) = self.cell(cell) else {
            return;
        };
        // The place that does not count: it does only once all of it is there.
        let next = count.load(Ordering::Acquire).wrapping_add(1);
        let place = places.chunks(MARK_WORDS).nth(usize::from(next % 2 == 1));
        for (word, value) in place.into_iter().flatten().zip(mark) {
            word.store(*value, Ordering::Relaxed);
        }
        // Nor does a store of the next mark, to the other place, come before this one.
        count.swap(next, Ordering::AcqRel);
    }

    fn read(&self, cell: HeadCell) -> Option<HeadMark> {
        let (count, places) = self.cell(cell)?;
        let last = count.load(Ordering::Acquire);
        let place = places.chunks(MARK_WORDS).nth(usize::from(last % 2 == 1))?;
        let mut words = HeadMark::NOTHING;
        for (value, word) in words.iter_mut().zip(place) {
            *value = word.load(Ordering::Relaxed);
        }
        HeadMark::of(&words)
    }
}

impl std::fmt::Debug for LogHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.known().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(seq: u64) -> HeadMark {
        HeadMark {
            seq,
            digest: std::array::from_fn(|n| u8::try_from(n as u64 * seq % 251).unwrap()),
            segment: 3,
            len: seq * 400,
        }
    }

    #[test]
    fn another_process_knows_what_was_noted() {
        let memory = LogHead::create().unwrap();
        assert_eq!(memory.known(), None);
        memory.intend(&mark(7));
        assert_eq!(memory.known(), None, "nothing was released yet");
        memory.note_written(&mark(7));
        memory.intend(&mark(9));
        let other = LogHead::map(memory.fd().try_clone_to_owned().unwrap()).unwrap();
        let known = other.known().unwrap();
        assert_eq!(known.written, mark(7));
        assert_eq!(known.intended, Some(mark(9)));
        for (seq, of, allowed) in [(7, 7, true), (9, 9, true), (8, 8, false), (7, 9, false)] {
            assert_eq!(known.allows(seq, &mark(of).digest), allowed, "{seq}");
        }
        memory.note_written(&mark(9));
        memory.note_written(&mark(11));
        assert_eq!(other.known().unwrap().written, mark(11));
        memory.go_back(Some(&mark(9)));
        assert_eq!(other.known().unwrap().written, mark(9));
        memory.go_back(None);
        assert_eq!(other.known(), None);
    }

    /// Whoever is killed between any two stores leaves the mark before or the one after.
    #[test]
    fn a_mark_counts_once_all_of_it_is_there() {
        let memory = LogHead::create().unwrap();
        memory.note_written(&mark(5));
        let (count, places) = memory.cell(HeadCell::Written).unwrap();
        let counted = count.load(Ordering::Relaxed);
        let unused = places.chunks(MARK_WORDS).nth(usize::from(counted % 2 == 0));
        for word in unused.unwrap() {
            word.store(u64::MAX, Ordering::Relaxed);
            assert_eq!(memory.known().unwrap().written, mark(5));
        }
        memory.note_written(&mark(6));
        assert_eq!(memory.known().unwrap().written, mark(6));
    }

    #[test]
    fn memory_of_another_size_is_refused() {
        let words = SharedWords::create("test", WORDS + 1).unwrap();
        assert!(LogHead::map(words.fd().try_clone_to_owned().unwrap()).is_err());
    }
}

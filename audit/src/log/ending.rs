//! The end of the log, compared with what its last writer left of it in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::{OpenError, io_error};
use super::head::{HeadMark, KnownHead};
use super::tail::{self, ResumePoint};
use crate::read::segment_path;

/// The one that knows, for messages.
const MEMORY: &str = "the memory that its last writer left";

/// End of a log, and what is wrong with it.
pub(super) struct LogEnding {
    /// Where writing goes on.
    pub(super) resume: ResumePoint,
    /// The log does not have what its last writer left.
    pub(super) changed: Option<OpenError>,
}

/// Finds where the log in `dir` ends. When the end is `known`, it must be that: whatever is
/// behind it was never acknowledged and is to be set aside, and for all before it the next
/// signature may vouch.
pub(super) fn find(dir: &Path, known: Option<&KnownHead>) -> Result<LogEnding, OpenError> {
    let resume = tail::resume_point(dir)?;
    let Some(known) = known else {
        return Ok(LogEnding {
            resume,
            changed: None,
        });
    };
    let is_end = resume
        .tail
        .is_some_and(|tail| known.allows(tail.seq, &tail.digest));
    if is_end {
        return Ok(vouched(resume));
    }
    if let Some(resume) = cut_to(dir, &resume, &known.written)? {
        return Ok(vouched(resume));
    }
    let (known, found) = (known.written.seq, resume.tail.map_or(0, |tail| tail.seq));
    let source_of = MEMORY.to_owned();
    let changed = if found < known {
        OpenError::Lost {
            source_of,
            known,
            found,
        }
    } else {
        OpenError::Replaced {
            source_of,
            seq: known,
        }
    };
    Ok(LogEnding {
        resume,
        changed: Some(changed),
    })
}

/// An end that is the one that was left.
fn vouched(resume: ResumePoint) -> LogEnding {
    LogEnding {
        resume: ResumePoint {
            unsigned: 0,
            ..resume
        },
        changed: None,
    }
}

/// The log with nothing behind `end`, all of which is torn then; `None` when it doesn't have
/// that record in its place, or more behind it than one segment.
fn cut_to(
    dir: &Path,
    resume: &ResumePoint,
    end: &HeadMark,
) -> Result<Option<ResumePoint>, OpenError> {
    let next = end.segment.saturating_add(1);
    if ![end.segment, next].contains(&resume.segment) {
        return Ok(None);
    }
    let before = match tail::segment_end_within(dir, end.segment, end.len) {
        Err(OpenError::Distrusted(error)) if error.is_missing() => return Ok(None),
        before => before?,
    };
    let same = |tail: &tail::Tail| tail.seq == end.seq && tail.digest == end.digest;
    if before.len != end.len || !before.tail.as_ref().is_some_and(same) {
        return Ok(None);
    }
    let path = segment_path(dir, resume.segment);
    let file = File::open(&path).map_err(io_error("open", &path))?;
    if resume.segment == end.segment {
        let torn = bytes_from(&file, end.len).map_err(io_error("read", &path))?;
        return Ok(Some(ResumePoint { torn, ..before }));
    }
    // Not the end of its segment: something was put in between.
    let whole = segment_path(dir, end.segment);
    let size = whole.metadata().map_err(io_error("stat", &whole))?.len();
    if size != end.len {
        return Ok(None);
    }
    Ok(Some(ResumePoint {
        segment: resume.segment,
        len: 0,
        first: None,
        torn: bytes_from(&file, 0).map_err(io_error("read", &path))?,
        ..before
    }))
}

fn bytes_from(file: &File, from: u64) -> std::io::Result<Vec<u8>> {
    let size = file.metadata()?.len().saturating_sub(from);
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

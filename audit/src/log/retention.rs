//! Old segments are removed, and a signed record says so.

use std::fs::File;

use jiff::Timestamp;

use super::error::{OpenError, PruneError, io_error};
use super::opening::LogDirectory;
use super::payload::RecordExtras;
use super::tail;
use super::writer::{Durability, Writer};
use crate::event::{Action, Event, Outcome};
use crate::read::{segment_numbers, segment_path};
use crate::record::PruneDetails;

/// Removes the segments whose last record is older than `before`, never the one that is
/// written; gives how many.
pub(super) fn prune(
    writer: &Writer,
    directory: &LogDirectory,
    before: Timestamp,
) -> Result<usize, PruneError> {
    let current = writer.chain.lock().written().segment;
    let old = old_segments(directory, current, before)?;
    let Some(&last) = old.last() else {
        return Ok(0);
    };
    let end = tail::segment_end(directory.path(), last)?;
    // The record comes first: what it covers need not be there any more, but nothing may
    // be gone that no record covers.
    if let Some(tail) = end.tail {
        let prune = PruneDetails {
            segment: last,
            seq: tail.seq,
            head: hex::encode(tail.digest),
        };
        let extras = RecordExtras {
            prune: Some(&prune),
            ..RecordExtras::default()
        };
        let event = Event::new(Action::Prune, Outcome::Ok, tail.vault_seq);
        writer.append(&event, extras, Durability::Sync)?;
    }
    for number in &old {
        let path = segment_path(directory.path(), *number);
        std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
    }
    directory.sync()?;
    Ok(old.len())
}

fn old_segments(
    directory: &LogDirectory,
    current: u32,
    before: Timestamp,
) -> Result<Vec<u32>, OpenError> {
    let numbers = segment_numbers(directory.path()).map_err(io_error("list", directory.path()))?;
    let mut old = Vec::new();
    for pair in numbers.windows(2) {
        let [number, next] = *pair else { continue };
        // Where the clock only goes forward the first record of the next segment is younger than
        // all of this one; where it went back one of this one's own ends tells.
        let old_ends = next <= current
            && begins_before(directory, next, before)?
            && begins_before(directory, number, before)?
            && ends_before(directory, number, before)?;
        if !old_ends {
            break;
        }
        old.push(number);
    }
    Ok(old)
}

fn ends_before(
    directory: &LogDirectory,
    segment: u32,
    before: Timestamp,
) -> Result<bool, OpenError> {
    let tail = tail::segment_end(directory.path(), segment)?.tail;
    Ok(tail
        .and_then(|tail| tail.time)
        .is_some_and(|time| time < before))
}

fn begins_before(
    directory: &LogDirectory,
    segment: u32,
    before: Timestamp,
) -> Result<bool, OpenError> {
    let path = segment_path(directory.path(), segment);
    let file = File::open(&path).map_err(io_error("open", &path))?;
    let first = tail::first_record(&file, &path)?;
    Ok(first.is_some_and(|first| first.time < before))
}

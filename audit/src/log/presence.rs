//! Whether the log is where the next start would find it, and can be written.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;

use super::error::{LogFault, RotationError};
use super::opening::LogDirectory;
use super::rotation;
use super::segment::{RoomClaim, Segment};
use super::writer::Writer;
use crate::keys::Certify;
use crate::read::segment_path;

/// Looks at the segment's file by its path, and asks for the room that is to be kept.
pub(super) fn check(writer: &Writer, directory: &LogDirectory) -> Result<(), LogFault> {
    if writer.disk.check_not_poisoned().is_err() {
        return Err(LogFault::Poisoned);
    }
    let segment = writer.disk.segment();
    let found = look(&segment, directory);
    // The file is looked at once more: it may have been left for the next one meanwhile.
    if found.is_err() && segment.number != writer.disk.segment().number {
        return check(writer, directory);
    }
    let is_displaced = matches!(found, Err(LogFault::Displaced { .. }));
    writer.disk.set_displaced(is_displaced);
    found?;
    let room = writer.check_room(RoomClaim::Ordinary);
    room.map_err(|_| LogFault::Full)
}

fn look(segment: &Segment, directory: &LogDirectory) -> Result<(), LogFault> {
    let path = segment_path(directory.path(), segment.number);
    let written = segment.written();
    let displaced = |what| LogFault::Displaced {
        path: path.clone(),
        what,
    };
    let unwritable = |source| LogFault::Unwritable {
        path: path.clone(),
        source,
    };
    // Links are not followed: one to our file would be another name of it.
    let named = fs::symlink_metadata(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => displaced("was removed or moved away"),
        _ => unwritable(error),
    })?;
    let ours = segment.file.status().map_err(unwritable)?;
    if ours.identity != (named.dev(), named.ino()) {
        return Err(displaced("was replaced by another file"));
    }
    if ours.len < written {
        return Err(displaced("was cut off"));
    }
    // As a writer does; it is not written to.
    let opened = OpenOptions::new().read(true).append(true).open(&path);
    opened.map_err(unwritable)?;
    Ok(())
}

/// Ends the segment, whose file is displaced, as far as that goes, and begins another one.
/// The chain goes on from the last record, wherever that is: should the file come back,
/// the log is whole; otherwise a verifier finds what is missing.
pub(super) fn begin_anew(
    writer: &Writer,
    directory: &LogDirectory,
    identity: &dyn Certify,
) -> Result<u32, RotationError> {
    let segment = writer.disk.segment();
    segment.set_lost(true);
    match rotation::rotate(writer, directory, identity) {
        Ok(number) => {
            writer.disk.set_displaced(false);
            Ok(number)
        }
        Err(error) => {
            // The right file may come back before there can be another.
            segment.set_lost(false);
            Err(error)
        }
    }
}

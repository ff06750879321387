//! Files that commands read and make.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::exit::CommandError;
use crate::common::bounded;

/// Opens `path` for reading.
pub(super) fn open(path: &Path) -> Result<File, CommandError> {
    File::open(path).map_err(|error| CommandError::io("open", path, &error))
}

/// Text of the file at `path`, of at most `limit` bytes.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<String, CommandError> {
    bounded::text(open(path)?, limit).map_err(|error| CommandError::io("read", path, &error))
}

/// Makes `path`, for its owner alone, with these bytes, durably.
pub(super) fn create(path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    create_with(path, || Ok(bytes))
}

/// Makes `path` like [`create`] with bytes that are had once it is clear that the
/// file can be made; without them there is no file.
pub(super) fn create_with<B: AsRef<[u8]>>(
    path: &Path,
    bytes: impl FnOnce() -> Result<B, CommandError>,
) -> Result<(), CommandError> {
    let failed = |error: io::Error| CommandError::io("create", path, &error);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let written = bytes().and_then(|bytes| {
        file.write_all(bytes.as_ref()).map_err(failed)?;
        file.sync_all().map_err(failed)
    });
    written.inspect_err(|_| {
        // The error that is reported says more than one of this clean-up would.
        std::fs::remove_file(path).ok();
    })
}

//! Files of the mount, and the proof that they are the daemon's.
//!
//! Where nothing is mounted, a directory may hold anything under the same names: no
//! request is written there, and nothing from there is shown as a secret.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jarvis_fs::{ReaderMounts, Standing};
use rustix::fs::OFlags;

use super::exit::{CommandError, ErrorCode};

/// Refuses `file`, open at `path`, unless it lies in a daemon's mount.
pub(super) fn check(file: &File, path: &Path) -> Result<(), CommandError> {
    match jarvis_fs::is_ours(file) {
        Ok(true) => Ok(()),
        Ok(false) => Err(not_mounted(path)),
        Err(error) => Err(CommandError::io("check the mount of", path, &error)),
    }
}

/// Another mount that hides the daemon's on `mount`.
pub(super) fn covered(mount: &Path) -> Option<String> {
    let mut mounts = ReaderMounts::open(false).ok()?;
    match mounts.find(mount).ok()?? {
        (_, Standing::Covered(by)) => Some(by),
        _ => None,
    }
}

/// Error for a directory where another mount hides the daemon's, by what it is hidden.
pub(super) fn hidden(mount: &Path, by: &str) -> CommandError {
    let message = format!("the daemon's mount on {}: {by} hides it", mount.display());
    CommandError::new(ErrorCode::Unreachable, message)
}

fn not_mounted(path: &Path) -> CommandError {
    if let Some(by) = covered(path) {
        return hidden(path, &by);
    }
    let message = format!(
        "{} is not a jarvis-secretsd's: none is mounted there, so nothing was read or written; \
         start the daemon, or give its mount point with --mount",
        path.display()
    );
    CommandError::new(ErrorCode::Unreachable, message)
}

/// Refuses the directory `mount` unless a daemon's mount is there.
pub(super) fn check_directory(mount: &Path) -> Result<(), CommandError> {
    let mut options = OpenOptions::new();
    // The directory is not entered: a caller without rights in it can ask.
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let directory = options.read(true).custom_flags(flags.bits().cast_signed());
    let directory = directory.open(mount).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => not_mounted(mount),
        _ => CommandError::io("open", mount, &error),
    })?;
    check(&directory, mount)
}

/// Opens the secret `name` for reading.
pub(super) fn open_secret(mount: &Path, name: &str) -> Result<File, CommandError> {
    let path = mount.join(name);
    let file = File::open(&path).map_err(|error| {
        // Without a mount there is no secret either, but that is not the reason.
        let unserved = check_directory(mount).err();
        unserved.unwrap_or_else(|| CommandError::io("open", &path, &error))
    })?;
    check(&file, &path)?;
    Ok(file)
}

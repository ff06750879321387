//! Files that nobody but their owner may use: keys, and what a daemon writes.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const PERMISSION_BITS: u32 = 0o777;
const MODE_BITS: u32 = 0o7777;
/// Permission bits of group and others.
const OTHERS: u32 = 0o077;

/// Limit on the mode of something private.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeLimit {
    /// Widest mode accepted.
    want: u32,
    /// Bits of which none may be set.
    refused: u32,
}

impl ModeLimit {
    /// A file of mode 0600 at most.
    pub const FILE: Self = Self::of_permissions(0o600);
    /// A directory of mode 0700 at most. Set-id and sticky bits let nobody in.
    pub const DIRECTORY: Self = Self::of_permissions(0o700);

    const fn of_permissions(want: u32) -> Self {
        Self {
            want,
            refused: PERMISSION_BITS & !want,
        }
    }

    /// Limit that also refuses the set-id and sticky bits.
    #[must_use]
    pub const fn and_no_special_bits(self) -> Self {
        Self {
            want: self.want,
            refused: MODE_BITS & !self.want,
        }
    }
}

/// Why something is not used as private.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// The file system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// Call that failed: `open` or `stat`.
        action: &'static str,
        /// Path that was used.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A key file gives a permission to others than its owner.
    #[error("{path} has mode {mode:04o}, others could read it; run: chmod 0600 {path}")]
    OthersCouldRead {
        /// Path of the key file.
        path: PathBuf,
        /// Mode of the key file.
        mode: u32,
    },
    /// The mode is wider than the limit.
    #[error(
        "{path} has mode {mode:04o}, it must not be wider than {want:04o}; run: chmod {want:04o} {path}"
    )]
    TooWide {
        /// Path of the file or directory.
        path: PathBuf,
        /// Mode found there, without bits that the limit is not about.
        mode: u32,
        /// Widest mode accepted.
        want: u32,
    },
}

/// Opens the key file at `path` for reading.
///
/// # Errors
/// [`PrivateError::OthersCouldRead`], [`PrivateError::Io`].
pub fn key_file(path: &Path) -> Result<File, PrivateError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let mode = mode_of(path, &file)?;
    if mode & OTHERS != 0 {
        let path = path.to_owned();
        return Err(PrivateError::OthersCouldRead { path, mode });
    }
    Ok(file)
}

/// Opens the file or directory at `path` for reading, if its mode is within `limit`.
///
/// # Errors
/// [`PrivateError::TooWide`], [`PrivateError::Io`].
pub fn open(path: &Path, limit: ModeLimit) -> Result<File, PrivateError> {
    let file = File::open(path).map_err(failed("open", path))?;
    check(path, &file, limit)?;
    Ok(file)
}

/// Checks that the mode of `file`, which was opened at `path`, is within `limit`.
///
/// # Errors
/// [`PrivateError::TooWide`], [`PrivateError::Io`].
pub fn check(path: &Path, file: &File, limit: ModeLimit) -> Result<(), PrivateError> {
    let mode = mode_of(path, file)?;
    if mode & limit.refused == 0 {
        return Ok(());
    }
    Err(PrivateError::TooWide {
        path: path.to_owned(),
        mode: mode & (PERMISSION_BITS | limit.refused),
        want: limit.want,
    })
}

fn mode_of(path: &Path, file: &File) -> Result<u32, PrivateError> {
    // Of the open file: at the path there may be another one by now.
    let metadata = file.metadata().map_err(failed("stat", path))?;
    Ok(metadata.mode() & MODE_BITS)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PrivateError {
    let path = path.to_owned();
    move |source| PrivateError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn file_in(directory: &Path) -> PathBuf {
        let path = directory.join("file");
        fs::write(&path, "x").unwrap();
        path
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_file_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = file_in(directory.path());
        for mode in [0o400, 0o600, 0o700] {
            chmod(&path, mode);
            assert!(key_file(&path).is_ok(), "{mode:o}");
        }
        let shown = path.display().to_string();
        for mode in [0o640, 0o604, 0o601, 0o4640] {
            chmod(&path, mode);
            let message = key_file(&path).unwrap_err().to_string();
            let expected = format!(
                "{shown} has mode {mode:04o}, others could read it; run: chmod 0600 {shown}"
            );
            assert_eq!(message, expected);
        }
        fs::remove_file(&path).unwrap();
        let message = key_file(&path).unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("cannot open {shown}: ")),
            "{message}"
        );
    }

    #[test]
    fn a_limit_is_what_it_says() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path();
        let shown = directory.display().to_string();
        let strict = ModeLimit::DIRECTORY.and_no_special_bits();
        chmod(directory, 0o2700);
        assert!(open(directory, ModeLimit::DIRECTORY).is_ok());
        let message = open(directory, strict).unwrap_err().to_string();
        let expected = format!(
            "{shown} has mode 2700, it must not be wider than 0700; run: chmod 0700 {shown}"
        );
        assert_eq!(message, expected);
        chmod(directory, 0o2750);
        let error = open(directory, ModeLimit::DIRECTORY).unwrap_err();
        assert!(matches!(error, PrivateError::TooWide { mode: 0o750, .. }));
        chmod(directory, 0o700);
        let path = file_in(directory);
        chmod(&path, 0o700);
        let error = open(&path, ModeLimit::FILE).unwrap_err();
        assert!(matches!(
            error,
            PrivateError::TooWide {
                mode: 0o700,
                want: 0o600,
                ..
            }
        ));
    }
}

//! The directories that are the worker's: of the vault, and of the audit log.

use std::ffi::OsStr;
use std::fs::{DirEntry, File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Uid, chownat, statat};
use rustix::io::Errno;

use super::error::DirectoryError;
use crate::config::Config;

/// The directories that a worker gets.
pub(super) struct WorkerDirectories {
    /// The vault's, and the audit log's.
    pub(super) fds: [OwnedFd; 2],
    /// Where the vault's was when it was opened: one that is moved takes the vault with it,
    /// and the next start would not find it.
    pub(super) vault_path: Option<PathBuf>,
}

/// Opens the directories of vault and audit log, and gives them to `user`, as which
/// workers run, with what is a worker's in them.
///
/// # Errors
/// [`DirectoryError`].
pub(super) fn open_for_worker(
    config: &Config,
    user: Option<(u32, u32)>,
) -> Result<WorkerDirectories, DirectoryError> {
    let vault = config.vault.path.file_name().and_then(OsStr::to_str);
    let vault_dir = config.vault.path.parent().unwrap_or(Path::new("."));
    let fds = [
        open(config, vault_dir, user, |name| Some(name) == vault)?,
        open(config, &config.audit.dir, user, is_log_file)?,
    ];
    let [vault, _] = &fds;
    let link = format!("/proc/self/fd/{}", vault.as_raw_fd());
    Ok(WorkerDirectories {
        vault_path: std::fs::read_link(link).ok(),
        fds,
    })
}

/// Opens the directory that is in the place of `held`, the audit log's, by now.
///
/// # Errors
/// [`DirectoryError`], also when it looks like the place of a disk that is not mounted.
pub(super) fn reopen_log(
    config: &Config,
    user: Option<(u32, u32)>,
    held: &OwnedFd,
) -> Result<OwnedFd, DirectoryError> {
    let path = &config.audit.dir;
    let device = |directory: &OwnedFd| {
        let directory = File::from(directory.try_clone()?);
        directory.metadata().map(|metadata| metadata.dev())
    };
    let is_segment = |entry: io::Result<DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name().as_encoded_bytes().ends_with(b".jsonl"))
    };
    let found = File::open(path).map_err(unusable(path))?.into();
    let has_log = std::fs::read_dir(path)
        .map_err(unusable(path))?
        .any(is_segment);
    let is_same_device =
        device(held).map_err(unusable(path))? == device(&found).map_err(unusable(path))?;
    // What stood there alone would be hidden once the disk is mounted again.
    if !has_log && !is_same_device {
        return Err(DirectoryError::Unmounted { path: path.clone() });
    }
    open(config, path, user, is_log_file)
}

fn open(
    config: &Config,
    path: &Path,
    user: Option<(u32, u32)>,
    is_workers: impl Fn(&str) -> bool,
) -> Result<OwnedFd, DirectoryError> {
    let directory = File::open(path).map_err(unusable(path))?;
    if let Some((uid, gid)) = user {
        check(&directory, path, uid)?;
        check_private_files(config, path)?;
        chown_to_worker(&directory, path, (uid, gid), is_workers)?;
    }
    Ok(directory.into())
}

/// Refuses a directory that others could enter, or that is somebody else's.
fn check(directory: &File, path: &Path, uid: u32) -> Result<(), DirectoryError> {
    let metadata = directory.metadata().map_err(unusable(path))?;
    let mode = metadata.mode() & 0o777;
    if !metadata.is_dir() || excess_mode(&metadata).is_some() {
        let path = path.to_owned();
        return Err(DirectoryError::TooWide { path, mode });
    }
    if metadata.uid() != 0 && metadata.uid() != uid {
        return Err(DirectoryError::Owner {
            path: path.to_owned(),
            uid: metadata.uid(),
        });
    }
    Ok(())
}

/// Refuses a directory with a file in it that a worker may not have: in a directory
/// of its own a worker can replace any file.
fn check_private_files(config: &Config, directory: &Path) -> Result<(), DirectoryError> {
    let inside = directory.canonicalize().map_err(unusable(directory))?;
    let private = [
        Some(&config.policy.path),
        Some(&config.audit.identity),
        config.vault.key_file.as_ref(),
        config.audit.checkpoints.as_ref(),
    ];
    let is_inside = |path: &&PathBuf| {
        path.canonicalize()
            .is_ok_and(|path| path.starts_with(&inside))
    };
    match private.into_iter().flatten().find(is_inside) {
        None => Ok(()),
        Some(path) => Err(DirectoryError::PrivateFile {
            path: path.clone(),
            directory: directory.to_owned(),
        }),
    }
}

/// Gives `directory`, and the files in it that `is_workers` names, to the worker's user.
fn chown_to_worker(
    directory: &File,
    path: &Path,
    (uid, gid): (u32, u32),
    is_workers: impl Fn(&str) -> bool,
) -> Result<(), DirectoryError> {
    let chown = |name: &str, flags| {
        let failed = |errno: Errno| unusable(path)(errno.into());
        let status = statat(directory, name, flags).map_err(failed)?;
        // Where nothing is to be changed it may be that nothing can be, on a disk that failed.
        if (status.st_uid, status.st_gid) == (uid, gid) {
            return Ok(());
        }
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(directory, name, uid, gid, flags).map_err(failed)
    };
    chown("", AtFlags::EMPTY_PATH)?;
    for entry in std::fs::read_dir(path).map_err(unusable(path))? {
        let name = entry.map_err(unusable(path))?.file_name();
        if let Some(name) = name.to_str().filter(|name| is_workers(name)) {
            chown(name, AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(())
}

/// Whether `name` is that of a segment of the audit log, or of what was set aside of one.
fn is_log_file(name: &str) -> bool {
    name.ends_with(".jsonl") || name.starts_with("torn-")
}

/// Permission bits of what group or others have any right to.
pub(super) fn excess_mode(metadata: &Metadata) -> Option<u32> {
    let mode = metadata.mode() & 0o7777;
    (mode & 0o077 != 0).then_some(mode)
}

fn unusable(path: &Path) -> impl Fn(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Unusable {
        path: path.clone(),
        source,
    }
}

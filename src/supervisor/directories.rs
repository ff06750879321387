//! The directories that are the worker's: of the vault, and of the audit log.

use std::ffi::OsStr;
use std::fs::{DirEntry, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jarvis_sys::trust::{self, Rule};
use rustix::fs::{AtFlags, Dir, Gid, Mode, OFlags, Uid, chownat, fstat, openat};
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
    let rule = match user {
        Some((uid, _)) => Rule::PRIVATE_DIRECTORY.or_owned_by(uid),
        None => Rule::PRIVATE_DIRECTORY,
    };
    let directory = trust::open(path, rule)?;
    if let Some(user) = user {
        check_private_files(config, path)?;
        chown_to_worker(&directory, path, user, is_workers)?;
    }
    Ok(directory.into())
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
    user: (u32, u32),
    is_workers: impl Fn(&str) -> bool,
) -> Result<(), DirectoryError> {
    give(directory, path, user, Rule::PRIVATE_DIRECTORY)?;
    let failed = |errno: Errno| unusable(path)(errno.into());
    for entry in Dir::read_from(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(name) = entry.file_name().to_str().ok().filter(|n| is_workers(n)) else {
            continue;
        };
        // A mere place: what stands there is neither followed nor opened.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(directory, name, flags, Mode::empty()).map_err(failed)?;
        give(&file, &path.join(name), user, Rule::PRIVATE_FILE)?;
    }
    Ok(())
}

/// Gives what `fd`, which was opened at `path`, is to `user`, if it keeps `rule`: a worker
/// could have put a second name there of something that is not its own.
fn give(
    fd: impl AsFd,
    path: &Path,
    (uid, gid): (u32, u32),
    rule: Rule,
) -> Result<(), DirectoryError> {
    let failed = |errno: Errno| unusable(path)(errno.into());
    let stat = fstat(&fd).map_err(failed)?;
    // Where nothing is to be changed it may be that nothing can be, on a disk that failed.
    if (stat.st_uid, stat.st_gid) == (uid, gid) {
        return Ok(());
    }
    trust::check(path, &fd, rule.or_owned_by(uid))?;
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH).map_err(failed)
}

/// Whether `name` is that of a segment of the audit log, or of what was set aside of one.
fn is_log_file(name: &str) -> bool {
    name.ends_with(".jsonl") || name.starts_with("torn-")
}

fn unusable(path: &Path) -> impl Fn(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Unusable {
        path: path.clone(),
        source,
    }
}

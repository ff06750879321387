//! The bare directory that the mount hides: what lies in it, and how it stays empty.
//!
//! Runs in: supervisor (looks, seals), jarvisctl (looks).
//! Touches: the mount point below the mount.
//! Imported by: nobody inside this crate.
//!
//! Who makes something in the mount point while nothing is mounted there (a container
//! engine, for a bind that is not there yet) gives programs an empty directory in the
//! place of a secret.

use std::io;
use std::path::Path;

use rustix::fs::{CWD, Dir, IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags, open, openat};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::mount::{connection, mount_path};

/// Mode of a sealed mount point.
const SEALED: Mode = Mode::from_raw_mode(0o555);
/// Most names that are told.
const MAX_NAMES: usize = 8;

/// Names in the directory `path`, the first few of them, below whatever of ours is mounted
/// there; none when there is no such directory.
///
/// # Errors
/// The system's answer: looking below a mount takes CAP_SYS_ADMIN.
pub fn beneath(path: &Path) -> io::Result<Vec<String>> {
    let path = &mount_path(path).map_err(io::Error::other)?;
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let is_bare = connection(path).is_ok_and(|connection| connection.is_none());
    let opened = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !is_bare => {
            // A copy of the mount that `path` is in, without those that are in it.
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let copy = open_tree(CWD, parent, flags)?;
            openat(copy, name, directory, Mode::empty())
        }
        _ => open(path, directory, Mode::empty()),
    };
    let opened = match opened {
        Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
        opened => opened?,
    };
    let entries = Dir::new(opened)?.filter_map(Result::ok);
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let names = names.filter(|name| name != "." && name != "..");
    Ok(names.take(MAX_NAMES).collect())
}

/// Has the directory `path` refuse whatever would be made in it, by root too: mode 0555,
/// and the immutable flag.
///
/// # Errors
/// The system's answer: ENOTTY or EOPNOTSUPP where the file system has no such flag,
/// EPERM without CAP_LINUX_IMMUTABLE.
pub fn seal(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = open(path, flags, Mode::empty())?;
    rustix::fs::fchmod(&directory, SEALED)?;
    let flags = ioctl_getflags(&directory)?;
    Ok(ioctl_setflags(&directory, flags | IFlags::IMMUTABLE)?)
}

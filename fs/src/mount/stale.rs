//! Mounts that are there already: finding them, and taking them away.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::fs::{fstat, major, minor};
use rustix::mount::UnmountFlags;

use super::MountError;

/// Source of our mounts in mountinfo.
pub(crate) const MOUNT_SOURCE: &str = "jarvis-secrets";
/// Time a mount already there may take to show that it lives.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Detaches a dead mount of ours on `path`; fails when a live one is there.
/// Gives whether there was one.
///
/// # Errors
/// [`MountError::Live`], [`MountError::Hung`], or what kept it from going away.
pub fn clear_stale(path: &Path) -> Result<bool, MountError> {
    let path = mount_path(path)?;
    if find_connection(&path)?.is_none() {
        return Ok(false);
    }
    match answers(&path) {
        Some(true) => Err(MountError::Live(path)),
        None => Err(MountError::Hung(path)),
        Some(false) => detach(&path).map(|()| true),
    }
}

/// Takes away the mount of ours on `path`, if there is one, whoever serves it,
/// and cuts its connection.
///
/// # Errors
/// [`MountError::MountPoint`].
pub fn unmount(path: &Path) -> Result<(), MountError> {
    let path = mount_path(path)?;
    match find_connection(&path)? {
        None => Ok(()),
        Some(connection) => {
            let switch = AbortSwitch::of(connection);
            // Whoever enters the path from here on must not meet a dead mount.
            let detached = detach(&path);
            switch.abort();
            detached
        }
    }
}

/// The number of the FUSE connection of ours mounted on `path`, if any; the
/// mount itself is not touched.
///
/// # Errors
/// [`MountError::MountPoint`] when mountinfo or the path can't be read.
pub fn connection(path: &Path) -> Result<Option<u32>, MountError> {
    find_connection(&mount_path(path)?)
}

fn unusable(path: &Path) -> impl FnOnce(io::Error) -> MountError {
    let path = path.to_owned();
    move |source| MountError::MountPoint { path, source }
}

/// `path` as mountinfo shows it: links resolved above it, itself not touched.
pub(crate) fn mount_path(path: &Path) -> Result<PathBuf, MountError> {
    let path = std::path::absolute(path).map_err(unusable(path))?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => match parent.canonicalize() {
            Ok(parent) => Ok(parent.join(name)),
            // Nothing is mounted in a directory that is not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path),
            Err(error) => Err(unusable(&path)(error)),
        },
        _ => Ok(path),
    }
}

/// The number of the FUSE connection of ours that mountinfo shows on `path`.
/// The path itself is not touched.
pub(super) fn find_connection(path: &Path) -> Result<Option<u32>, MountError> {
    let mounts = mountinfo().map_err(unusable(path))?;
    // mountinfo writes space, tab, newline and backslash as octal escapes.
    let wanted = path
        .to_string_lossy()
        .trim_end_matches('/')
        .replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011")
        .replace('\n', "\\012");
    Ok(mounts.lines().rev().find_map(|line| {
        let (device, path) = our_mount(line)?;
        let (_, minor) = device.split_once(':')?;
        (path == wanted).then(|| minor.parse().ok()).flatten()
    }))
}

/// Whether `file` lies in a mount of ours. The kernel says so, not the file: whoever
/// writes a request or shows a value asks this of the very file that it has open.
///
/// # Errors
/// The system's answer: then nobody can tell.
pub fn is_ours(file: impl AsFd) -> io::Result<bool> {
    let device = fstat(file)?.st_dev;
    let wanted = format!("{}:{}", major(device), minor(device));
    let mounts = mountinfo()?;
    let ours = mounts.lines().filter_map(our_mount);
    let mut devices = ours.map(|(device, _)| device);
    Ok(devices.any(|device| device == wanted))
}

/// Mounts that this process can see. Paths need not be UTF-8; ours are found all the same.
fn mountinfo() -> io::Result<String> {
    let mounts = std::fs::read("/proc/self/mountinfo")?;
    Ok(String::from_utf8_lossy(&mounts).into_owned())
}

/// Device (`MAJOR:MINOR`) and path in a line of mountinfo, if the mount is ours.
fn our_mount(line: &str) -> Option<(&str, &str)> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(2);
    let (device, path) = (fields.next()?, fields.nth(1)?);
    let is_ours = kind.starts_with("fuse") && kind.split(' ').nth(1) == Some(MOUNT_SOURCE);
    is_ours.then_some((device, path))
}

/// Whether somebody serves the mount on `path`: no for a dead one, `None` when
/// there is no answer in time. Asked in a thread that may be left behind.
#[must_use]
pub fn answers(path: &Path) -> Option<bool> {
    let (sender, receiver) = channel();
    let path = path.to_owned();
    std::thread::spawn(move || {
        let dead = std::fs::metadata(&path)
            .is_err_and(|e| matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)));
        // Nobody listens any more when the answer came too late.
        sender.send(!dead).ok();
    });
    receiver.recv_timeout(ANSWER_TIMEOUT).ok()
}

/// Takes the mount away at once, also when files in it are open.
pub(super) fn detach(path: &Path) -> Result<(), MountError> {
    if rustix::mount::unmount(path, UnmountFlags::DETACH).is_ok() {
        return Ok(());
    }
    // Not root: the helper that mounted it.
    let output = Command::new("fusermount3")
        .args(["-u", "-z", "--"])
        .arg(path)
        .output()
        .map_err(unusable(path))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(unusable(path)(io::Error::other(said.trim().to_owned())))
}

/// Means to cut a connection, so that open handles fail. It stays that connection's: the
/// number of one that is gone may be another's at once.
pub(super) struct AbortSwitch(Option<File>);

impl AbortSwitch {
    /// To be taken while the connection is there.
    pub(super) fn of(connection: u32) -> Self {
        let path = format!("/sys/fs/fuse/connections/{connection}/abort");
        Self(OpenOptions::new().write(true).open(path).ok())
    }

    pub(super) fn abort(self) {
        // The connection is gone already when no handle was open.
        if let Some(mut switch) = self.0 {
            switch.write_all(b"1").ok();
        }
    }
}

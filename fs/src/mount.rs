//! Mounting, and clearing what a dead daemon left.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};
use rustix::mount::{UnmountFlags, unmount};

use crate::serve::FileSystem;
use crate::tree::Tree;

/// Source in mountinfo.
const SOURCE: &str = "jarvis-secrets";
/// How long a mount already there may take to show that it lives.
const PROBE: Duration = Duration::from_secs(3);
/// How long the serving threads may take to leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why the file system could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Another daemon serves the mount point.
    #[error("{0} is already mounted and its daemon answers; stop that one first")]
    Live(PathBuf),
    /// Something is mounted and does not answer.
    #[error(
        "{0} is mounted and does not answer; find its number with `stat -c %d` on its parent or in \
         /proc/self/mountinfo and abort it: echo 1 > /sys/fs/fuse/connections/N/abort"
    )]
    Hung(PathBuf),
    /// The mount point is missing or unusable.
    #[error("cannot use {path} as mount point: {source}")]
    MountPoint {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// mount(2) or fusermount3 failed.
    #[error("cannot mount on {path}: {source}")]
    Mount {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// A served mount.
pub struct Mounted {
    path: PathBuf,
    ended: Receiver<()>,
    connection: Option<u32>,
}

impl Mounted {
    /// Detaches the mount and cuts the connection, so that open handles fail
    /// and nothing of the file system stays in memory.
    ///
    /// # Errors
    /// [`MountError::MountPoint`]: the system's answer to the unmount.
    pub fn end(self) -> Result<(), MountError> {
        if find(&self.path)? == self.connection {
            detach(&self.path)?;
        }
        if let Some(connection) = self.connection {
            // It is gone already when no handle was open; and where fusectl is
            // not mounted the process's end cuts it.
            let abort = format!("/sys/fs/fuse/connections/{connection}/abort");
            std::fs::write(abort, "1").ok();
        }
        // Disconnected once the session's thread has dropped the file system.
        self.ended.recv_timeout(FAREWELL).ok();
        Ok(())
    }
}

/// Mounts `fs` on `path` and serves it with `threads` threads; `on_end` runs
/// when the session ends.
///
/// As root every user may enter; otherwise fusermount3 mounts, for the own user
/// alone.
///
/// # Errors
/// [`MountError::Mount`] or [`MountError::MountPoint`].
pub fn mount<T: Tree>(
    fs: FileSystem<T>,
    path: &Path,
    threads: usize,
    root: bool,
    on_end: impl FnOnce(io::Result<()>) + Send + 'static,
) -> Result<Mounted, MountError> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(SOURCE.into()),
        MountOption::Subtype("jarvis".into()),
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
        MountOption::NoAtime,
    ];
    config.acl = if root {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(threads);
    let failed = |source| MountError::Mount {
        path: path.to_owned(),
        source,
    };
    let path = resolve(path)?;
    let pages = fs.pages();
    let session = Session::new(fs, &path, &config).map_err(failed)?;
    pages.attach(session.notifier());
    let (alive, ended) = channel();
    std::thread::Builder::new()
        .name("session".into())
        .spawn(move || {
            on_end(session.run());
            drop::<Sender<()>>(alive);
        })
        .map_err(failed)?;
    Ok(Mounted {
        connection: find(&path)?,
        path,
        ended,
    })
}

/// Detaches a dead mount of ours on `path`; fails when a live one is there.
/// Gives whether there was one.
///
/// # Errors
/// [`MountError::Live`], [`MountError::Hung`], or what kept it from going away.
pub fn clear_stale(path: &Path) -> Result<bool, MountError> {
    let path = resolve(path)?;
    if find(&path)?.is_none() {
        return Ok(false);
    }
    match alive(&path) {
        Some(true) => Err(MountError::Live(path)),
        None => Err(MountError::Hung(path)),
        Some(false) => detach(&path).map(|()| true),
    }
}

/// The number of the FUSE connection of ours mounted on `path`, if any; the
/// mount itself is not touched.
///
/// # Errors
/// [`MountError::MountPoint`] when mountinfo or the path can't be read.
pub fn connection(path: &Path) -> Result<Option<u32>, MountError> {
    find(&resolve(path)?)
}

fn unusable(path: &Path) -> impl FnOnce(io::Error) -> MountError {
    let path = path.to_owned();
    move |source| MountError::MountPoint { path, source }
}

/// `path` as mountinfo shows it: links resolved above it, itself not touched.
fn resolve(path: &Path) -> Result<PathBuf, MountError> {
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
fn find(path: &Path) -> Result<Option<u32>, MountError> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(unusable(path))?;
    // mountinfo writes space, tab, newline and backslash as octal escapes.
    let wanted = path
        .to_string_lossy()
        .trim_end_matches('/')
        .replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011")
        .replace('\n', "\\012");
    Ok(mounts.lines().rev().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(2);
        let (_, minor) = fields.next()?.split_once(':')?;
        let ours = fields.nth(1) == Some(&wanted)
            && kind.starts_with("fuse")
            && kind.split(' ').nth(1) == Some(SOURCE);
        ours.then(|| minor.parse().ok()).flatten()
    }))
}

/// Asks the mount for an answer from a thread that may be left behind.
fn alive(path: &Path) -> Option<bool> {
    let (sender, receiver) = channel();
    let path = path.to_owned();
    std::thread::spawn(move || {
        let dead = std::fs::metadata(&path)
            .is_err_and(|e| matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)));
        // Nobody listens any more when the answer came too late.
        sender.send(!dead).ok();
    });
    receiver.recv_timeout(PROBE).ok()
}

/// Takes the mount away at once, also when files in it are open.
fn detach(path: &Path) -> Result<(), MountError> {
    if unmount(path, UnmountFlags::DETACH).is_ok() {
        return Ok(());
    }
    // Not root: the helper that mounted it.
    let output = Command::new("fusermount3")
        .args(["-u", "-z", "--"])
        .arg(path)
        .output()
        .map_err(unusable(path))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(unusable(path)(io::Error::other(said.trim().to_owned())))
        }
    }
}

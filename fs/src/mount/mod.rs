//! Mounting, serving a mount, and clearing what a dead daemon left.
//!
//! Runs in: supervisor (mounts, unmounts), worker (serves), jarvisctl (looks at mountinfo).
//! Touches: the FUSE device, mount(2), umount(2), fusermount3, mountinfo, fusectl.
//! Imported by: adapter, for what is agreed with the kernel.

mod guard;
mod root;
mod session;
mod stale;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{MountOption, Session};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use guard::{DeviceGuard, Guarded};
pub(crate) use session::negotiate;
pub use session::{Server, resend};
pub(crate) use stale::{MOUNT_SOURCE, mount_path};
pub use stale::{answers, clear_stale, connection, is_ours, unmount};

use session::{InitHandler, session_config};
use stale::{AbortSwitch, detach, find_connection};

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

/// A mount and the device behind it, whoever serves it.
pub struct Device {
    path: PathBuf,
    fd: DeviceFd,
    connection: Option<u32>,
    resends: bool,
}

/// The device's fd, by its owner.
enum DeviceFd {
    /// Owned by fuser's session, which would unmount when dropped.
    Session(Option<Box<Session<InitHandler>>>),
    /// Owned by us: mounted as root, or by an earlier process.
    Own(OwnedFd),
}

impl Drop for DeviceFd {
    fn drop(&mut self) {
        // The mount outlives the process that made it: only `Device::unmount`
        // takes the session out before.
        if let Self::Session(session) = self {
            std::mem::forget(session.take());
        }
    }
}

impl Device {
    /// Mounts on `path` and settles with the kernel what a server can rely on.
    /// Requests wait until somebody serves the device.
    ///
    /// As `root` every user may enter; otherwise fusermount3 mounts, for the own
    /// user alone.
    ///
    /// # Errors
    /// [`MountError::Mount`] or [`MountError::MountPoint`].
    pub fn mount(path: &Path, root: bool) -> Result<Self, MountError> {
        let path = mount_path(path)?;
        let (fd, resends) = if root {
            let (fd, resends) = root::mount(&path).map_err(|source| MountError::Mount {
                path: path.clone(),
                source,
            })?;
            (DeviceFd::Own(fd), resends)
        } else {
            Self::mount_as_user(&path)?
        };
        Ok(Self {
            connection: find_connection(&path)?,
            path,
            fd,
            resends,
        })
    }

    /// Has fusermount3 mount, through fuser.
    fn mount_as_user(path: &Path) -> Result<(DeviceFd, bool), MountError> {
        let mut config = session_config(false, 1);
        config.mount_options = vec![
            MountOption::FSName(MOUNT_SOURCE.into()),
            MountOption::Subtype("jarvis".into()),
            MountOption::NoSuid,
            MountOption::NoDev,
            MountOption::NoExec,
            MountOption::NoAtime,
        ];
        let resends = Arc::new(AtomicBool::new(false));
        let handler = InitHandler(resends.clone());
        let session = Session::new(handler, path, &config).map_err(|source| MountError::Mount {
            path: path.to_owned(),
            source,
        })?;
        let fd = DeviceFd::Session(Some(Box::new(session)));
        Ok((fd, resends.load(Ordering::Acquire)))
    }

    /// The mount on `path` that an earlier process left with its device; `None`
    /// when nothing of ours is mounted there any more.
    ///
    /// # Errors
    /// [`MountError::MountPoint`] when mountinfo or the path can't be read.
    pub fn adopt(path: &Path, fd: OwnedFd) -> Result<Option<Self>, MountError> {
        let path = mount_path(path)?;
        let connection = find_connection(&path)?;
        Ok(connection.map(|number| Self {
            path,
            fd: DeviceFd::Own(fd),
            connection: Some(number),
            // A mount is only left to a successor where that holds.
            resends: true,
        }))
    }

    /// The device, for a server and for safekeeping; `None` at its end.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.fd {
            DeviceFd::Session(session) => Some(session.as_ref()?.as_fd()),
            DeviceFd::Own(fd) => Some(fd.as_fd()),
        }
    }

    /// Whether requests that one server left unanswered can be had again by the
    /// next one (Linux 6.9).
    #[must_use]
    pub fn resends(&self) -> bool {
        self.resends
    }

    /// Whether the connection is there: the device of one that was cut is in error.
    fn is_connected(&self) -> bool {
        let Some(fd) = self.fd() else {
            return false;
        };
        let mut device = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        let now = Timespec::default();
        poll(&mut device, Some(&now)).is_ok()
            && device
                .iter()
                .all(|device| !device.revents().contains(PollFlags::ERR))
    }

    /// Detaches the mount and cuts the connection, so that open handles fail
    /// and nothing of the file system stays in memory.
    ///
    /// # Errors
    /// [`MountError::MountPoint`]: the system's answer to the unmount.
    pub fn unmount(mut self) -> Result<(), MountError> {
        // One that was cut has no number any more: a mount of somebody else may have it.
        let number = self.connection.filter(|_| self.is_connected());
        let switch = number.map(AbortSwitch::of);
        // Another mount may stand on the path by now.
        let detached = if find_connection(&self.path)? == self.connection {
            detach(&self.path)
        } else {
            Ok(())
        };
        if let Some(switch) = switch {
            switch.abort();
        }
        // Where fusectl is not mounted the end of the last fd cuts it.
        if let DeviceFd::Session(session) = &mut self.fd {
            drop(session.take());
        }
        detached
    }
}

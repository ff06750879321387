//! Mounting, serving a mount, and clearing what a dead daemon left.
//!
//! Runs in: supervisor (mounts, unmounts), worker (serves), jarvisctl (looks at mountinfo).
//! Touches: the FUSE device, mount(2), umount(2), fusermount3, mountinfo, fusectl.
//! Imported by: nobody here; what others call is public.

mod greeting;
mod guard;
mod mounting;
mod stale;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use guard::{DeviceGuard, Guarded};
pub(crate) use stale::{MOUNT_SOURCE, mount_path};
pub use stale::{answers, clear_stale, connection, is_ours, unmount};

use greeting::greet;
use mounting::{mount_as_root, mount_as_user};
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

/// A mount and the device behind it, whoever serves it. The mount outlives this value:
/// only [`Device::unmount`] takes it away.
pub struct Device {
    path: PathBuf,
    fd: OwnedFd,
    connection: Option<u32>,
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
        let failed = |source| MountError::Mount {
            path: path.clone(),
            source,
        };
        let mount = if root { mount_as_root } else { mount_as_user };
        let fd = mount(&path).map_err(failed)?;
        greet(&fd).map_err(|error| {
            // The error says more than a mount that nobody will serve.
            detach(&path).ok();
            failed(error)
        })?;
        Ok(Self {
            connection: find_connection(&path)?,
            path,
            fd,
        })
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
            fd,
            connection: Some(number),
        }))
    }

    /// The device, for a server and for safekeeping.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether the connection is there: the device of one that was cut is in error.
    fn is_connected(&self) -> bool {
        let mut device = [PollFd::new(&self.fd, PollFlags::IN)];
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
    pub fn unmount(self) -> Result<(), MountError> {
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
        detached
    }
}

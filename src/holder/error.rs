//! Why the holder can't go on.

use std::io;
use std::path::PathBuf;

/// Reason why the holder ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum HolderError {
    /// A system call failed.
    #[error(transparent)]
    System(#[from] io::Error),
    /// A system call failed.
    #[error(transparent)]
    Errno(#[from] rustix::io::Errno),
    /// The process's memory can't be kept from others.
    #[error(transparent)]
    Harden(#[from] jarvis_sys::HardenError),
    /// Nobody could find the holder.
    #[error("cannot listen on {path}: {source}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The fds of a mount are not all there.
    #[error("fds of the mount are missing")]
    MissingFds,
}

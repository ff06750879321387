//! Limits that would end or hang the daemon some time later.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// Processes and threads that worker, standby and runner, of one user at worst, can do
/// with.
const LEAST_PROCESSES: u64 = 256;

/// Limit that the daemon can't live with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitError {
    /// Files may not grow (RLIMIT_FSIZE).
    #[error(
        "files may grow to {0} bytes only (RLIMIT_FSIZE): a vault or an audit log that comes there \
         ends the daemon; set LimitFSIZE=infinity (systemd), --ulimit fsize=-1 (Docker) or \
         `ulimit -f unlimited`"
    )]
    FileSize(u64),
    /// Too few processes and threads a user (RLIMIT_NPROC).
    #[error(
        "a user may have {limit} processes and threads only (RLIMIT_NPROC), {least} are needed; set \
         LimitNPROC={least} or more (systemd), --ulimit nproc={least} (Docker) or `ulimit -u {least}`"
    )]
    Processes {
        /// The hard limit.
        limit: u64,
        /// The least that will do.
        least: u64,
    },
    /// No capability to end processes of other users.
    #[error(
        "root without CAP_KILL: a worker that hangs could not be ended; add it to \
         CapabilityBoundingSet= (systemd), or --cap-add KILL (Docker)"
    )]
    NoKill,
}

/// Lifts the limits of this process, and of its children, as far as they can be.
pub(crate) fn lift() {
    for resource in [Resource::Fsize, Resource::Nproc] {
        let maximum = getrlimit(resource).maximum;
        let limit = Rlimit {
            current: maximum,
            maximum,
        };
        // Which limit there is then is looked at.
        setrlimit(resource, limit).ok();
    }
}

/// Checks what limits there are once they are lifted.
///
/// # Errors
/// [`LimitError`].
pub(crate) fn check() -> Result<(), LimitError> {
    if let Some(limit) = getrlimit(Resource::Fsize).maximum {
        return Err(LimitError::FileSize(limit));
    }
    match getrlimit(Resource::Nproc).maximum {
        Some(limit) if limit < LEAST_PROCESSES => Err(LimitError::Processes {
            limit,
            least: LEAST_PROCESSES,
        }),
        _ => Ok(()),
    }
}

/// Checks that root can end processes of other users.
///
/// # Errors
/// [`LimitError::NoKill`].
pub(crate) fn check_kill() -> Result<(), LimitError> {
    match capabilities(None) {
        Ok(sets) if !sets.effective.contains(CapabilitySet::KILL) => Err(LimitError::NoKill),
        _ => Ok(()),
    }
}

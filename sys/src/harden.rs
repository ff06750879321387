//! Keep this process's memory out of swap, core dumps and debuggers.

use rustix::io;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{CapabilitySet, capabilities};

/// Extent of the process's memory that is locked after [`harden()`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locking {
    /// Every page, present and future, stays in RAM.
    All,
    /// Only key pages ([`crate::LockedKey`]) stay in RAM; the limit on locked
    /// memory (bytes) was too low for more.
    KeysOnly {
        /// The soft RLIMIT_MEMLOCK in bytes.
        limit: u64,
    },
}

/// Why the process could not be protected.
#[derive(Debug, thiserror::Error)]
pub enum HardenError {
    /// Memory may not be locked without bound.
    #[error(
        "memory cannot be locked: the limit on locked memory is {limit} bytes and CAP_IPC_LOCK is missing; \
         start as root, set LimitMEMLOCK=infinity (systemd), --ulimit memlock=-1 (Docker) or `ulimit -l unlimited`, \
         or set `developer = true` under [vault] to accept that plaintext may reach swap"
    )]
    LockLimit {
        /// The soft RLIMIT_MEMLOCK in bytes.
        limit: u64,
    },
    /// A system call failed.
    #[error("cannot {what}: {errno}")]
    System {
        /// Step that failed.
        what: &'static str,
        /// The kernel's answer.
        errno: io::Errno,
    },
}

fn failed(what: &'static str) -> impl FnOnce(io::Errno) -> HardenError {
    move |errno| HardenError::System { what, errno }
}

/// Forbids core dumps and ptrace by others and locks memory.
///
/// With `developer` a limit too low for locking everything is reported in the
/// result instead of refused.
///
/// # Errors
/// [`HardenError::LockLimit`] when memory cannot be locked and `developer` is
/// not set; [`HardenError::System`] when a call fails.
pub fn harden(developer: bool) -> Result<Locking, HardenError> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none).map_err(failed("forbid core dumps"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(failed("make the process non-dumpable"))?;
    lock_memory(developer)
}

/// Pages are locked as they are touched: buffers are larger than what comes.
fn lock_memory(developer: bool) -> Result<Locking, HardenError> {
    let limit = getrlimit(Resource::Memlock).current;
    let capable = capabilities(None)
        .map_err(failed("read the process's capabilities"))?
        .effective
        .contains(CapabilitySet::IPC_LOCK);
    // Under a finite limit a successful mlockall makes a later allocation fail,
    // which aborts the process: ask the limit, not the call.
    match limit {
        Some(limit) if !capable && developer => Ok(Locking::KeysOnly { limit }),
        Some(limit) if !capable => Err(HardenError::LockLimit { limit }),
        _ => {
            mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
                .map_err(failed("lock memory"))?;
            Ok(Locking::All)
        }
    }
}

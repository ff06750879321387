//! Steps that each process of ours takes when it starts.
//!
//! Runs in: supervisor, workers, runner, keepers; `jarvisctl` asks here for credentials and accounts.
//! Touches: the credential (plaintext), the process's own rights.
//! Imported by: processes.

use std::io;

use crate::config::LogLevel;

pub(crate) mod credential;
pub(crate) mod kernel;
pub(crate) mod limits;
pub(crate) mod privileges;
pub(crate) mod signals;
pub(crate) mod watchdog;

/// Ends the process when a thread panics: a file system that lost one thread
/// looks alive and serves nothing.
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Starts logging to standard error.
pub(crate) fn start_logging(level: LogLevel) {
    let level = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
}

/// Whether this process is root's.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// An account that a process is to run as is missing.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no user `{0}`, as [worker] names it; run: useradd --system --user-group \
     --no-create-home --shell /usr/sbin/nologin {0}"
)]
pub(crate) struct NoSuchUser(pub(crate) String);

/// Processes are to run as users that they may not run as.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnfitUser {
    /// Worker and runner could get at each other.
    #[error(
        "[worker] user and runner_user are both uid {0}: the process with the network could reach \
         the one with the secrets; give each a user of its own"
    )]
    Shared(u32),
    /// A process without privilege would have it.
    #[error("[worker] {0} is root; give it a user of its own")]
    Root(&'static str),
}

/// Checks the uids of worker and runner, where they are not the supervisor's.
///
/// # Errors
/// [`UnfitUser`].
pub(crate) fn check_users(worker: Option<u32>, runner: Option<u32>) -> Result<(), UnfitUser> {
    match (worker, runner) {
        (Some(0), _) => Err(UnfitUser::Root("user")),
        (_, Some(0)) => Err(UnfitUser::Root("runner_user")),
        (Some(uid), Some(other)) if uid == other => Err(UnfitUser::Shared(uid)),
        _ => Ok(()),
    }
}

/// Starts a thread called `name` (15 bytes are shown) that ends with its work or
/// with the process.
///
/// # Errors
/// When no thread can be had.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.into());
    thread.spawn(work).map(drop)
}

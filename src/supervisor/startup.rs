//! Checks and preparations before the first worker is started.

use std::path::Path;

use jarvis_sys::Locking;
use nix::unistd::User;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::error::{LimitError, SupervisorError};
use super::holder_client::HolderClient;
use crate::config::Config;
use crate::process::{NoSuchUser, is_root};

/// Processes and threads that worker, standby and runner, of one user at worst, can do
/// with.
const LEAST_PROCESSES: u64 = 256;

/// Locks memory, looks at the limits that children inherit, keeps inherited fds from
/// them, and checks that `/proc` shows who callers are.
///
/// # Errors
/// [`SupervisorError::Harden`], [`SupervisorError::Limit`], [`SupervisorError::Proc`].
pub(super) fn protect(config: &Config) -> Result<(), SupervisorError> {
    if let Locking::KeysOnly { .. } = jarvis_sys::harden(config.developer)? {
        tracing::warn!("developer mode: the supervisor's memory is not locked");
    }
    if let Err(error) = check_limits() {
        if !config.developer {
            return Err(error.into());
        }
        tracing::warn!(%error, "developer mode");
    }
    if !is_root() {
        tracing::warn!(
            "not root: mounting with fusermount3; only this user can enter the mount, so neither \
             other users nor containers can be served"
        );
    }
    if let Err(error) = jarvis_sys::keep_fds_from_children() {
        tracing::warn!(%error, "fds that the daemon inherited stay open in its workers");
    }
    jarvis_fs::check_proc().map_err(|error| SupervisorError::Proc(error.to_string()))?;
    if jarvis_fs::in_own_pid_namespace().unwrap_or(false) {
        tracing::warn!(
            "in a pid namespace of its own: callers outside of it cannot be identified and are \
             refused (a container needs --pid=host to serve its host)"
        );
    }
    Ok(())
}

/// Limits that would end the daemon some time later are told at the start.
fn check_limits() -> Result<(), LimitError> {
    if let Some(limit) = lifted(Resource::Fsize) {
        return Err(LimitError::FileSize(limit));
    }
    match lifted(Resource::Nproc) {
        Some(limit) if limit < LEAST_PROCESSES => Err(LimitError::Processes {
            limit,
            least: LEAST_PROCESSES,
        }),
        _ => Ok(()),
    }
}

/// The limit on `resource`, after it was lifted as far as it can be; `None` is none.
fn lifted(resource: Resource) -> Option<u64> {
    let maximum = getrlimit(resource).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(resource, limit) {
        Ok(()) => maximum,
        Err(_) => getrlimit(resource).current,
    }
}

/// Uid and gid of the account `name` for a child; `None` when it stays what the
/// supervisor is.
///
/// # Errors
/// [`SupervisorError::Account`], [`SupervisorError::NoSuchUser`].
pub(super) fn account(config: &Config, name: &str) -> Result<Option<(u32, u32)>, SupervisorError> {
    if !is_root() {
        return Ok(None);
    }
    match User::from_name(name)? {
        Some(user) => Ok(Some((user.uid.as_raw(), user.gid.as_raw()))),
        None if config.developer => {
            tracing::warn!(user = %name, "no such user: a process stays root, without capabilities");
            Ok(None)
        }
        None => Err(NoSuchUser(name.into()).into()),
    }
}

/// Connects to the holder at `socket`, which is to keep the mount, if there is to be one.
///
/// # Errors
/// [`SupervisorError::Holder`].
pub(super) fn connect_holder(
    socket: Option<&Path>,
) -> Result<Option<HolderClient>, SupervisorError> {
    let connect = |socket: &Path| {
        HolderClient::connect(socket).map_err(|source| SupervisorError::Holder {
            socket: socket.to_owned(),
            source,
        })
    };
    socket.map(connect).transpose()
}

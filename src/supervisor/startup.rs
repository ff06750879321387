//! Checks and preparations before the first worker is started.

use std::path::Path;

use jarvis_sys::Locking;
use nix::unistd::User;

use super::error::SupervisorError;
use super::holder_client::HolderClient;
use crate::config::{Config, WorkerConfig};
use crate::process::limits::{self, LimitError};
use crate::process::{NoSuchUser, check_users, is_root};

/// Locks memory, looks at the limits that children inherit, keeps inherited fds from
/// them, and checks that `/proc` shows who callers are.
///
/// # Errors
/// [`SupervisorError::Harden`], [`SupervisorError::Limit`], [`SupervisorError::Proc`].
pub(super) fn protect(config: &Config) -> Result<(), SupervisorError> {
    if let Locking::KeysOnly { .. } = jarvis_sys::harden(config.developer)? {
        tracing::warn!("developer mode: the supervisor's memory is not locked");
    }
    limits::lift();
    demand(config, limits::check())?;
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

/// Refuses what is not as it must be; in developer mode it is a warning.
fn demand(config: &Config, checked: Result<(), LimitError>) -> Result<(), LimitError> {
    match checked {
        Err(error) if config.developer => {
            tracing::warn!(%error, "developer mode");
            Ok(())
        }
        checked => checked,
    }
}

/// Uid and gid of workers, and of the runner; none where they stay what the supervisor is.
pub(super) type Accounts = (Option<(u32, u32)>, Option<(u32, u32)>);

/// Accounts of workers and of the runner, which must be two, and none of them root.
///
/// # Errors
/// [`SupervisorError::Account`], [`SupervisorError::NoSuchUser`],
/// [`SupervisorError::UnfitUser`], [`SupervisorError::Limit`].
pub(super) fn accounts(config: &Config) -> Result<Accounts, SupervisorError> {
    let WorkerConfig { user, runner_user } = &config.worker;
    let (worker, runner) = (account(config, user)?, account(config, runner_user)?);
    let uid = |account: Option<(u32, u32)>| account.map(|(uid, _)| uid);
    check_users(uid(worker), uid(runner))?;
    if worker.is_some() || runner.is_some() {
        demand(config, limits::check_kill())?;
    }
    Ok((worker, runner))
}

/// Uid and gid of the account `name` for a child; `None` when it stays what the
/// supervisor is.
///
/// # Errors
/// [`SupervisorError::Account`], [`SupervisorError::NoSuchUser`].
fn account(config: &Config, name: &str) -> Result<Option<(u32, u32)>, SupervisorError> {
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

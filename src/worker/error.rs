//! Why a worker can't go on.

use std::io;

use jarvis_audit::OpenError;
use jarvis_fs::MountError;
use jarvis_vault::VaultError;
use rustix::io::Errno;

use crate::common::policy_file::LoadError;
use crate::worker::sandbox::SandboxError;

/// Reason why a worker ends; the supervisor gets its text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// A socket, a thread or a file failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A system call failed.
    #[error(transparent)]
    Errno(#[from] Errno),
    /// The process's memory can't be locked or kept from others.
    #[error(transparent)]
    Harden(#[from] jarvis_sys::HardenError),
    /// The sandbox could not be entered.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The vault could not be opened.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The audit log could not be opened.
    #[error(transparent)]
    Audit(#[from] OpenError),
    /// The policy in force can't be read any more.
    #[error(transparent)]
    Policy(#[from] LoadError),
    /// A table that outlives workers is not what it must be.
    #[error(transparent)]
    Table(#[from] jarvis_fs::FsError),
    /// The device can't be served.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Two metrics have one name.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// The supervisor said what it must not say now.
    #[error("{0}")]
    Protocol(&'static str),
    /// Neither root key nor credential is there.
    #[error("there is nothing to unlock the vault with")]
    NothingToUnlock,
    /// Records of commits that the last worker made can't be written.
    #[error("the audit log cannot take the records of the last run")]
    RecordsOwed,
}

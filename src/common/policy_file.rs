//! The policy file: read within a bound and compiled. One that is to be in force must be
//! trusted ([`jarvis_sys::trust`]).

use std::fs::File;
use std::path::{Path, PathBuf};

use jarvis_policy::{Policy, PolicyError};
use jarvis_sys::trust::{self, Rule, TrustError};

use crate::common::accounts::SystemAccounts;
use crate::common::bounded;
use crate::common::subordinate_ids::SubordinateError;

/// Largest policy file, in bytes.
pub(crate) const MAX_POLICY: u64 = 1024 * 1024;

/// Why a policy was not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// Reading the file failed.
    #[error("cannot read the policy {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file can't be opened, or others could change it.
    #[error("cannot read the policy: {0}")]
    Distrusted(#[from] TrustError),
    /// The ids that are somebody else's can't be told.
    #[error(transparent)]
    SubordinateIds(#[from] SubordinateError),
    /// The text is no policy.
    #[error("policy {path}: {source}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Line, column and why.
        source: PolicyError,
    },
    /// Nobody could load another one through the control file.
    #[error(
        "policy {path}: no client in it has the verb `policy`, so that nobody could load the next \
         one with jarvisctl; give it to one (by `verbs: [\"*\"]` with `allow: [\"*\"]`), or use --force"
    )]
    LocksOut {
        /// The file.
        path: PathBuf,
    },
}

/// Reads and compiles the policy at `path`, which is to be in force.
///
/// # Errors
/// [`LoadError`].
pub(crate) fn load_policy(path: &Path) -> Result<Policy, LoadError> {
    read_policy(path, trust::open(path, Rule::FILE)?)
}

/// Reads and compiles the policy at `path`, anybody's.
///
/// # Errors
/// [`LoadError`].
pub(crate) fn try_policy(path: &Path) -> Result<Policy, LoadError> {
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    read_policy(path, file)
}

/// Reads and compiles the policy in `file`, which was opened as `path`.
///
/// # Errors
/// [`LoadError`].
pub(crate) fn read_policy(path: &Path, file: File) -> Result<Policy, LoadError> {
    let text = bounded::text(file, MAX_POLICY).map_err(|source| unreadable(path, source))?;
    Policy::parse(&text, &SystemAccounts).map_err(|source| LoadError::Refused {
        path: path.to_owned(),
        source,
    })
}

/// The text of the policy at `path`, which is to be in force, not compiled.
///
/// # Errors
/// [`LoadError::Distrusted`], [`LoadError::Read`].
pub(crate) fn policy_text(path: &Path) -> Result<String, LoadError> {
    let file = trust::open(path, Rule::FILE)?;
    bounded::text(file, MAX_POLICY).map_err(|source| unreadable(path, source))
}

/// [`LoadError::Read`] of `path`.
pub(crate) fn unreadable(path: &Path, source: std::io::Error) -> LoadError {
    LoadError::Read {
        path: path.to_owned(),
        source,
    }
}

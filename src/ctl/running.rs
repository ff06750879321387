//! Status and places of the running daemon, by its own words.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::request;
use super::exit::{CommandError, ErrorCode};

/// DaemonPlaces of the daemon that serves a mount.
#[derive(Debug, Deserialize)]
pub(super) struct DaemonPlaces {
    /// Its configuration.
    pub(super) config: PathBuf,
    /// Directory of its audit log.
    pub(super) audit: PathBuf,
    /// Its public identity.
    pub(super) identity: PathBuf,
    /// Its host, as records name it.
    pub(super) host: String,
    /// Address of its HTTP port, while it listens on one.
    pub(super) http: Option<String>,
}

/// Asks the daemon that serves `mount` how it is.
///
/// # Errors
/// When none answers, or the caller may not ask.
pub(super) fn status(mount: &Path) -> Result<Value, CommandError> {
    // Who asks on a mount that nobody serves waits.
    if jarvis_fs::answers(mount).is_none() {
        let message = format!("{} is mounted and nobody answers", mount.display());
        return Err(CommandError::new(ErrorCode::Unreachable, message));
    }
    request(mount, &json!({"op": "status"}))
}

impl DaemonPlaces {
    /// DaemonPlaces of the daemon that serves `mount`.
    ///
    /// # Errors
    /// As [`status`].
    pub(super) fn of_daemon(mount: &Path) -> Result<Self, CommandError> {
        Self::in_status(&status(mount)?).ok_or_else(|| {
            let message = "the daemon does not tell its directories: it is of another version";
            CommandError::other(message)
        })
    }

    /// DaemonPlaces in an answer of [`status`].
    pub(super) fn in_status(status: &Value) -> Option<Self> {
        Self::deserialize(status.get("places")?).ok()
    }
}

//! Status and places of the running daemon, by its own words.

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::request;
use super::exit::{CommandError, ErrorCode};

/// Time that a daemon has to answer, between two workers and on a busy machine, too.
const PATIENCE: Duration = Duration::from_secs(5);

/// Places of the daemon that serves a mount.
#[derive(Debug, Deserialize)]
pub(super) struct DaemonPlaces {
    /// Its configuration.
    pub(super) config: PathBuf,
    /// Directory of its audit log.
    pub(super) audit: PathBuf,
    /// Its public identity.
    pub(super) identity: PathBuf,
    /// Address of its HTTP port, while it listens on one.
    pub(super) http: Option<String>,
}

/// Asks the daemon that serves `mount` how it is.
///
/// # Errors
/// When none answers, or the caller may not ask.
pub(super) fn status(mount: &Path) -> Result<Value, CommandError> {
    // Who asks on a mount that nobody serves waits: in a thread that may be left behind.
    let (sender, receiver) = channel();
    let path = mount.to_owned();
    std::thread::spawn(move || sender.send(request(&path, &json!({"op": "status"}))).ok());
    receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        let message = format!("{} is mounted and nobody answers", mount.display());
        Err(CommandError::new(ErrorCode::Unreachable, message))
    })
}

impl DaemonPlaces {
    /// Places of the daemon that serves `mount`.
    ///
    /// # Errors
    /// As [`status`].
    pub(super) fn of_daemon(mount: &Path) -> Result<Self, CommandError> {
        Self::in_status(&status(mount)?).ok_or_else(|| {
            let message = "the daemon does not tell its directories: it is of another version";
            CommandError::other(message)
        })
    }

    /// Places in an answer of [`status`].
    pub(super) fn in_status(status: &Value) -> Option<Self> {
        Self::deserialize(status.get("places")?).ok()
    }
}

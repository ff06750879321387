//! Text of the policy: the one in force, and the one that a worker is trying.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};

use super::error::SupervisorError;
use super::tables::PersistentTables;
use crate::common::policy_file::policy_text;

/// Policy, as text: only workers compile it.
pub(super) struct PolicyText {
    in_force: String,
    /// Text given to a worker last, which has not accepted it yet.
    offered: Option<String>,
    /// A SIGHUP came, and no worker has asked for the text since.
    pub(super) reload_pending: bool,
}

impl PolicyText {
    /// Finds the policy that is in force at the start. For a mount that was taken
    /// over that is the text in its `tables`: an edited policy is in force once it is
    /// loaded, not because the supervisor was restarted.
    ///
    /// # Errors
    /// [`SupervisorError::Policy`], [`SupervisorError::Tables`].
    pub(super) fn at_start(
        path: &Path,
        tables: &PersistentTables,
        adopted: bool,
    ) -> Result<Self, SupervisorError> {
        let in_force = if adopted {
            tables.policy()?
        } else {
            policy_text(path)?
        };
        if policy_text(path).is_ok_and(|edited| edited != in_force) {
            tracing::warn!(
                "the policy was edited and is not loaded yet; run: jarvisctl policy reload"
            );
        }
        tables.set_policy(&in_force)?;
        Ok(Self::new(in_force))
    }

    /// Text that is in force.
    pub(super) fn new(in_force: String) -> Self {
        Self {
            in_force,
            offered: None,
            reload_pending: false,
        }
    }

    /// Text that is in force.
    pub(super) fn in_force(&self) -> &str {
        &self.in_force
    }

    /// Copy of the text in force, for a worker that opens.
    ///
    /// # Errors
    /// [`SupervisorError::PolicyCopy`].
    pub(super) fn copy(&self) -> Result<OwnedFd, SupervisorError> {
        memfd_with(&self.in_force).map_err(SupervisorError::PolicyCopy)
    }

    /// Reads the text at `path` for a worker that is to try it.
    ///
    /// # Errors
    /// [`SupervisorError::Policy`], [`SupervisorError::PolicyCopy`].
    pub(super) fn offer(&mut self, path: &Path) -> Result<OwnedFd, SupervisorError> {
        let text = policy_text(path)?;
        let copy = memfd_with(&text).map_err(SupervisorError::PolicyCopy)?;
        self.offered = Some(text);
        Ok(copy)
    }

    /// Puts the offered text in force: the next worker gets it, and with `tables` the
    /// next supervisor.
    ///
    /// # Errors
    /// [`SupervisorError::Tables`].
    pub(super) fn accept(&mut self, tables: &PersistentTables) -> Result<(), SupervisorError> {
        if let Some(text) = self.offered.take() {
            tables.set_policy(&text)?;
            self.in_force = text;
        }
        Ok(())
    }
}

/// Memory file with `text`, for one reader: its place in the file is its own.
fn memfd_with(text: &str) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("jarvis-policy", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}

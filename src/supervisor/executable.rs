//! The program that children are started from.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Program, held open: whatever is installed in its place changes nothing until an
/// upgrade is asked for.
pub(super) struct Executable {
    /// Where the program is installed, for an upgrade.
    installed: PathBuf,
    /// Program in use; without it that at [`Self::installed`].
    current: Option<File>,
    /// Program that served last, kept until the current one serves, too.
    previous: Option<File>,
}

impl Executable {
    /// Program of this process.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn own() -> io::Result<Self> {
        Ok(Self {
            installed: std::env::current_exe()?,
            current: Some(File::open("/proc/self/exe")?),
            previous: None,
        })
    }

    /// Program at `installed`, whatever is there when it is started.
    #[cfg(test)]
    pub(super) fn at(installed: PathBuf) -> Self {
        Self {
            installed,
            current: None,
            previous: None,
        }
    }

    /// Where the program is installed.
    pub(super) fn installed(&self) -> &Path {
        &self.installed
    }

    /// Path to start children from.
    pub(super) fn path(&self) -> PathBuf {
        match &self.current {
            Some(file) => PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
            None => self.installed.clone(),
        }
    }

    /// Takes the program that is installed now, on trial.
    ///
    /// # Errors
    /// What the system says; then nothing has changed.
    pub(super) fn try_installed(&mut self) -> io::Result<()> {
        let new = File::open(&self.installed)?;
        let before = self.current.replace(new);
        // Of several upgrades in a row only the first one replaced what had served.
        self.previous = self.previous.take().or(before);
        Ok(())
    }

    /// Ends the trial: the current program serves.
    pub(super) fn confirm(&mut self) {
        self.previous = None;
    }

    /// Goes back to the program that served, if another is on trial.
    pub(super) fn fall_back(&mut self) {
        if let Some(previous) = self.previous.take() {
            tracing::error!("the new program fails: workers are started from the one before");
            self.current = Some(previous);
        }
    }
}

//! Where the audit log is, and its records one by one.

use std::path::{Path, PathBuf};

use clap::Args;
use jarvis_audit::{PublicIdentity, Record, read_records};

use crate::ctl::exit::CommandError;
use crate::ctl::home::HomeDirectory;

/// Options that say where the log is.
#[derive(Args)]
pub(super) struct LogLocation {
    #[command(flatten)]
    home: HomeDirectory,
    /// Directory of the log (default: DIR/audit)
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
}

impl LogLocation {
    /// Directory of the log.
    pub(super) fn directory(&self) -> PathBuf {
        self.log
            .clone()
            .unwrap_or_else(|| self.home.dir.join("audit"))
    }

    /// Public identity of the host, from `file` or from where `init` put it.
    pub(super) fn identity(&self, file: Option<&Path>) -> Result<PublicIdentity, CommandError> {
        let default = self.home.dir.join("identity.pub");
        PublicIdentity::open(file.unwrap_or(&default)).map_err(CommandError::other)
    }

    /// Every record, the oldest first; nothing is kept of those that were read.
    pub(super) fn records(
        &self,
    ) -> Result<impl Iterator<Item = Result<Record, CommandError>>, CommandError> {
        let log = self.directory();
        let records = read_records(&log).map_err(|e| CommandError::io("open", &log, &e))?;
        Ok(records.map(move |record| record.map_err(|e| CommandError::io("read", &log, &e))))
    }
}

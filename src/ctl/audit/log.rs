//! Where the audit log is, and its records one by one.

use std::path::{Path, PathBuf};
use std::{fs, io};

use clap::Args;
use jarvis_audit::{PublicIdentity, Record, read_records};

use crate::ctl::exit::{CommandError, ErrorCode};
use crate::ctl::home::HomeDirectory;
use crate::ctl::running::DaemonPlaces;

/// Options that say where the log is, for one that is not the running daemon's.
#[derive(Args)]
pub(super) struct LogLocation {
    #[command(flatten)]
    home: HomeDirectory,
    /// Directory of the log, such as a copy's (default: DIR/audit)
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
}

/// An audit log, and the file that has its host's public identity.
pub(super) struct AuditLog {
    directory: PathBuf,
    identity: PathBuf,
}

impl LogLocation {
    /// The log that the options name; without any, that of the daemon that serves `mount`. One
    /// that is named is read without a look at the mount: who asks there while a holder keeps it
    /// and nobody serves can't even be killed.
    ///
    /// # Errors
    /// When nothing is named and no daemon answers, and when there is no log.
    pub(super) fn resolve(&self, mount: &Path) -> Result<AuditLog, CommandError> {
        let found = match (&self.log, &self.home.dir) {
            (Some(log), home) => AuditLog {
                directory: log.clone(),
                // A copy of `DIR` has it beside the log.
                identity: home
                    .as_deref()
                    .or(log.parent())
                    .unwrap_or(Path::new(""))
                    .join("identity.pub"),
            },
            (None, Some(home)) => AuditLog {
                directory: home.join("audit"),
                identity: home.join("identity.pub"),
            },
            (None, None) => {
                let running = DaemonPlaces::of_daemon(mount);
                let places =
                    running.map_err(|error| error.with_advice("name its directory with --dir"))?;
                AuditLog {
                    directory: places.audit,
                    identity: places.identity,
                }
            }
        };
        found.check_present()?;
        Ok(found)
    }
}

impl AuditLog {
    /// Directory of the log.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Public identity of the host, from `file` or from where the host has it.
    pub(super) fn identity(&self, file: Option<&Path>) -> Result<PublicIdentity, CommandError> {
        PublicIdentity::open(file.unwrap_or(&self.identity)).map_err(CommandError::other)
    }

    /// Every record, the oldest first; nothing is kept of those that were read.
    pub(super) fn records(
        &self,
    ) -> Result<impl Iterator<Item = Result<Record, CommandError>>, CommandError> {
        let log = self.directory();
        let records = read_records(log).map_err(|e| CommandError::io("open", log, &e))?;
        Ok(records.map(move |record| record.map_err(|e| CommandError::io("read", log, &e))))
    }

    /// Refuses a directory without a log: no record of it is bad, there is none.
    fn check_present(&self) -> Result<(), CommandError> {
        let failed = |error: &io::Error| {
            CommandError::io("look for an audit log in", &self.directory, error)
        };
        let mut entries = fs::read_dir(&self.directory).map_err(|error| failed(&error))?;
        let is_segment = |entry: io::Result<fs::DirEntry>| {
            entry.map(|entry| Path::new(&entry.file_name()).extension() == Some("jsonl".as_ref()))
        };
        match entries.find_map(|entry| is_segment(entry).map(|is| is.then_some(())).transpose()) {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(failed(&error)),
            None => {
                let message = format!("there is no audit log in {}", self.directory.display());
                Err(CommandError::new(ErrorCode::NotFound, message))
            }
        }
    }
}

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
    /// The log that the options name; without any, that of the daemon that serves `mount`.
    ///
    /// # Errors
    /// When nothing is named and no daemon answers, and when the running daemon is another
    /// host than the directory's: its log would tell nothing of this one.
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
        if let (None, Some(home)) = (&self.log, &self.home.dir) {
            found.check_host(home, mount)?;
        }
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

    /// Refuses the log in `home` if the daemon that serves `mount` is another host.
    fn check_host(&self, home: &Path, mount: &Path) -> Result<(), CommandError> {
        // Without a daemon, or the right to ask it, the directory is all there is.
        let Ok(running) = DaemonPlaces::of_daemon(mount) else {
            return Ok(());
        };
        let identity = PublicIdentity::open(&self.identity).map_err(CommandError::other)?;
        let host = identity.host().to_string();
        if host == running.host {
            return Ok(());
        }
        let message = format!(
            "the log in {} is host {host}'s, the daemon that serves {} is {} and writes to {}; \
             for a log of another host name the log itself with --log, and --identity",
            home.display(),
            mount.display(),
            running.host,
            running.audit.display()
        );
        Err(CommandError::new(ErrorCode::Usage, message))
    }
}

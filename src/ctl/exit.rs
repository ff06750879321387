//! Exit codes, a documented interface.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::common::escape;

/// Text under `--help`.
pub(super) const HELP: &str = "Exit codes: 0 ok, 1 other failure, 2 usage, 3 denied, 4 not found, \
     5 daemon unreachable, 6 integrity failure, \
     7 conflict (it exists already, or somebody was faster)";

/// Exit code of a failed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ErrorCode {
    Other = 1,
    Usage = 2,
    Denied = 3,
    NotFound = 4,
    Unreachable = 5,
    Integrity = 6,
    Conflict = 7,
}

/// Failure of a command: its exit code, and a sentence for people.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct CommandError {
    code: ErrorCode,
    message: String,
}

impl CommandError {
    pub(super) fn new(code: ErrorCode, message: impl Display) -> Self {
        let message = message.to_string();
        Self { code, message }
    }

    pub(super) fn other(error: impl Display) -> Self {
        Self::new(ErrorCode::Other, error)
    }

    /// Refusal of `text`: it is no good as `what`.
    pub(super) fn invalid(what: &str, text: &str, why: impl Display) -> Self {
        Self::new(ErrorCode::Usage, format!("{what} {text:?}: {why}"))
    }

    /// Failure of `what` on `path`, its code by the errno.
    pub(super) fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::new(
            code_of(error),
            format!("cannot {what} {}: {error}", path.display()),
        )
    }

    /// The failure, with what to do about it.
    pub(super) fn with_advice(mut self, advice: &str) -> Self {
        self.message = format!("{}; {advice}", self.message);
        self
    }

    pub(super) fn code(&self) -> ErrorCode {
        self.code
    }

    /// Tells the failure on standard error.
    pub(super) fn report(&self) -> ExitCode {
        // Nobody is left to tell when this fails too.
        writeln!(io::stderr(), "jarvisctl: {}", escape::lines(&self.message)).ok();
        ExitCode::from(self.code as u8)
    }
}

/// Code for an errno of the file system.
pub(super) fn code_of(error: &io::Error) -> ErrorCode {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::ACCESS | Errno::PERM | Errno::KEYREVOKED | Errno::KEYEXPIRED) => {
            ErrorCode::Denied
        }
        Some(Errno::NOENT) => ErrorCode::NotFound,
        Some(Errno::EXIST | Errno::STALE) => ErrorCode::Conflict,
        Some(Errno::NOTCONN | Errno::CONNABORTED) => ErrorCode::Unreachable,
        Some(Errno::INVAL | Errno::MSGSIZE | Errno::NAMETOOLONG) => ErrorCode::Usage,
        _ => ErrorCode::Other,
    }
}

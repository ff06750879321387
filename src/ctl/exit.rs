//! Exit codes, a documented interface.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Shown under `--help`.
pub(super) const HELP: &str = "Exit codes: 0 ok, 1 other failure, 2 usage, 3 denied, 4 not found, \
     5 daemon unreachable, 6 integrity failure";

/// Why a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    Other = 1,
    Usage = 2,
    Denied = 3,
    NotFound = 4,
    Unreachable = 5,
    Integrity = 6,
}

/// A failure and what to tell.
#[derive(Debug)]
pub(super) struct Failure {
    code: Code,
    message: String,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(super) fn other(error: impl std::fmt::Display) -> Self {
        Self::new(Code::Other, error.to_string())
    }

    /// A failure of `what` on `path`, its code by the errno.
    pub(super) fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::new(
            code_of(error),
            format!("cannot {what} {}: {error}", path.display()),
        )
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn report(&self) -> ExitCode {
        // Nobody is left to tell when this fails too.
        writeln!(io::stderr(), "jarvisctl: {}", self.message).ok();
        ExitCode::from(self.code as u8)
    }
}

/// The code for an errno of the file system.
pub(super) fn code_of(error: &io::Error) -> Code {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::ACCESS | Errno::PERM | Errno::KEYREVOKED | Errno::KEYEXPIRED) => Code::Denied,
        Some(Errno::NOENT) => Code::NotFound,
        Some(Errno::NOTCONN | Errno::CONNABORTED) => Code::Unreachable,
        Some(Errno::INVAL | Errno::MSGSIZE | Errno::NAMETOOLONG) => Code::Usage,
        _ => Code::Other,
    }
}

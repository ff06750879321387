//! Messages between the runner and a keeper.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ipc::Channel;

/// The runner's end of the socket to a keeper.
pub(crate) type KeeperChannel = Channel<ProgramSpec, ExitCause>;
/// A keeper's end of the socket to the runner.
pub(crate) type KeeperEnd = Channel<ExitCause, ProgramSpec>;

/// Program for a keeper to run. Fds: its directory, then its input or the
/// values, as `kind` says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProgramSpec {
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) kind: ProgramKind,
    pub(crate) limit_ms: u64,
    /// Files of the own user are trusted like root's: there is no root.
    pub(crate) trust_self: bool,
}

/// Kind of a program, which says what it is given.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum ProgramKind {
    /// The old value, if `has_old`, as fd 3, and the new one as fd 4.
    Hook { has_old: bool },
    /// A text as standard input.
    Notification,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ExitCause {
    /// With this exit status.
    Exited(u8),
    /// By this signal.
    Killed(u8),
    /// By the keeper: it took too long.
    TimedOut,
    /// Before it began.
    Refused(StartRefusal),
    /// Not known: its keeper is gone, or nobody waits for it any more.
    Lost,
}

/// Why a program was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartRefusal {
    /// No directory of hooks is configured.
    NoDirectory,
    /// The directory belongs to a user who is not trusted.
    DirectoryOwner,
    /// The directory can be written by others.
    DirectoryWritable,
    /// The file is not there.
    Missing,
    /// The file is a link, a directory or something else that is no regular file.
    NoFile,
    /// The file belongs to a user who is not trusted.
    Owner,
    /// The file can be written by others.
    Writable,
    /// Nobody may execute the file.
    NotExecutable,
    /// Too many programs are at work.
    Busy,
    /// The system refused, with this errno.
    System(i32),
}

impl fmt::Display for StartRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoDirectory => "the configuration names no [hooks] dir",
            Self::DirectoryOwner => "its directory does not belong to root",
            Self::DirectoryWritable => "its directory can be written by group or others",
            Self::Missing => "it is not there",
            Self::NoFile => "it is no regular file",
            Self::Owner => "it does not belong to root",
            Self::Writable => "it can be written by group or others",
            Self::NotExecutable => "it is not executable",
            Self::Busy => "too many are at work",
            Self::System(errno) => {
                return std::io::Error::from_raw_os_error(*errno).fmt(f);
            }
        })
    }
}

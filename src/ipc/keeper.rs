//! What runner and keeper say to each other.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ipc::Channel;

/// The runner's end of the socket to a keeper.
pub(crate) type KeeperChannel = Channel<Task, End>;
/// A keeper's end of the socket to the runner.
pub(crate) type KeeperEnd = Channel<End, Task>;

/// From the runner to a keeper: a program to run. Fds: its directory, then its
/// input or the values, as `kind` says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) kind: TaskKind,
    pub(crate) limit_ms: u64,
    /// What belongs to the own user is as good as root's: there is no root.
    pub(crate) trust_self: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum TaskKind {
    /// The old value, if `old`, as fd 3, and the new one as fd 4.
    Hook { old: bool },
    /// A text as standard input.
    Notice,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    /// With this exit status.
    Exited(u8),
    /// By this signal.
    Killed(u8),
    /// It was ended for it took too long.
    TimedOut,
    /// It never began.
    Refused(Refusal),
    /// Whoever kept it is gone.
    Lost,
}

/// Why a program was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// No directory of hooks is configured.
    NoDirectory,
    /// The directory belongs to somebody who must not have it.
    DirectoryOwner,
    /// Others may write the directory.
    DirectoryWritable,
    /// There is no such file.
    Missing,
    /// It is a link, a directory or something else that is no file.
    NoFile,
    /// It belongs to somebody who must not have it.
    Owner,
    /// Others may write it.
    Writable,
    /// Nobody may execute it.
    NotExecutable,
    /// Too many programs are at work.
    Busy,
    /// The system refused, with this errno.
    System(i32),
}

impl fmt::Display for Refusal {
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

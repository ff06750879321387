//! Questions of a worker about threads, which it may not look into itself, and the
//! supervisor's answers.

use serde::{Deserialize, Serialize};

use crate::ipc::Channel;

/// A worker's end of the socket for its questions.
pub(crate) type ThreadQuestions = Channel<ThreadQuestion, ThreadReply>;
/// The supervisor's end.
pub(crate) type ThreadReplies = Channel<ThreadReply, ThreadQuestion>;

/// Thread that a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ThreadRef {
    /// The thread's id in this pid namespace, which others may have after it.
    pub(crate) tid: u32,
    /// The thread's number, which no other ever has; none before Linux 6.9.
    pub(crate) thread: Option<u64>,
}

/// Question about a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ThreadQuestion {
    /// The executable that it runs.
    Exe(ThreadRef),
    /// The owner of the user namespace that it is in; only asked while it waits for the
    /// worker.
    Namespace(ThreadRef),
}

/// Answer to a question about a thread.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ThreadReply {
    pub(crate) question: ThreadQuestion,
    /// `None` when it is gone, or can't be shown or found out.
    pub(crate) answer: Option<ThreadAnswer>,
}

/// Fact about a thread.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ThreadAnswer {
    /// The path of its executable.
    Exe(String),
    /// The outermost user namespace that it is in, below the daemon's.
    Namespace {
        /// The user that made it.
        owner: u32,
        /// Its number.
        number: u32,
    },
}

/// Longest path of an executable that is recorded.
const MAX_PATH_BYTES: usize = 1024;

/// Whether a path can stand in a record and be shown on a terminal.
pub(crate) fn printable(path: &str) -> bool {
    !path.is_empty() && path.len() <= MAX_PATH_BYTES && !path.chars().any(char::is_control)
}

//! Questions of a worker about executables, and the supervisor's answers.

use serde::{Deserialize, Serialize};

use crate::ipc::Channel;

/// A worker's end of the socket for its questions.
pub(crate) type ExeQuestions = Channel<ThreadRef, ExeReply>;
/// The supervisor's end.
pub(crate) type ExeReplies = Channel<ExeReply, ThreadRef>;

/// Thread that a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ThreadRef {
    /// The thread's id in this pid namespace, which others may have after it.
    pub(crate) tid: u32,
    /// The thread's number, which no other ever has.
    pub(crate) thread: u64,
}

/// Answer to a question about a thread.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExeReply {
    pub(crate) thread: ThreadRef,
    /// The path of its executable; `None` when it is gone or can't be shown.
    pub(crate) path: Option<String>,
}

/// Longest path of an executable that is recorded.
const MAX_PATH_BYTES: usize = 1024;

/// Whether a path can stand in a record and be shown on a terminal.
pub(crate) fn printable(path: &str) -> bool {
    !path.is_empty() && path.len() <= MAX_PATH_BYTES && !path.chars().any(char::is_control)
}

//! Errors that end the runner.

use std::io;

use rustix::io::Errno;

/// Why the runner does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunnerError {
    /// The system refused something.
    #[error(transparent)]
    System(#[from] io::Error),
    /// An event has no JSON.
    #[error(transparent)]
    Body(#[from] serde_json::Error),
    /// The supervisor began with something else.
    #[error("the first message did not say who to be")]
    NotConfigured,
    /// Another message came in the place of a sink.
    #[error("fewer sinks came than were announced")]
    MissingSink,
    /// A message for the start came later.
    #[error("an unexpected message")]
    UnexpectedMessage,
    /// A sink with a command came without an fd.
    #[error("a command came without its directory")]
    NoDirectory,
    /// The path of a sink's command has no last part.
    #[error("a command has no name")]
    NamelessCommand,
    /// A sink says neither how nor whom to tell.
    #[error("a sink is neither command nor webhook")]
    NoReceiver,
    /// A key of signatures is too short or too long.
    #[error("a [[notify]] secret_file must have {min} to {max} bytes")]
    KeyLength {
        /// Fewest bytes.
        min: usize,
        /// Most bytes.
        max: usize,
    },
}

impl From<Errno> for RunnerError {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

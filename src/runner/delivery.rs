//! Deliveries of notifications: how they fail, and when they are tried again.

use std::io;
use std::time::Duration;

use backon::ExponentialBuilder;

use crate::ipc::keeper::{ExitCause, StartRefusal};

/// The first pause before another attempt; each doubles, up to [`MAX_PAUSE`], and
/// up to as much again is added by chance.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// The pauses between at most `attempts` attempts.
pub(super) fn pauses(attempts: usize) -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(MAX_PAUSE)
        .with_max_times(attempts.saturating_sub(1))
        .with_jitter()
}

/// Why a delivery failed; never with the address, which may be a secret by itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeliveryError {
    /// A webhook's address is none.
    #[error("bad address")]
    BadAddress,
    /// A webhook gave no answer.
    #[error(transparent)]
    Request(ureq::Error),
    /// A webhook's answer is not one of success.
    #[error("the answer has status {0}")]
    Status(u16),
    /// A command's input found no place.
    #[error(transparent)]
    Input(io::Error),
    /// A command failed.
    #[error("the command ended with exit status {0}")]
    Failed(u8),
    /// A command was killed.
    #[error("the command was ended by signal {0}")]
    Killed(u8),
    /// A command was ended.
    #[error("the command took too long")]
    TimedOut,
    /// A command did not begin.
    #[error("the command was not started: {0}")]
    Refused(StartRefusal),
    /// A command's end is not known.
    #[error("the command's keeper was killed")]
    KeeperLost,
}

impl From<ureq::Error> for DeliveryError {
    fn from(error: ureq::Error) -> Self {
        match error {
            // Both show the address.
            ureq::Error::BadUri(_) | ureq::Error::RequireHttpsOnly(_) => Self::BadAddress,
            error => Self::Request(error),
        }
    }
}

impl DeliveryError {
    /// Whether another attempt may succeed.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::BadAddress => false,
            // Come back later; the others mean the same the next time.
            Self::Status(status) => matches!(status, 408 | 429 | 500..),
            // An admin may put right what is wrong with a command's file meanwhile.
            Self::Request(_)
            | Self::Input(_)
            | Self::Failed(_)
            | Self::Killed(_)
            | Self::TimedOut
            | Self::Refused(_)
            | Self::KeeperLost => true,
        }
    }
}

/// The result of a delivery by a command that ended with `cause`.
pub(super) fn delivery_result(cause: ExitCause) -> Result<(), DeliveryError> {
    match cause {
        ExitCause::Exited(0) => Ok(()),
        ExitCause::Exited(status) => Err(DeliveryError::Failed(status)),
        ExitCause::Killed(signal) => Err(DeliveryError::Killed(signal)),
        ExitCause::TimedOut => Err(DeliveryError::TimedOut),
        ExitCause::Refused(why) => Err(DeliveryError::Refused(why)),
        ExitCause::Lost => Err(DeliveryError::KeeperLost),
    }
}

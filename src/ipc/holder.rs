//! Messages between supervisor and holder.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ipc::Channel;

/// A supervisor's end of the socket to the holder.
pub(crate) type HolderChannel = Channel<ToHolder, FromHolder>;
/// The holder's end.
pub(crate) type HolderEnd = Channel<FromHolder, ToHolder>;

/// To the holder: whoever says it is root.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum ToHolder {
    /// Give what an earlier supervisor left.
    Recover,
    /// Keep a mount. Fds: the device, then the tables in the order of the supervisor's.
    Keep(KeptMount),
    /// Forget the mount, which is gone.
    Withdraw,
    /// Leave the device alone from now on: a worker is about to read it.
    Pause,
    /// A worker serves the device.
    Serving,
    /// Nobody serves the device.
    Unserved,
    /// Say that you live.
    Ping,
}

/// From the holder.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum FromHolder {
    /// The answer to [`ToHolder::Recover`], with the fds of the last [`ToHolder::Keep`];
    /// without, when nothing was left.
    Recovered,
    /// The answer to [`ToHolder::Keep`].
    Kept,
    /// The answer to [`ToHolder::Pause`].
    Paused,
    /// The answer to [`ToHolder::Ping`].
    Pong,
    /// Requests were read from a device that a worker should have served: it must be
    /// replaced, for only the next one looks for them.
    Took,
}

/// A mount that is to be kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptMount {
    /// The mount point.
    pub(crate) path: PathBuf,
    /// Whether a worker reads the device, or is about to: then nobody else may.
    pub(crate) served: bool,
}

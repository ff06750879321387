//! jarvis-secretsd: secrets as files.
//!
//! This package only composes: the file system (`jarvis-fs`), the vault
//! (`jarvis-vault`), the policy (`jarvis-policy`) and the audit log
//! (`jarvis-audit`) know nothing of each other and meet in `worker/`.
#![forbid(unsafe_code)]

mod common;
pub mod config;
pub mod ctl;
pub mod daemon;
mod holder;
mod ipc;
mod process;
mod runner;
mod supervisor;
mod worker;

/// Doors for tests, benches and fuzz targets; nothing else may use them.
#[doc(hidden)]
pub mod testing {
    pub use crate::common::clock::follow_clock;
    pub use crate::ipc::keeper::StartRefusal;
    pub use crate::ipc::runner::{Event, HookName, HookPhase};
    pub use crate::process::abort_on_panic;
    pub use crate::process::privileges::drop_privileges;
    pub use crate::supervisor::RunnerProcess as Runner;
    pub use crate::worker::runner_client::{HookError, HookSubject, RunnerClient};
    pub use crate::worker::sandbox;

    use crate::ipc::is_message;
    use crate::ipc::programs::ThreadRef;
    use crate::ipc::runner::{FromRunner, ToRunner};
    use crate::ipc::worker::FromWorker;

    /// Whether `bytes` are a worker's message, or its question about a thread.
    #[must_use]
    pub fn is_worker_message(bytes: &[u8]) -> (bool, bool) {
        (
            is_message::<FromWorker>(bytes),
            is_message::<ThreadRef>(bytes),
        )
    }

    /// Whether `bytes` are a message to the runner, or from it.
    #[must_use]
    pub fn is_runner_message(bytes: &[u8]) -> (bool, bool) {
        (
            is_message::<ToRunner>(bytes),
            is_message::<FromRunner>(bytes),
        )
    }

    /// Whether `bytes` are a control request.
    #[must_use]
    pub fn is_control_request(bytes: &[u8]) -> bool {
        crate::worker::request::parse(bytes).is_ok()
    }
}

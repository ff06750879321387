//! jarvis-secretsd: secrets as files.
//!
//! This package only composes: the file system (`jarvis-fs`), the vault
//! (`jarvis-vault`), the policy (`jarvis-policy`) and the audit log
//! (`jarvis-audit`) know nothing of each other and meet in `worker/gate.rs`.
#![forbid(unsafe_code)]

mod common;
pub mod config;
pub mod ctl;
pub mod daemon;
mod ipc;
mod runner;
mod supervisor;
mod worker;

#[doc(hidden)]
pub use common::clock::follow_clock;
pub use daemon::abort_on_panic;
#[doc(hidden)]
pub use worker::runner_client as errands;
#[doc(hidden)]
pub use worker::sandbox;

/// Whether `bytes` are a worker's message or question: what the fuzzer calls.
#[doc(hidden)]
#[must_use]
pub fn is_worker_message(bytes: &[u8]) -> (bool, bool) {
    (ipc::is_message(bytes), ipc::is_question(bytes))
}

/// Whether `bytes` are a message to or from the runner: what the fuzzer calls.
#[doc(hidden)]
#[must_use]
pub fn is_errand(bytes: &[u8]) -> (bool, bool) {
    ipc::is_errand(bytes)
}

/// Whether `bytes` are a control request: what the fuzzer calls.
#[doc(hidden)]
#[must_use]
pub fn parses(bytes: &[u8]) -> bool {
    worker::request::parse(bytes).is_ok()
}

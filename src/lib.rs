//! jarvis-secretsd: secrets as files.
//!
//! This package only composes: the file system (`jarvis-fs`), the vault
//! (`jarvis-vault`), the policy (`jarvis-policy`) and the audit log
//! (`jarvis-audit`) know nothing of each other and meet in [`gate`].
#![forbid(unsafe_code)]

mod accounts;
mod change;
mod clock;
pub mod config;
mod control;
pub mod ctl;
pub mod daemon;
mod denials;
#[doc(hidden)]
pub mod errands;
pub mod gate;
mod http;
mod journal;
mod metrics;
mod programs;
mod request;
mod runner;
mod schedule;
mod scheduler;
mod supervisor;
mod suspicion;
mod tree;
mod wire;
mod worker;

#[doc(hidden)]
pub use clock::follow_clock;
pub use daemon::abort_on_panic;
#[doc(hidden)]
pub use worker::sandbox;

/// Whether `bytes` are a worker's message or question: what the fuzzer calls.
#[doc(hidden)]
#[must_use]
pub fn is_worker_message(bytes: &[u8]) -> (bool, bool) {
    (wire::is_message(bytes), wire::is_question(bytes))
}

/// Whether `bytes` are a message to or from the runner: what the fuzzer calls.
#[doc(hidden)]
#[must_use]
pub fn is_errand(bytes: &[u8]) -> (bool, bool) {
    wire::is_errand(bytes)
}

/// Whether `bytes` are a control request: what the fuzzer calls.
#[doc(hidden)]
#[must_use]
pub fn parses(bytes: &[u8]) -> bool {
    request::parse(bytes).is_ok()
}

//! The runner for real: its own user, real programs, real servers. The tests
//! stand where the worker stands.
//!
//! Needs root and the users that tests/setup.sh makes.
// Helpers are tests, too: what clippy.toml allows in tests is for them as well.
#![cfg(test)]

mod fixture;
#[path = "../harness/mod.rs"]
mod harness;
mod hooks;
mod notify;
mod postgres;

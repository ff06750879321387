//! The runner for real: its own user, real programs, real servers. The tests
//! stand where the worker stands.
//!
//! Needs root and the users that tests/setup.sh makes.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

mod fixture;
mod hooks;
mod notify;
mod postgres;
#[path = "../harness/postgres.rs"]
mod server;

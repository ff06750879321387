//! End to end: a real daemon, a real mount, real other users.
//!
//! Needs root, FUSE, Docker and the users that tests/setup.sh makes; `make
//! test` sees to all of that. Nothing is skipped: what is missing fails.
#![allow(
    unreachable_pub,
    clippy::cast_sign_loss,
    clippy::redundant_closure_for_method_calls,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

mod acceptance;
mod audit;
mod cli;
mod clock;
mod container;
mod control;
mod crash;
mod demo;
mod files;
#[path = "../harness/mod.rs"]
mod harness;
mod hooks;
mod http;
mod identity;
mod life;
mod limits;
mod postgres;
mod programs;
mod rotation;
mod segments;
#[path = "../harness/postgres.rs"]
mod server;
mod start_stop;
mod suspicion;
mod workers;

//! End to end: a real daemon, a real mount, real other users.
//!
//! Needs root, FUSE, Docker and the users that tests/setup.sh makes; `make
//! test` sees to all of that. Nothing is skipped: what is missing fails.
// Helpers are tests, too: what clippy.toml allows in tests is for them as well.
#![cfg(test)]

mod acceptance;
mod audit;
mod bounds;
mod cli;
mod clock;
mod consumers;
mod container;
mod control;
mod crash;
mod deletion;
mod demo;
mod disk_log;
mod disk_vault;
mod files;
mod grace;
#[path = "../harness/mod.rs"]
mod harness;
mod history;
mod hooks;
mod http;
mod identity;
mod leaks;
mod leases;
mod limits;
mod lost_log;
mod namespaces;
mod neighbours;
mod operator;
mod postgres;
mod programs;
mod queries;
mod readiness;
mod revocation;
mod rotation;
mod segments;
mod signatures;
mod sizes;
mod start_stop;
mod suspicion;
mod terminal;
mod trust;
mod types;
mod versions;
mod workers;

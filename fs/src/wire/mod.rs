//! FUSE as it is spoken with the kernel: structures, requests, answers.
//!
//! Runs in: supervisor (greets the kernel), holder (turns PID 1 away), worker (serves).
//! Touches: bytes of requests; PLAINTEXT in those that write.
//! Imported by: adapter, attr, filesystem, connection, mount, server.

pub(crate) mod abi;
mod directory;
mod request;

pub(crate) use directory::{DirectoryPage, ListedEntry};
pub(crate) use request::{Operation, Request, RequestHeader};

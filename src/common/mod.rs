//! Helpers that several processes use.
//!
//! Runs in: every process.
//! Touches: files that it is given, the user database; no value, no network.
//! Imported by: everything; it imports nothing of `src/`.

pub(crate) mod accounts;
pub(crate) mod bounded;
pub(crate) mod calendar;
pub(crate) mod clock;
pub(crate) mod escape;
pub(crate) mod policy_file;
pub(crate) mod strict_json;
pub(crate) mod subordinate_ids;
pub(crate) mod timeline;

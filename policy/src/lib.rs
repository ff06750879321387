//! The policy of jarvis-secretsd: who may do what with which secret.
//!
//! A policy is compiled from YAML once and then asked; asking allocates
//! nothing and calls no system. All clients that match a caller apply, deny
//! wins over allow, and where nothing matches nothing is allowed.
#![forbid(unsafe_code)]

mod decision;
mod error;
mod parse;
mod pattern;
mod selector;
mod verb;

pub use decision::{Decision, Policy, Rule};
pub use error::PolicyError;
pub use pattern::Pattern;
pub use selector::Caller;
pub use verb::Verb;

/// Looks up names when a policy is compiled, so that this crate needs no
/// system calls.
pub trait Accounts {
    /// The id of `user`.
    fn uid(&self, user: &str) -> Option<u32>;
    /// The id of `group`.
    fn gid(&self, group: &str) -> Option<u32>;
}

//! The policy of jarvis-secretsd: who may do what with which secret.
//!
//! Runs in: the worker, which decides; `jarvisctl`, which checks a policy's text.
//! Touches: nothing but memory: no system call, no secret.
//! Imported by: the daemon (its worker and its policy file) and `jarvisctl`.
//!
//! A policy is compiled from YAML once and then asked; asking allocates
//! nothing and calls no system. All clients that match a caller apply, deny
//! wins over allow, and where nothing matches nothing is allowed.
#![forbid(unsafe_code)]

mod accounts;
mod decision;
mod error;
mod index;
mod parse;
mod pattern;
mod selector;
mod verb;

pub use accounts::Accounts;
pub use decision::{Decision, Policy, Rule};
pub use error::PolicyError;
pub use pattern::{Pattern, PatternError};
pub use selector::{Caller, Namespace};
pub use verb::{UnknownVerb, Verb};

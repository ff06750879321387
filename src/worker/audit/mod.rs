//! Records: who may be recorded how often, and what is suspicious about them.

pub(crate) mod denial_limit;
pub(crate) mod detector;

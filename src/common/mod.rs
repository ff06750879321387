//! What several processes use and what uses nothing of ours.

pub(crate) mod accounts;
pub(crate) mod calendar;
pub(crate) mod clock;
pub(crate) mod strict_json;

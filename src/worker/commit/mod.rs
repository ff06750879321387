//! Changes of the vault: what is recorded of them, and that each happens once.

pub(crate) mod change;
pub(crate) mod journal;

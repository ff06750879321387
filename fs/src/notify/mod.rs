//! What the kernel is told without being asked.

pub(crate) mod pages;

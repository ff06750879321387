//! Notifications: what the kernel is told without being asked.
//!
//! Runs in: worker.
//! Touches: the FUSE device.
//! Imported by: filesystem, control.

pub(crate) mod pages;

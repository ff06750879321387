//! The only crate of jarvis-secretsd with unsafe code, and what it asks the kernel.
//!
//! Runs in: every process.
//! Touches: keys and credentials, in memory that never reaches swap, core dumps or a
//! forked child ([`LockedKey`], [`SecretPage`]); tables of atomic words and
//! buffers that outlive their process ([`SharedWords`], [`SharedBuffers`]); fds, limits and the dumpable flag of the process.
//! Imported by: the daemon, the vault and the audit log.
//!
//! [`harden()`] prepares the process as a whole, [`die_with_parent`] the programs that it
//! starts; [`thread()`] says whose a thread is, [`user_namespace_below`] whose a namespace
//! is, [`trust`] who could have put a file there, or open it.

mod buffers;
mod child;
mod fds;
mod harden;
mod key;
mod memory;
mod namespace;
mod secret_page;
mod shared;
mod thread;
pub mod trust;

pub use buffers::{HEAD_BYTES, SharedBuffer, SharedBuffers};
pub use child::die_with_parent;
pub use fds::{keep_fds_from_children, replace_fd};
pub use harden::{HardenError, Locking, harden};
pub use key::{KEY_LEN, LockedKey};
pub use namespace::{UserNamespace, user_namespace_below};
pub use secret_page::{Cell, MAX_CELL_BYTES, SecretPage};
pub use shared::SharedWords;
pub use thread::{Ids, Thread, thread};

//! The only crate of jarvis-secretsd with unsafe code.
//!
//! It wraps the few things the standard library and rustix cannot give safely:
//! key memory that never reaches swap, core dumps or a forked child
//! ([`LockedKey`]), and a table of atomic words in a memfd that survives the
//! process which wrote it ([`SharedWords`]), secrets that do ([`SecretPage`]), and the kernel's answer to whose
//! [`thread`] it is. [`harden`] prepares the process as a whole, [`die_with_parent`]
//! the ones that it starts.

mod child;
mod fds;
mod harden;
mod key;
pub mod private;
mod secret_page;
mod shared;
mod thread;

pub use child::die_with_parent;
pub use fds::{keep_fds_from_children, replace_fd, take_passed_fds};
pub use harden::{HardenError, Locking, harden};
pub use key::{KEY_LEN, LockedKey};
pub use secret_page::{CELL, Cell, SecretPage};
pub use shared::SharedWords;
pub use thread::{Ids, Thread, thread};

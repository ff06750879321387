//! The connection to the kernel: requests are received on it, and each is answered once.
//!
//! Runs in: worker (serves), supervisor (greets the kernel), holder (turns PID 1 away).
//! Touches: the FUSE device, PLAINTEXT on its way to and from it.
//! Imported by: adapter, control, filesystem, mount, notify, server.

mod device;
mod reply;

pub use device::Connection;
pub(crate) use reply::Reply;

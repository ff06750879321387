//! The FUSE side of jarvis-secretsd.
//!
//! Runs in: worker (serves); supervisor (mounts, unmounts); jarvisctl (checks, names).
//! Touches: the FUSE device, plaintext on its way to a reader, `/proc` of callers.
//! Imported by: src/supervisor, src/worker, src/ctl, src/daemon.rs.
//!
//! The file system knows nothing of vaults, policies or audit logs: it asks the
//! four traits of a [`Backend`] and passes on who is calling. A request is received in
//! `server`, parsed in `wire` and led to its method by one adapter; one match turns errors
//! into errno, one table says what is open. docs/SEMANTICS.md lists what applications see.
#![forbid(unsafe_code)]

mod account_shares;
mod adapter;
mod answer_budget;
mod attr;
mod attributes;
mod bare;
mod buffers;
mod caller;
mod connection;
mod control;
mod errno;
mod fair_queue;
mod filesystem;
mod handles;
mod in_flight;
mod inode;
mod listing;
mod listing_budget;
mod mount;
mod mountinfo;
mod notify;
mod open_handles;
mod range;
mod sent_back;
mod server;
mod stale_nodes;
#[cfg(test)]
mod testing;
mod tree;
mod unique;
mod wire;

pub use bare::{beneath, seal};
pub use buffers::{RequestBuffers, RequestMemory};
pub use caller::cgroup::{KernelIds, Workload};
pub use caller::containment::{Containment, NamespaceOwner};
pub use caller::{
    Caller, HeaderIds, IdentityError, ProcError, ThreadIds, check_proc, in_own_pid_namespace,
};
pub use connection::Connection;
pub use errno::FsError;
pub use filesystem::{FileSystem, MAX_REQUEST};
pub use handles::{HANDLE_WORDS, HandleLimits, HandleTable};
pub use in_flight::{IN_FLIGHT_WORDS, InFlight};
pub use inode::{CONTROL, CONTROL_NAME, Inode, KEY_IDS_NAME, turn};
pub use listing_budget::{ListingBudget, ListingEnd};
pub use mount::{
    Device, DeviceGuard, Guarded, MountError, answers, clear_stale, connection, is_ours, unmount,
};
pub use mountinfo::{Place, ReaderMounts, Standing};
pub use server::Server;
pub use tree::{
    Answer, Backend, CallerIds, Control, DirEntry, Entry, EntryKind, KeptAnswer, LimitScope,
    OpenRequest, OpenedSecret, Refusals, RequestOrigin, SharedRead, Tree, XATTRS, Xattr,
};

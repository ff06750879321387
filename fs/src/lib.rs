//! The FUSE side of jarvis-secretsd.
//!
//! The file system knows nothing of vaults, policies or audit logs: it asks a
//! [`Backend`] and passes on who is calling. One adapter translates to fuser, one
//! match turns errors into errno, one table says what is open.
//!
//! docs/SEMANTICS.md lists what applications see.
#![forbid(unsafe_code)]

mod adapter;
mod attr;
mod caller;
mod control;
mod errno;
mod filesystem;
mod handles;
mod in_flight;
mod mount;
mod notify;
mod tree;

pub use caller::cgroup::{Marks, Place};
pub use caller::{Brief, Caller, Claim, Unidentified, check_proc};
pub use control::Kept;
pub use errno::FsError;
pub use filesystem::{FileSystem, MAX_REQUEST};
pub use handles::{HandleTable, Limits, WORDS};
pub use in_flight::{WATCH_WORDS, Watch};
pub use mount::{Device, MountError, Server, answers, clear_stale, connection, end, resend};
pub use tree::{
    Answer, Backend, CONTROL, CONTROL_NAME, CallerIds, Control, Entry, EntryKind, Inode,
    KEY_IDS_NAME, Limit, Listed, Opened, Origin, Refusals, Request, SharedRead, Tree, XATTRS,
    Xattr,
};

//! The FUSE side of jarvis-secretsd.
//!
//! The file system knows nothing of vaults, policies or audit logs: it asks a
//! [`Tree`] and passes on who is calling. One adapter translates to fuser, one
//! match turns errors into errno, one table says what is open.
//!
//! docs/SEMANTICS.md lists what applications see.
#![forbid(unsafe_code)]

mod adapter;
mod attr;
mod caller;
mod cgroup;
mod control;
mod errno;
mod handles;
mod mount;
mod pages;
mod serve;
mod tree;
mod watch;

pub use caller::{Brief, Caller, Claim, Unidentified, check_proc};
pub use cgroup::{Marks, Place, Places};
pub use control::Kept;
pub use errno::FsError;
pub use handles::{HandleTable, Limits, WORDS};
pub use mount::{Device, MountError, Server, answers, clear_stale, connection, end, resend};
pub use serve::{FileSystem, MAX_REQUEST};
pub use tree::{
    Answer, CONTROL, CONTROL_NAME, Entry, EntryKind, Inode, KEY_IDS_NAME, Limit, Listed, Opened,
    Origin, Request, SharedRead, Tree, XATTRS, Xattr,
};
pub use watch::{WATCH_WORDS, Watch};

//! Attributes as the caller sees them.

use rustix::process::{getegid, geteuid};
use zerocopy::FromZeros;

use crate::caller::HeaderIds;
use crate::tree::{Entry, EntryKind};
use crate::wire::abi::Attr;

/// Size of blocks that programs are told to read.
const BLOCK_SIZE: u32 = 4096;

/// A caller, and what it may do with an inode.
#[derive(Clone, Copy)]
pub(crate) struct CallerView {
    pub(crate) header: HeaderIds,
    pub(crate) allowed: bool,
}

/// Owner and group are the caller's own; the mode tells what it may do; the
/// size is the true one for everybody, because the kernel keeps one per inode.
pub(crate) fn of(entry: &Entry, view: CallerView) -> Attr {
    match entry.kind {
        EntryKind::Directory => build(entry, view, libc::S_IFDIR | 0o500, 0),
        EntryKind::Secret { size } => {
            let mode = if view.allowed { 0o400 } else { 0 };
            build(entry, view, libc::S_IFREG | mode, size)
        }
    }
}

/// The control file: writable for who may manage, of size 0. Its owner is the daemon
/// for everybody: the owner of a file may take a lease on it, for which all who open it
/// otherwise wait (fcntl_locking(2), F_SETLEASE).
pub(crate) fn control(entry: &Entry, view: CallerView) -> Attr {
    let mode = if view.allowed { 0o666 } else { 0 };
    let header = HeaderIds {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        ..view.header
    };
    let view = CallerView { header, ..view };
    build(entry, view, libc::S_IFREG | mode, 0)
}

fn build(entry: &Entry, view: CallerView, mode: u32, size: u64) -> Attr {
    let mut attributes = Attr {
        ino: entry.ino,
        size,
        blocks: size.div_ceil(512),
        mode,
        nlink: match entry.kind {
            EntryKind::Directory => 2,
            EntryKind::Secret { .. } => 1,
        },
        uid: view.header.uid,
        gid: view.header.gid,
        blksize: BLOCK_SIZE,
        ..Attr::new_zeroed()
    };
    attributes.set_times(entry.modified);
    attributes
}

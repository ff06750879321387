//! Attributes as the caller sees them.

use fuser::{FileAttr, FileType, INodeNo};

use crate::caller::HeaderIds;
use crate::tree::{Entry, EntryKind};

/// A caller, and what it may do with an inode.
#[derive(Clone, Copy)]
pub(crate) struct CallerView {
    pub(crate) header: HeaderIds,
    pub(crate) allowed: bool,
}

/// Owner and group are the caller's own; the mode tells what it may do; the
/// size is the true one for everybody, because the kernel keeps one per inode.
pub(crate) fn of(entry: &Entry, view: CallerView) -> FileAttr {
    match entry.kind {
        EntryKind::Directory => build(entry, view, FileType::Directory, 0o500, 0),
        EntryKind::Secret { size } => {
            let mode = if view.allowed { 0o400 } else { 0 };
            build(entry, view, FileType::RegularFile, mode, size)
        }
    }
}

/// The control file: writable for who may manage, of size 0.
pub(crate) fn control(entry: &Entry, view: CallerView) -> FileAttr {
    let mode = if view.allowed { 0o600 } else { 0 };
    build(entry, view, FileType::RegularFile, mode, 0)
}

fn build(entry: &Entry, view: CallerView, kind: FileType, perm: u16, size: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(entry.ino),
        size,
        blocks: size.div_ceil(512),
        atime: entry.modified,
        mtime: entry.modified,
        ctime: entry.modified,
        crtime: entry.modified,
        kind,
        perm,
        nlink: if kind == FileType::Directory { 2 } else { 1 },
        uid: view.header.uid,
        gid: view.header.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

//! Nodes whose version is no longer current, and what is meant by them.
//!
//! A walk of a path always ends at the node of the current version. Another one is met
//! after a rotation:
//!
//! * The kernel may have asked for the name just before. Told ESTALE, it walks the path
//!   once more, unseen by the caller, and opens what it finds. So it is told when a rotation
//!   comes while an open is decided; that one may be recorded, too.
//! * A bind mount of the file, or a descriptor that is opened anew by way of `/proc`, has no
//!   name to look up. The same thread comes back to the same node: it gets the current
//!   version, there. Such a node has handles of several versions.
//! * An open handle's attributes are asked for, by its node (fstat(2) names no handle). They
//!   are those of the newest handle that the process, or one that it descends from, has
//!   there; else those of the current version.

use crate::caller::{CarriedIds, HeaderIds, ancestors};
use crate::errno::FsError;
use crate::filesystem::FileSystem;
use crate::handles::OpenFile;
use crate::inode::{CONTROL, Inode};
use crate::open_handles::OpenHandle;
use crate::tree::{Entry, EntryKind, Tree};

impl<T: Tree> FileSystem<T> {
    /// The entry that is shown to who asks for the attributes of `node`, or of an open `handle`.
    pub(crate) fn entry_shown(
        &self,
        node: u64,
        header: HeaderIds,
        handle: Option<u64>,
    ) -> Result<Entry, FsError> {
        let current = self.entry(node);
        if !has_versions(node) {
            return current;
        }
        if let Some(handle) = handle
            && let Some(file) = self.handles.get(handle)
        {
            return self.entry_of_handle(handle, file).or(current);
        }
        let open = self.open_on_stale(node, &current);
        match self.own_handle(&open, header) {
            Some((handle, file)) => self.entry_of_handle(handle, file).or(current),
            None => self.undisturbed(&open, current),
        }
    }

    /// The version that is meant by `node` in the calling process, where that need not be
    /// the current one.
    pub(crate) fn version_meant(&self, node: u64, header: HeaderIds) -> Option<u32> {
        if !has_versions(node) {
            return None;
        }
        let open = self.open_on_stale(node, &self.entry(node));
        self.own_handle(&open, header).map(|(_, file)| file.version)
    }

    /// Handles that are open by way of `node`, if that is not the node of the `current` version.
    fn open_on_stale(&self, node: u64, current: &Result<Entry, FsError>) -> Vec<(u64, OpenFile)> {
        let left_behind = match current {
            Ok(Entry {
                kind: EntryKind::Directory,
                ..
            }) => false,
            Ok(entry) => entry.node != node,
            Err(_) => true,
        };
        if left_behind {
            self.handles.opened_by(node)
        } else {
            Vec::new()
        }
    }

    /// The newest of the `open` handles that the caller's process has, or else the next of
    /// those that it descends from.
    fn own_handle(&self, open: &[(u64, OpenFile)], header: HeaderIds) -> Option<(u64, OpenFile)> {
        if open.is_empty() {
            return None;
        }
        let caller = self.identify(header, CarriedIds::FileSystem).ok()?;
        let newest_of = |process| {
            let own = open.iter().filter(|(_, file)| file.process == process);
            own.max_by_key(|(handle, _)| *handle).copied()
        };
        ancestors(caller.pid).find_map(newest_of)
    }

    /// The `current` version for who has nothing open; but while pages of the node's own
    /// version are in use, with the size of that one: the kernel would cut them off.
    fn undisturbed(
        &self,
        open: &[(u64, OpenFile)],
        current: Result<Entry, FsError>,
    ) -> Result<Entry, FsError> {
        let mut in_use = open
            .iter()
            .filter(|(_, file)| file.cached && file.owns_node());
        match in_use.next() {
            Some(&(handle, file)) => {
                let kind = self.entry_of_handle(handle, file)?.kind;
                Ok(Entry { kind, ..current? })
            }
            None => current,
        }
    }

    /// The entry of the version that an open handle has.
    fn entry_of_handle(&self, handle: u64, file: OpenFile) -> Result<Entry, FsError> {
        let known = self.tree.version_entry(file.ino, file.version);
        known.or_else(|error| match self.opened(handle).as_deref() {
            // Purged: what was decrypted can be read still.
            Ok(OpenHandle::Secret(secret)) => {
                let plaintext = secret.plaintext.as_ref().ok_or(error)?;
                Ok(Entry {
                    ino: file.ino,
                    node: file.node(),
                    kind: EntryKind::Secret {
                        size: plaintext.as_ref().len() as u64,
                    },
                    modified: self.started,
                })
            }
            _ => Err(error),
        })
    }
}

/// Whether `node` is one of those that a secret's file has by its name.
fn has_versions(node: u64) -> bool {
    match Inode::of(node) {
        Inode::File { .. } => true,
        // As before there was a node for each version: a worker of that kind may have
        // served this mount.
        Inode::Plain(id) => id > CONTROL,
        Inode::KeyIds | Inode::Mirror(_) | Inode::Version { .. } => false,
    }
}

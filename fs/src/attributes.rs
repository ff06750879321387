//! Attributes and rights that each caller is told of, without opening a file.

use std::ffi::OsStr;

use crate::attr::{self, CallerView};
use crate::caller::{CarriedIds, HeaderIds};
use crate::errno::FsError;
use crate::filesystem::FileSystem;
use crate::inode::{CONTROL, Inode, ROOT};
use crate::tree::{Entry, EntryKind, Tree, XATTRS};
use crate::wire::abi::Attr;

impl<T: Tree> FileSystem<T> {
    /// The attributes of `entry` for whoever claims to ask. Nobody is refused
    /// here: a caller without identity sees a file it may not read.
    pub(crate) fn attributes(&self, entry: &Entry, header: HeaderIds) -> Attr {
        let caller = || self.identify(header, CarriedIds::FileSystem).ok();
        let view = |allowed| CallerView { header, allowed };
        match (entry.ino, entry.kind) {
            (CONTROL, _) => {
                let allowed = caller().is_some_and(|c| self.control.may_control(&c));
                attr::control(entry, view(allowed))
            }
            (_, EntryKind::Directory) => attr::of(entry, view(true)),
            (ino, EntryKind::Secret { .. }) => {
                let allowed = caller().is_some_and(|c| self.tree.may_read(&c, ino));
                attr::of(entry, view(allowed))
            }
        }
    }

    pub(crate) fn check_access(
        &self,
        header: HeaderIds,
        ino: u64,
        mask: i32,
    ) -> Result<(), FsError> {
        let entry = self.entry(ino)?;
        let caller = || self.identify(header, CarriedIds::RealOrFileSystem).ok();
        if ino == CONTROL {
            let allowed = mask == 0 || caller().is_some_and(|c| self.control.may_control(&c));
            let executes = mask & libc::X_OK != 0;
            return if allowed && !executes {
                Ok(())
            } else {
                Err(FsError::Denied)
            };
        }
        match entry.kind {
            _ if mask & libc::W_OK != 0 => Err(FsError::ReadOnly),
            EntryKind::Directory => Ok(()),
            EntryKind::Secret { .. } if mask & libc::X_OK != 0 => Err(FsError::Denied),
            EntryKind::Secret { .. } if mask & libc::R_OK != 0 => {
                if caller().is_some_and(|c| self.tree.may_read(&c, ino)) {
                    Ok(())
                } else {
                    Err(FsError::Denied)
                }
            }
            EntryKind::Secret { .. } => Ok(()),
        }
    }

    pub(crate) fn attribute(
        &self,
        header: HeaderIds,
        node: u64,
        name: &OsStr,
    ) -> Result<String, FsError> {
        let wanted = XATTRS.iter().find(|(known, _)| name == OsStr::new(known));
        let (_, attribute) = wanted.ok_or(FsError::NoAttribute)?;
        if matches!(node, ROOT | CONTROL) {
            return Err(FsError::NoAttribute);
        }
        let caller = self.identify_or_record(header, node)?;
        let version = self.version_meant(node, header).and_then(|number| {
            let id = Inode::of(node).id();
            Inode::Version { id, number }.number()
        });
        self.tree
            .xattr(&caller, version.unwrap_or(node), *attribute)
    }

    pub(crate) fn attribute_names(&self, header: HeaderIds, ino: u64) -> Result<Vec<u8>, FsError> {
        let secret = matches!(self.entry(ino)?.kind, EntryKind::Secret { .. }) && ino != CONTROL;
        let visible = secret
            && self
                .identify(header, CarriedIds::FileSystem)
                .is_ok_and(|caller| self.tree.may_list_xattrs(&caller, ino));
        if !visible {
            return Ok(Vec::new());
        }
        let names = XATTRS.iter().map(|(name, _)| name.as_bytes());
        Ok(names.flat_map(|name| [name, b"\0"].concat()).collect())
    }
}

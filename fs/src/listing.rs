//! Listings of directories, a piece a request.
//!
//! A READDIR does a bounded amount of work, however many entries the caller may not see:
//! then its answer ends with an entry that programs skip, from which the next one goes on.
//! An account has one listing at full pace; its others advance by a few entries a request.

use std::ops::ControlFlow;

use crate::caller::{CarriedIds, HeaderIds};
use crate::errno::FsError;
use crate::filesystem::FileSystem;
use crate::inode::{CONTROL, CONTROL_NAME, ROOT};
use crate::listing_budget::ListingEnd;
use crate::tree::Tree;
use crate::wire::{DirectoryPage, ListedEntry};

/// Offsets of the entries every directory has; others are inode numbers.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
const CONTROL_OFFSET: u64 = 3;

/// Inode number of an entry that is none: the C library and Go's runtime skip it, and
/// everybody skips its name.
const SKIPPED: u64 = 0;

impl<T: Tree> FileSystem<T> {
    pub(crate) fn fill_directory(
        &self,
        header: HeaderIds,
        dir: u64,
        offset: u64,
        page: &mut DirectoryPage,
    ) -> Result<(), FsError> {
        let mut add = |ino, offset, directory, name: &str| {
            page.add(&ListedEntry {
                ino,
                offset,
                directory,
                name,
            })
        };
        for (at, name) in [(DOT, "."), (DOT_DOT, "..")] {
            if offset < at && !add(dir, at, true, name) {
                return Ok(());
            }
        }
        // A caller without identity sees an empty directory.
        let Ok(caller) = self.identify(header, CarriedIds::FileSystem) else {
            return Ok(());
        };
        if dir == ROOT
            && offset < CONTROL_OFFSET
            && self.control.may_control(&caller)
            && !add(CONTROL, CONTROL_OFFSET, false, CONTROL_NAME)
        {
            return Ok(());
        }
        let mut running = self.listings.begin(caller.account());
        let budget = &mut running.budget;
        let end = self
            .tree
            .list(&caller, (dir, offset), budget, &mut |listed| {
                if add(listed.ino, listed.ino, listed.directory, listed.name) {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
        if let ListingEnd::Spent(after) = end {
            // Without room for it the page ends with an entry to go on from.
            let _ = add(SKIPPED, after, true, ".");
        }
        Ok(())
    }
}

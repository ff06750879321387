//! From the kernel's requests to methods of [`FileSystem`] and back: nothing is decided here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use zerocopy::{FromZeros, IntoBytes};

use crate::attr::{self, CallerView};
use crate::caller::HeaderIds;
use crate::connection::Reply;
use crate::errno::FsError;
use crate::filesystem::FileSystem;
use crate::inode::{CONTROL, control_node, of_node};
use crate::open_handles::OpenHandle;
use crate::tree::{EntryKind, RequestOrigin, Tree};
use crate::wire::abi::{AttrOut, EntryOut, OpenOut, SizeOut, StatfsOut, fattr};
use crate::wire::{DirectoryPage, Operation, Request, RequestHeader};

/// Files that there can be, as statfs(2) tells: there is always room for one more, and
/// programs of 32 bits can be told this number.
const IDS: u64 = u32::MAX as u64;

impl<T: Tree> FileSystem<T> {
    /// Answers `request`, now or, of a control request, later.
    pub(crate) fn serve(&self, request: Request<'_>, reply: Reply) {
        let Request { header, operation } = request;
        let header = RequestHeader {
            node: of_node(header.node),
            ..header
        };
        let _guard = match self.in_flight.admit(header.unique) {
            Ok(guard) => guard,
            Err(_) if self.must_serve(&header, &operation) => {
                self.in_flight.track(header.unique.request())
            }
            Err(error) => return reply.error(error),
        };
        match operation {
            Operation::Lookup { name } => reply.result(self.find(header.node, name).map(|entry| {
                // The answer is the same for every caller; what it may do is told by
                // GETATTR, which the kernel asks before it shows any attribute.
                entry_out(&entry, header.ids)
            })),
            Operation::GetAttr { handle } => {
                reply.result(self.get_attributes(header.node, header.ids, handle));
            }
            Operation::SetAttr { fields, size } => {
                let truncates = fields & fattr::SIZE != 0 && size == 0;
                let truncates = truncates && fields & (fattr::MODE | fattr::UID | fattr::GID) == 0;
                reply.result(self.set_attributes(&header, truncates));
            }
            Operation::Open { flags } => self.open(&header, flags, reply),
            Operation::Read {
                handle,
                range,
                has_lock_owner,
            } => self.read(header.ids, (handle, range), has_lock_owner, reply),
            Operation::Write {
                handle,
                offset,
                data,
            } => self.write(&header, (handle, offset), data, reply),
            Operation::Release { handle } => {
                self.close(handle);
                reply.done();
            }
            Operation::Flush | Operation::Fsync | Operation::ReleaseDir | Operation::Destroy => {
                reply.done();
            }
            Operation::OpenDir => reply.result(self.open_directory(header.node)),
            Operation::ReadDir { offset, size } => {
                let mut page = DirectoryPage::new(size);
                match self.fill_directory(header.ids, header.node, offset, &mut page) {
                    Ok(()) => reply.data(page.bytes()),
                    Err(error) => reply.error(error),
                }
            }
            Operation::StatFs => reply.body(&self.statistics()),
            Operation::Access { mask } => match self.check_access(header.ids, header.node, mask) {
                Ok(()) => reply.done(),
                Err(error) => reply.error(error),
            },
            Operation::GetXattr { name, size } => {
                let value = self.attribute(header.ids, header.node, name);
                reply_xattr(value.map(String::into_bytes), size, reply);
            }
            Operation::ListXattr { size } => {
                reply_xattr(self.attribute_names(header.ids, header.node), size, reply);
            }
            Operation::Change => reply.error(FsError::ReadOnly),
            // Labels, capabilities and access lists: programs that copy a file's go on
            // without where there are none.
            Operation::ChangeXattr { name } => reply.error(if is_user_xattr(name) {
                FsError::ReadOnly
            } else {
                FsError::NotSupported
            }),
            Operation::Forget => reply.forgo(),
            // The mount was greeted when it was made.
            Operation::Init(_) => reply.error(FsError::Io),
            // ENOSYS is remembered for the mount. An interrupt: nothing that takes time may
            // be left undone, so the kernel need not send more of them. What is unknown has
            // a default in the kernel (lseek, poll, ioctl), or is refused by it for us.
            Operation::Interrupt | Operation::Unknown => reply.errno(libc::ENOSYS),
        }
    }

    /// Whether a request that crashed others is served all the same.
    fn must_serve(&self, header: &RequestHeader, operation: &Operation<'_>) -> bool {
        let request = header.unique.request();
        match operation {
            Operation::Open { .. } => {
                // An earlier process may have entered it: no RELEASE will come.
                self.close(request);
                false
            }
            // Refusing it would leave the handle in the table for ever.
            Operation::Release { .. } => true,
            // What an earlier process has carried out is not refused.
            Operation::Write { .. } => self.control.carried_out(request),
            _ => false,
        }
    }

    fn get_attributes(
        &self,
        node: u64,
        ids: HeaderIds,
        handle: Option<u64>,
    ) -> Result<AttrOut, FsError> {
        let entry = self.entry_shown(node, ids, handle)?;
        Ok(attr_out(self.attributes(&entry, ids)))
    }

    fn set_attributes(&self, header: &RequestHeader, truncates: bool) -> Result<AttrOut, FsError> {
        // A shell's `>` truncates after it opened: for the control file that
        // changes nothing.
        if header.node != CONTROL || !truncates {
            return Err(FsError::ReadOnly);
        }
        let attributes = self.attributes(&self.control_entry(), header.ids);
        match attributes.mode & 0o777 {
            0 => Err(FsError::Denied),
            _ => Ok(attr_out(attributes)),
        }
    }

    fn open(&self, header: &RequestHeader, flags: i32, reply: Reply) {
        let handle = header.unique.request();
        let was_open = self.handles.is_open(handle);
        match self.open_file(header.ids, header.unique, header.node, flags) {
            Err(error) => reply.error(error),
            Ok(open_flags) => {
                let open = OpenOut {
                    fh: handle,
                    open_flags,
                    backing_id: 0,
                };
                // Nobody waited: no RELEASE will come for what was opened just now.
                if !reply.give(open.as_bytes()) && !was_open {
                    self.close(handle);
                }
            }
        }
    }

    fn read(
        &self,
        ids: HeaderIds,
        (handle, range): (u64, (u64, u32)),
        has_lock_owner: bool,
        reply: Reply,
    ) {
        match self.opened(handle).as_deref() {
            Err(error) => reply.error(*error),
            // Only read(2) carries a lock owner. Without one the bytes would go
            // into the page cache (splice, sendfile, a mapping's fault).
            Ok(OpenHandle::Secret(secret)) if !has_lock_owner && !secret.file.cached => {
                reply.error(FsError::Invalid);
            }
            Ok(OpenHandle::Secret(secret)) => self.read_secret(secret, ids, range, reply),
            Ok(OpenHandle::Control(control)) if ids.uid != control.uid => {
                reply.error(FsError::Denied);
            }
            Ok(OpenHandle::Control(control)) => control.show(range, |answer| match answer {
                Ok(bytes) => reply.data(bytes),
                Err(error) => reply.error(error),
            }),
        }
    }

    fn write(
        &self,
        header: &RequestHeader,
        (handle, offset): (u64, u64),
        data: &[u8],
        reply: Reply,
    ) {
        match self.opened(handle).as_deref() {
            Err(error) => reply.error(*error),
            Ok(OpenHandle::Secret(_)) => reply.error(FsError::ReadOnly),
            Ok(OpenHandle::Control(control)) => {
                let origin = RequestOrigin {
                    request: header.unique.request(),
                    resent: header.unique.resent(),
                    handle,
                    start: offset,
                    end: offset.saturating_add(data.len() as u64),
                };
                self.write_control(header.ids, control, data, origin, reply);
            }
        }
    }

    fn open_directory(&self, node: u64) -> Result<OpenOut, FsError> {
        match self.entry(node)?.kind {
            EntryKind::Directory => Ok(OpenOut {
                fh: 0,
                open_flags: 0,
                backing_id: 0,
            }),
            EntryKind::Secret { .. } => Err(FsError::NotDirectory),
        }
    }

    fn statistics(&self) -> StatfsOut {
        StatfsOut {
            files: IDS,
            ffree: IDS.saturating_sub(self.tree.secrets()),
            bsize: 4096,
            namelen: 255,
            frsize: 4096,
            ..StatfsOut::new_zeroed()
        }
    }
}

fn is_user_xattr(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"user.")
}

/// The entry as nobody's: with a time to live of 0, because directory entries may appear.
/// Ids are never reused, so one generation serves all.
fn entry_out(entry: &crate::tree::Entry, header: HeaderIds) -> EntryOut {
    let view = CallerView {
        header,
        allowed: false,
    };
    let node = match entry.ino {
        CONTROL => control_node(header.uid, header.tid),
        _ => entry.node,
    };
    EntryOut {
        nodeid: node,
        generation: 0,
        entry_valid: 0,
        attr_valid: 0,
        entry_valid_nsec: 0,
        attr_valid_nsec: 0,
        attr: match entry.ino {
            CONTROL => attr::control(entry, view),
            _ => attr::of(entry, view),
        },
    }
}

/// Attributes differ by caller: nothing is kept.
fn attr_out(attr: crate::wire::abi::Attr) -> AttrOut {
    AttrOut {
        attr_valid: 0,
        attr_valid_nsec: 0,
        dummy: 0,
        attr,
    }
}

/// Answers with an attribute, or with its length when `size`, the caller's room, is 0.
fn reply_xattr(value: Result<Vec<u8>, FsError>, size: u32, reply: Reply) {
    match value {
        Err(error) => reply.error(error),
        Ok(value) => match u32::try_from(value.len()) {
            Ok(len) if size == 0 => reply.body(&SizeOut {
                size: len,
                padding: 0,
            }),
            Ok(len) if len <= size => reply.data(&value),
            _ => reply.error(FsError::Range),
        },
    }
}

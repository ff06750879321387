//! From fuser's requests to [`FileSystem`] and back: nothing is decided here.

use std::ffi::OsStr;
use std::io;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request as FuseRequest, TimeOrNow, WriteFlags,
};

use crate::attr::{self, CallerView};
use crate::caller::HeaderIds;
use crate::errno::FsError;
use crate::filesystem::FileSystem;
use crate::inode::CONTROL;
use crate::mount::negotiate;
use crate::open_handles::OpenHandle;
use crate::tree::{EntryKind, RequestOrigin, Tree};
use crate::unique::Unique;

/// Attributes differ by caller and directory entries may appear: cache nothing.
const TTL: Duration = Duration::ZERO;
/// Ids are never reused, so one generation serves all.
const GENERATION: Generation = Generation(0);

/// Marks the thread as at work on the request, or refuses the request.
macro_rules! admit {
    ($fs:ident, $request:ident, $reply:ident) => {
        match $fs.in_flight.admit(unique($request)) {
            Ok(guard) => guard,
            Err(error) => return $reply.error(error.errno()),
        }
    };
}

fn unique(request: &FuseRequest) -> Unique {
    Unique::new(request.unique().0)
}

fn header_ids(request: &FuseRequest) -> HeaderIds {
    HeaderIds {
        uid: request.uid(),
        gid: request.gid(),
        tid: request.pid(),
    }
}

fn reply_xattr(value: Result<Vec<u8>, FsError>, size: u32, reply: ReplyXattr) {
    match value {
        Err(error) => reply.error(error.errno()),
        Ok(value) => match u32::try_from(value.len()) {
            Ok(len) if size == 0 => reply.size(len),
            Ok(len) if len <= size => reply.data(&value),
            _ => reply.error(FsError::Range.errno()),
        },
    }
}

fn reply_empty(result: Result<(), FsError>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.errno()),
    }
}

impl<T: Tree> Filesystem for FileSystem<T> {
    fn init(&mut self, _req: &FuseRequest, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config).map(drop)
    }

    fn lookup(&self, req: &FuseRequest, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _guard = admit!(self, req, reply);
        match self.find(parent.0, name) {
            // The answer is the same for every caller; what it may do is told by
            // GETATTR, which the kernel asks before it shows any attribute.
            Ok(entry) => {
                let view = CallerView {
                    header: header_ids(req),
                    allowed: false,
                };
                let attributes = match entry.ino {
                    CONTROL => attr::control(&entry, view),
                    _ => attr::of(&entry, view),
                };
                reply.entry(&TTL, &attributes, GENERATION);
            }
            Err(error) => reply.error(error.errno()),
        }
    }

    fn getattr(&self, req: &FuseRequest, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let _guard = admit!(self, req, reply);
        match self.entry(ino.0) {
            Ok(entry) => reply.attr(&TTL, &self.attributes(&entry, header_ids(req))),
            Err(error) => reply.error(error.errno()),
        }
    }

    fn setattr(
        &self,
        req: &FuseRequest,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let _guard = admit!(self, req, reply);
        // A shell's `>` truncates after it opened: for the control file that
        // changes nothing.
        let truncates = size == Some(0) && mode.is_none() && uid.is_none() && gid.is_none();
        if ino.0 != CONTROL || !truncates {
            return reply.error(FsError::ReadOnly.errno());
        }
        let attributes = self.attributes(&self.control_entry(), header_ids(req));
        match attributes.perm {
            0 => reply.error(FsError::Denied.errno()),
            _ => reply.attr(&TTL, &attributes),
        }
    }

    fn open(&self, req: &FuseRequest, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let unique = unique(req);
        let _guard = match self.in_flight.admit(unique) {
            Ok(guard) => guard,
            Err(error) => {
                // An earlier process may have entered it: no RELEASE will come.
                self.close(unique.request());
                return reply.error(error.errno());
            }
        };
        match self.open_file(header_ids(req), unique, ino.0, flags) {
            Ok(flags) => reply.opened(FileHandle(unique.request()), flags),
            Err(error) => reply.error(error.errno()),
        }
    }

    fn read(
        &self,
        req: &FuseRequest,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _guard = admit!(self, req, reply);
        match self.opened(fh.0) {
            Err(error) => reply.error(error.errno()),
            Ok(open) => match &*open {
                // Only read(2) carries a lock owner. Without one the bytes would go
                // into the page cache (splice, sendfile, a mapping's fault).
                OpenHandle::Secret(secret) if lock_owner.is_none() && !secret.file.cached => {
                    reply.error(FsError::Invalid.errno());
                }
                OpenHandle::Secret(secret) => {
                    self.read_secret(secret, header_ids(req), (offset, size), reply);
                }
                OpenHandle::Control(control) if header_ids(req).uid != control.uid => {
                    reply.error(FsError::Denied.errno());
                }
                OpenHandle::Control(control) => {
                    control.show((offset, size), |answer| match answer {
                        Ok(bytes) => reply.data(bytes),
                        Err(error) => reply.error(error.errno()),
                    });
                }
            },
        }
    }

    fn write(
        &self,
        req: &FuseRequest,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let unique = unique(req);
        let request = unique.request();
        let _guard = match self.in_flight.admit(unique) {
            Ok(guard) => guard,
            // What an earlier process has carried out is not refused.
            Err(_) if self.control.carried_out(request) => self.in_flight.track(request),
            Err(error) => return reply.error(error.errno()),
        };
        match self.opened(fh.0).as_deref() {
            Err(error) => reply.error(error.errno()),
            Ok(OpenHandle::Secret(_)) => reply.error(FsError::ReadOnly.errno()),
            Ok(OpenHandle::Control(control)) => {
                let origin = RequestOrigin {
                    request,
                    resent: unique.resent(),
                    handle: fh.0,
                    start: offset,
                    end: offset.saturating_add(data.len() as u64),
                };
                self.write_control(header_ids(req), control, data, origin, reply);
            }
        }
    }

    fn flush(
        &self,
        _req: &FuseRequest,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        req: &FuseRequest,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // Refusing it would leave the handle in the table for ever.
        let _guard = self.in_flight.track(unique(req).request());
        self.close(fh.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &FuseRequest,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn opendir(&self, _req: &FuseRequest, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.entry(ino.0).map(|entry| entry.kind) {
            Ok(EntryKind::Directory) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Ok(EntryKind::Secret { .. }) => reply.error(FsError::NotDirectory.errno()),
            Err(error) => reply.error(error.errno()),
        }
    }

    fn readdir(
        &self,
        req: &FuseRequest,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let _guard = admit!(self, req, reply);
        match self.fill_directory(header_ids(req), ino.0, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error.errno()),
        }
    }

    fn statfs(&self, _req: &FuseRequest, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, self.tree.secrets(), 0, 4096, 255, 4096);
    }

    fn access(&self, req: &FuseRequest, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let _guard = admit!(self, req, reply);
        reply_empty(self.check_access(header_ids(req), ino.0, mask), reply);
    }

    fn getxattr(
        &self,
        req: &FuseRequest,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let _guard = admit!(self, req, reply);
        let value = self.attribute(header_ids(req), ino.0, name);
        reply_xattr(value.map(String::into_bytes), size, reply);
    }

    fn listxattr(&self, req: &FuseRequest, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _guard = admit!(self, req, reply);
        reply_xattr(self.attribute_names(header_ids(req), ino.0), size, reply);
    }

    // Everything below would change the tree: secrets are written through the
    // control file only.

    fn mknod(
        &self,
        _req: &FuseRequest,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(FsError::ReadOnly.errno());
    }

    fn mkdir(
        &self,
        _req: &FuseRequest,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(FsError::ReadOnly.errno());
    }

    fn unlink(&self, _req: &FuseRequest, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(FsError::ReadOnly.errno());
    }

    fn rmdir(&self, _req: &FuseRequest, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(FsError::ReadOnly.errno());
    }

    fn symlink(
        &self,
        _req: &FuseRequest,
        _parent: INodeNo,
        _link_name: &OsStr,
        _target: &std::path::Path,
        reply: ReplyEntry,
    ) {
        reply.error(FsError::ReadOnly.errno());
    }

    fn rename(
        &self,
        _req: &FuseRequest,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(FsError::ReadOnly.errno());
    }

    fn link(
        &self,
        _req: &FuseRequest,
        _ino: INodeNo,
        _newparent: INodeNo,
        _newname: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(FsError::ReadOnly.errno());
    }

    fn create(
        &self,
        _req: &FuseRequest,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(FsError::ReadOnly.errno());
    }

    fn setxattr(
        &self,
        _req: &FuseRequest,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(FsError::ReadOnly.errno());
    }

    fn removexattr(&self, _req: &FuseRequest, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(FsError::ReadOnly.errno());
    }
}

//! From fuser's requests to the [`Tree`] and back.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request as FuseRequest, TimeOrNow, WriteFlags,
};
use parking_lot::RwLock;
use zeroize::Zeroizing;

use crate::attr::{self, View};
use crate::caller::{Caller, Claim, Ids};
use crate::control::{ControlHandle, Executor, Job};
use crate::errno::FsError;
use crate::handles::{HandleTable, OpenFile};
use crate::pages::PageCache;
use crate::tree::{
    CONTROL, CONTROL_NAME, Entry, EntryKind, Limit, ROOT, Request, SharedRead, Tree, XATTRS,
};

/// The kernel's write size in bytes. A write of exactly this many may be the
/// first piece of a longer one and is refused, so requests are shorter.
const MAX_WRITE: u32 = 1024 * 1024;
/// Longest control request in bytes.
pub const MAX_REQUEST: usize = MAX_WRITE as usize - 1;

/// Plaintext kept for open handles, in bytes; beyond it READ decrypts again.
const SNAPSHOT_BUDGET: usize = 64 * 1024 * 1024;

/// Attributes differ by caller and directory entries may appear: cache nothing.
const TTL: Duration = Duration::ZERO;
/// Ids are never reused, so one generation serves all.
const GENERATION: Generation = Generation(0);
/// Marks a request that the kernel sends a second time.
const RESENT: u64 = 1 << 63;

/// Offsets of the entries every directory has; others are inode numbers.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
const CONTROL_OFFSET: u64 = 3;

/// The file system served to the kernel.
pub struct FileSystem<T: Tree> {
    tree: Arc<T>,
    handles: Arc<HandleTable>,
    open: RwLock<HashMap<u64, Arc<Open<T::Snapshot>>>>,
    cached: AtomicUsize,
    executor: Executor,
    pages: Arc<PageCache>,
    started: SystemTime,
}

enum Open<S> {
    Secret(SecretHandle<S>),
    Control(Arc<ControlHandle>),
}

/// An open secret. Everything here but `shared` can be had again from the
/// handle table and the vault.
struct SecretHandle<S> {
    file: OpenFile,
    snapshot: Option<S>,
    /// It may enter the page cache.
    cached: bool,
    /// Other readers' uids and whether they may read.
    shared: RwLock<HashMap<u32, Result<(), FsError>>>,
}

impl<T: Tree> FileSystem<T> {
    /// A file system over `tree`.
    ///
    /// # Errors
    /// When the control thread can't be started.
    pub fn new(tree: Arc<T>, handles: Arc<HandleTable>) -> io::Result<Self> {
        let pages = Arc::new(PageCache::start()?);
        Ok(Self {
            executor: Executor::start(tree.clone(), pages.clone())?,
            pages,
            tree,
            handles,
            open: RwLock::default(),
            cached: AtomicUsize::new(0),
            started: SystemTime::now(),
        })
    }

    /// Where the mount leaves its notifier, for what may be cached.
    pub(crate) fn pages(&self) -> Arc<PageCache> {
        self.pages.clone()
    }

    fn control_entry(&self) -> Entry {
        Entry {
            ino: CONTROL,
            kind: EntryKind::Secret { size: 0 },
            modified: self.started,
        }
    }

    fn root_entry(&self) -> Entry {
        Entry {
            ino: ROOT,
            kind: EntryKind::Directory,
            modified: self.started,
        }
    }

    fn entry(&self, ino: u64) -> Result<Entry, FsError> {
        match ino {
            ROOT => Ok(self.root_entry()),
            CONTROL => Ok(self.control_entry()),
            _ => self.tree.entry(ino),
        }
    }

    fn find(&self, parent: u64, name: &OsStr) -> Result<Entry, FsError> {
        // A name that is not UTF-8 cannot have been stored.
        let name = name.to_str().ok_or(FsError::NotFound)?;
        match (parent, name) {
            (ROOT, CONTROL_NAME) => Ok(self.control_entry()),
            _ => self.tree.lookup(parent, name),
        }
    }

    /// The attributes of `entry` for whoever claims to ask. Nobody is refused
    /// here: a caller without identity sees a file it may not read.
    fn attributes(&self, entry: &Entry, claim: Claim) -> FileAttr {
        let caller = || claim.identify(Ids::FileSystem).ok();
        let view = |allowed| View { claim, allowed };
        match (entry.ino, entry.kind) {
            (CONTROL, _) => {
                let allowed = caller().is_some_and(|c| self.tree.may_control(&c));
                attr::control(entry, view(allowed))
            }
            (_, EntryKind::Directory) => attr::of(entry, view(true)),
            (ino, EntryKind::Secret { .. }) => {
                let allowed = caller().is_some_and(|c| self.tree.may_read(&c, ino));
                attr::of(entry, view(allowed))
            }
        }
    }

    /// The caller of an operation that is refused and recorded without identity.
    fn identified(&self, claim: Claim, ino: u64) -> Result<Caller, FsError> {
        claim.identify(Ids::FileSystem).map_err(|why| {
            self.tree.unidentified(claim, ino, why);
            FsError::Denied
        })
    }

    fn open_file(
        &self,
        claim: Claim,
        unique: u64,
        ino: u64,
        flags: OpenFlags,
    ) -> Result<FopenFlags, FsError> {
        if ino != CONTROL {
            self.check_secret_open(ino, flags)?;
        }
        let pending = self.handles.begin(claim.uid).map_err(|refused| {
            if let Some(count) = refused.report {
                let limit = match refused.error {
                    FsError::TableFull => Limit::Table,
                    _ => Limit::Caller,
                };
                self.tree.limited(claim, limit, count);
            }
            refused.error
        })?;
        let caller = self.identified(claim, ino)?;
        let handle = unique & !RESENT;
        let flags = if ino == CONTROL {
            self.open_control(caller, handle)?
        } else {
            let resent = unique & RESENT != 0;
            self.open_secret(&caller, handle, Request { ino, resent })?
        };
        drop(pending);
        Ok(flags)
    }

    /// What is refused whoever asks.
    fn check_secret_open(&self, ino: u64, flags: OpenFlags) -> Result<(), FsError> {
        let writes = flags.acc_mode() != OpenAccMode::O_RDONLY || flags.0 & libc::O_TRUNC != 0;
        match self.entry(ino)?.kind {
            EntryKind::Directory => Err(FsError::IsDirectory),
            EntryKind::Secret { .. } if writes => Err(FsError::ReadOnly),
            EntryKind::Secret { .. } => Ok(()),
        }
    }

    fn open_secret(
        &self,
        caller: &Caller,
        handle: u64,
        request: Request,
    ) -> Result<FopenFlags, FsError> {
        let opened = self.tree.open(caller, request)?;
        let file = OpenFile {
            ino: request.ino,
            version: opened.version,
            uid: caller.uid,
            control: false,
        };
        self.handles.insert(handle, file)?;
        let open = SecretHandle {
            file,
            snapshot: self.keep(opened.snapshot),
            cached: opened.cached,
            shared: RwLock::default(),
        };
        self.open
            .write()
            .insert(handle, Arc::new(Open::Secret(open)));
        Ok(match opened.cached {
            true => FopenFlags::FOPEN_NOFLUSH,
            false => FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH,
        })
    }

    /// Keeps a snapshot while the budget lasts.
    fn keep(&self, snapshot: T::Snapshot) -> Option<T::Snapshot> {
        let len = snapshot.as_ref().len();
        let before = self.cached.fetch_add(len, Ordering::Relaxed);
        if before.saturating_add(len) <= SNAPSHOT_BUDGET {
            return Some(snapshot);
        }
        self.cached.fetch_sub(len, Ordering::Relaxed);
        None
    }

    fn open_control(&self, caller: Caller, handle: u64) -> Result<FopenFlags, FsError> {
        self.tree.open_control(&caller)?;
        let file = OpenFile {
            ino: CONTROL,
            version: 0,
            uid: caller.uid,
            control: true,
        };
        self.handles.insert(handle, file)?;
        let open = Open::Control(Arc::new(ControlHandle::new(caller)));
        self.open.write().insert(handle, Arc::new(open));
        // A stream: reads of the answer do not depend on the write's position.
        Ok(FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH | FopenFlags::FOPEN_STREAM)
    }

    fn opened(&self, handle: u64) -> Result<Arc<Open<T::Snapshot>>, FsError> {
        if let Some(open) = self.open.read().get(&handle) {
            return Ok(open.clone());
        }
        // An earlier process opened it: the table says what it may see.
        let file = self.handles.get(handle).filter(|file| !file.control);
        let open = Arc::new(Open::Secret(SecretHandle {
            file: file.ok_or(FsError::BadHandle)?,
            snapshot: None,
            cached: false,
            shared: RwLock::default(),
        }));
        let mut known = self.open.write();
        Ok(known.entry(handle).or_insert(open).clone())
    }

    fn read_secret(
        &self,
        open: &SecretHandle<T::Snapshot>,
        reader: Claim,
        range: (u64, u32),
        reply: ReplyData,
    ) {
        let send = |bytes: &[u8], reply: ReplyData| reply.data(slice(bytes, range));
        if let Err(error) = self.check_reader(open, reader) {
            return reply.error(error.errno());
        }
        match &open.snapshot {
            Some(snapshot) => send(snapshot.as_ref(), reply),
            None => match self.tree.reload(open.file.ino, open.file.version) {
                Ok(snapshot) => send(snapshot.as_ref(), reply),
                Err(error) => reply.error(error.errno()),
            },
        }
    }

    /// A handle may be passed on; who reads with it is recorded once.
    fn check_reader(&self, open: &SecretHandle<T::Snapshot>, reader: Claim) -> Result<(), FsError> {
        if reader.uid == open.file.uid {
            return Ok(());
        }
        if let Some(known) = open.shared.read().get(&reader.uid) {
            return *known;
        }
        let verdict = self.tree.shared_read(SharedRead {
            ino: open.file.ino,
            version: open.file.version,
            opener: open.file.uid,
            reader,
        });
        // A failed record is tried again at the next read.
        if verdict != Err(FsError::Io) {
            open.shared.write().insert(reader.uid, verdict);
        }
        verdict
    }

    fn write_control(
        &self,
        writer: Claim,
        handle: &Arc<ControlHandle>,
        data: &[u8],
        reply: ReplyWrite,
    ) {
        if writer.uid != handle.caller.uid {
            self.tree.foreign_control(handle.caller.uid, writer);
            return reply.error(FsError::Denied.errno());
        }
        if data.len() > MAX_REQUEST {
            let message = "the request is longer than 1048575 bytes or part of a longer write; \
                 one write is one request";
            let answer = self.tree.refuse_control(FsError::TooLong, message);
            handle.put(answer.body);
            return reply.error(FsError::TooLong.errno());
        }
        let job = Job {
            handle: handle.clone(),
            request: Zeroizing::new(data.to_vec()),
            reply,
        };
        self.executor.submit(job, &*self.tree);
    }

    fn close(&self, handle: u64) {
        self.handles.remove(handle);
        let open = self.open.write().remove(&handle);
        let Some(Open::Secret(secret)) = open.as_deref() else {
            return;
        };
        if let Some(snapshot) = &secret.snapshot {
            let len = snapshot.as_ref().len();
            self.cached.fetch_sub(len, Ordering::Relaxed);
        }
        if secret.cached {
            self.pages.drop_pages(secret.file.ino);
        }
    }

    fn check_access(&self, claim: Claim, ino: u64, mask: AccessFlags) -> Result<(), FsError> {
        let entry = self.entry(ino)?;
        let caller = || claim.identify(Ids::RealOrFileSystem).ok();
        if ino == CONTROL {
            let allowed = mask.is_empty() || caller().is_some_and(|c| self.tree.may_control(&c));
            let executes = mask.contains(AccessFlags::X_OK);
            return if allowed && !executes {
                Ok(())
            } else {
                Err(FsError::Denied)
            };
        }
        match entry.kind {
            _ if mask.contains(AccessFlags::W_OK) => Err(FsError::ReadOnly),
            EntryKind::Directory => Ok(()),
            EntryKind::Secret { .. } if mask.contains(AccessFlags::X_OK) => Err(FsError::Denied),
            EntryKind::Secret { .. } if mask.contains(AccessFlags::R_OK) => {
                match caller().is_some_and(|c| self.tree.may_read(&c, ino)) {
                    true => Ok(()),
                    false => Err(FsError::Denied),
                }
            }
            EntryKind::Secret { .. } => Ok(()),
        }
    }

    fn fill_directory(
        &self,
        claim: Claim,
        dir: u64,
        offset: u64,
        reply: &mut ReplyDirectory,
    ) -> Result<(), FsError> {
        for (at, name) in [(DOT, "."), (DOT_DOT, "..")] {
            if offset < at && reply.add(INodeNo(dir), at, FileType::Directory, name) {
                return Ok(());
            }
        }
        // Who has no identity sees an empty directory.
        let Ok(caller) = claim.identify(Ids::FileSystem) else {
            return Ok(());
        };
        if dir == ROOT && offset < CONTROL_OFFSET && self.tree.may_control(&caller) {
            let control = INodeNo(CONTROL);
            if reply.add(control, CONTROL_OFFSET, FileType::RegularFile, CONTROL_NAME) {
                return Ok(());
            }
        }
        self.tree.list(&caller, dir, offset, &mut |listed| {
            let kind = match listed.directory {
                true => FileType::Directory,
                false => FileType::RegularFile,
            };
            match reply.add(INodeNo(listed.ino), listed.ino, kind, listed.name) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })
    }

    fn attribute(&self, claim: Claim, ino: u64, name: &OsStr) -> Result<String, FsError> {
        let wanted = XATTRS.iter().find(|(known, _)| name == OsStr::new(known));
        let (_, attribute) = wanted.ok_or(FsError::NoAttribute)?;
        if matches!(ino, ROOT | CONTROL) {
            return Err(FsError::NoAttribute);
        }
        let caller = self.identified(claim, ino)?;
        self.tree.xattr(&caller, ino, *attribute)
    }

    fn attribute_names(&self, claim: Claim, ino: u64) -> Result<Vec<u8>, FsError> {
        let secret = matches!(self.entry(ino)?.kind, EntryKind::Secret { .. }) && ino != CONTROL;
        let visible = secret
            && claim
                .identify(Ids::FileSystem)
                .is_ok_and(|caller| self.tree.may_list_xattrs(&caller, ino));
        if !visible {
            return Ok(Vec::new());
        }
        let names = XATTRS.iter().map(|(name, _)| name.as_bytes());
        Ok(names.flat_map(|name| [name, b"\0"].concat()).collect())
    }
}

fn claim(request: &FuseRequest) -> Claim {
    Claim {
        uid: request.uid(),
        gid: request.gid(),
        tid: request.pid(),
    }
}

/// The part of `bytes` that a read of `size` at `offset` gets.
fn slice(bytes: &[u8], (offset, size): (u64, u32)) -> &[u8] {
    let from = usize::try_from(offset).map_or(bytes.len(), |from| from.min(bytes.len()));
    let to = from.saturating_add(size as usize).min(bytes.len());
    bytes.get(from..to).unwrap_or_default()
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
        config
            .set_max_write(MAX_WRITE)
            .map_err(|_| io::Error::other("the kernel does not accept writes of 1 MiB"))?;
        // Lookups and listings in one directory need no order among them. Older
        // kernels lack it and serialise; nothing else is asked for.
        config
            .add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS)
            .ok();
        Ok(())
    }

    fn lookup(&self, req: &FuseRequest, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent.0, name) {
            // The answer is the same for every caller; what it may do is told by
            // GETATTR, which the kernel asks before it shows any attribute.
            Ok(entry) => {
                let view = View {
                    claim: claim(req),
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
        match self.entry(ino.0) {
            Ok(entry) => reply.attr(&TTL, &self.attributes(&entry, claim(req))),
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
        // A shell's `>` truncates after it opened: for the control file that
        // changes nothing.
        let truncates = size == Some(0) && mode.is_none() && uid.is_none() && gid.is_none();
        if ino.0 != CONTROL || !truncates {
            return reply.error(FsError::ReadOnly.errno());
        }
        let attributes = self.attributes(&self.control_entry(), claim(req));
        match attributes.perm {
            0 => reply.error(FsError::Denied.errno()),
            _ => reply.attr(&TTL, &attributes),
        }
    }

    fn open(&self, req: &FuseRequest, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let unique = req.unique().0;
        match self.open_file(claim(req), unique, ino.0, flags) {
            Ok(flags) => reply.opened(FileHandle(unique & !RESENT), flags),
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
        match self.opened(fh.0) {
            Err(error) => reply.error(error.errno()),
            Ok(open) => match &*open {
                // Only read(2) carries a lock owner. Without one the bytes would go
                // into the page cache (splice, sendfile, a mapping's fault).
                Open::Secret(secret) if lock_owner.is_none() && !secret.cached => {
                    reply.error(FsError::Invalid.errno());
                }
                Open::Secret(secret) => {
                    self.read_secret(secret, claim(req), (offset, size), reply);
                }
                Open::Control(control) if claim(req).uid != control.caller.uid => {
                    reply.error(FsError::Denied.errno());
                }
                Open::Control(control) => {
                    control.take(size as usize, |bytes| reply.data(bytes));
                }
            },
        }
    }

    fn write(
        &self,
        req: &FuseRequest,
        _ino: INodeNo,
        fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.opened(fh.0).as_deref() {
            Err(error) => reply.error(error.errno()),
            Ok(Open::Secret(_)) => reply.error(FsError::ReadOnly.errno()),
            Ok(Open::Control(control)) => self.write_control(claim(req), control, data, reply),
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
        _req: &FuseRequest,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
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
        match self.fill_directory(claim(req), ino.0, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error.errno()),
        }
    }

    fn statfs(&self, _req: &FuseRequest, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, self.tree.secrets(), 0, 4096, 255, 4096);
    }

    fn access(&self, req: &FuseRequest, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        reply_empty(self.check_access(claim(req), ino.0, mask), reply);
    }

    fn getxattr(
        &self,
        req: &FuseRequest,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let value = self.attribute(claim(req), ino.0, name);
        reply_xattr(value.map(String::into_bytes), size, reply);
    }

    fn listxattr(&self, req: &FuseRequest, ino: INodeNo, size: u32, reply: ReplyXattr) {
        reply_xattr(self.attribute_names(claim(req), ino.0), size, reply);
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

//! What the file system does with each request, apart from fuser's own types.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use fuser::{
    AccessFlags, FileAttr, FileType, FopenFlags, INodeNo, OpenAccMode, OpenFlags, ReplyData,
    ReplyDirectory, ReplyWrite,
};
use parking_lot::RwLock;
use zeroize::Zeroizing;

use crate::attr::{self, View};
use crate::caller::cgroup::WorkloadCache;
use crate::caller::{Caller, CarriedIds, HeaderIds, IdentityError};
use crate::control::{ControlHandle, Executor, Job};
use crate::errno::FsError;
use crate::handles::{HandleTable, OpenFile};
use crate::in_flight::InFlight;
use crate::inode::{CONTROL, CONTROL_NAME, Inode, ROOT};
use crate::notify::pages::PageCache;
use crate::range::slice;
use crate::tree::{
    Backend, CallerIds, Control, Entry, EntryKind, LimitScope, OpenRequest, Refusals,
    RequestOrigin, SharedRead, Tree, XATTRS,
};
use crate::unique::Unique;

/// The kernel's write size in bytes.
pub(crate) const MAX_WRITE: u32 = 1024 * 1024;
/// Longest control request in bytes. A longer write comes in pieces, and the
/// first one is up to a page (64 KiB on some machines) shorter than
/// [`MAX_WRITE`], depending on where the caller's buffer starts: what is longer
/// than this may be such a piece and is refused.
pub const MAX_REQUEST: usize = (MAX_WRITE - 64 * 1024) as usize;

/// Plaintext kept for open handles, in bytes; beyond it READ decrypts again.
const SNAPSHOT_BUDGET: usize = 64 * 1024 * 1024;

/// Offsets of the entries every directory has; others are inode numbers.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
const CONTROL_OFFSET: u64 = 3;

/// The file system served to the kernel.
pub struct FileSystem<T: Tree> {
    pub(crate) tree: Arc<T>,
    pub(crate) control: Arc<dyn Control>,
    callers: Arc<dyn CallerIds>,
    refusals: Arc<dyn Refusals>,
    workloads: WorkloadCache,
    handles: Arc<HandleTable>,
    open: RwLock<HashMap<u64, Arc<Open<T::Plaintext>>>>,
    cached: AtomicUsize,
    executor: Executor,
    pages: Arc<PageCache>,
    pub(crate) in_flight: Arc<InFlight>,
    started: SystemTime,
}

pub(crate) enum Open<S> {
    Secret(SecretHandle<S>),
    Control(Arc<ControlHandle>),
}

/// An open secret. Everything here but `shared` can be had again from the
/// handle table and the vault.
pub(crate) struct SecretHandle<S> {
    pub(crate) file: OpenFile,
    snapshot: Option<S>,
    /// [`Tree::revocation_epoch`] when it was last found readable.
    fences: AtomicU64,
    /// Other readers' uids and whether they may read.
    shared: RwLock<HashMap<u32, Result<(), FsError>>>,
}

impl<T: Tree> FileSystem<T> {
    /// A file system over `backend`.
    ///
    /// # Errors
    /// When the control thread can't be started.
    pub fn new(
        backend: Backend<T>,
        handles: Arc<HandleTable>,
        in_flight: Arc<InFlight>,
    ) -> io::Result<Self> {
        let pages = Arc::new(PageCache::start()?);
        Ok(Self {
            executor: Executor::start(backend.control.clone(), pages.clone(), in_flight.clone())?,
            in_flight,
            pages,
            tree: backend.tree,
            control: backend.control,
            callers: backend.callers,
            refusals: backend.refusals,
            workloads: WorkloadCache::default(),
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

    pub(crate) fn control_entry(&self) -> Entry {
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

    pub(crate) fn entry(&self, ino: u64) -> Result<Entry, FsError> {
        match ino {
            ROOT => Ok(self.root_entry()),
            CONTROL => Ok(self.control_entry()),
            _ => self.tree.entry(ino),
        }
    }

    pub(crate) fn find(&self, parent: u64, name: &OsStr) -> Result<Entry, FsError> {
        // A name that is not UTF-8 cannot have been stored.
        let name = name.to_str().ok_or(FsError::NotFound)?;
        match (parent, name) {
            (ROOT, CONTROL_NAME) => Ok(self.control_entry()),
            _ => self.tree.lookup(parent, name),
        }
    }

    /// The attributes of `entry` for whoever claims to ask. Nobody is refused
    /// here: a caller without identity sees a file it may not read.
    pub(crate) fn attributes(&self, entry: &Entry, header: HeaderIds) -> FileAttr {
        let caller = || self.identify(header, CarriedIds::FileSystem).ok();
        let view = |allowed| View { header, allowed };
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

    fn identify(&self, header: HeaderIds, ids: CarriedIds) -> Result<Caller, IdentityError> {
        header.identify(ids, |tid| self.callers.thread_ids(tid))
    }

    /// The caller of an operation that is refused and recorded without identity.
    fn identified(&self, header: HeaderIds, ino: u64) -> Result<Caller, FsError> {
        let identity = match ino {
            // It is kept for as long as the handle, and policies may change.
            CONTROL => header.identify(CarriedIds::FileSystem, |_| None),
            _ => self.identify(header, CarriedIds::FileSystem),
        };
        let mut caller = identity.map_err(|why| {
            self.refusals.unidentified(header, ino, why);
            FsError::Denied
        })?;
        caller.workload = self.workloads.of(caller.pid, caller.kernel_ids);
        Ok(caller)
    }

    pub(crate) fn open_file(
        &self,
        header: HeaderIds,
        unique: Unique,
        ino: u64,
        flags: OpenFlags,
    ) -> Result<FopenFlags, FsError> {
        if ino != CONTROL {
            self.check_secret_open(ino, flags)?;
        }
        if let Some(flags) = self.opened_before(header, unique, ino) {
            return Ok(flags);
        }
        let pending = self.handles.begin_open(header.uid).map_err(|refused| {
            if let Some(count) = refused.report {
                let limit = match refused.error {
                    FsError::TableFull => LimitScope::Table,
                    _ => LimitScope::Caller,
                };
                self.refusals.limited(header, limit, count);
            }
            refused.error
        })?;
        let caller = self.identified(header, ino)?;
        let handle = unique.request();
        let flags = if ino == CONTROL {
            self.open_control(caller, handle)?
        } else {
            self.open_secret(
                &caller,
                handle,
                OpenRequest {
                    ino,
                    resent: unique.resent(),
                },
            )?
        };
        drop(pending);
        Ok(flags)
    }

    /// The kernel asks again for what an earlier process decided, recorded and
    /// entered in the table, but did not live to answer.
    fn opened_before(&self, header: HeaderIds, unique: Unique, ino: u64) -> Option<FopenFlags> {
        if !unique.resent() {
            return None;
        }
        let file = self.handles.get(unique.request())?;
        let same = file.ino == Inode::of(ino).id() && file.uid == header.uid;
        same.then(|| open_flags(&file))
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
        request: OpenRequest,
    ) -> Result<FopenFlags, FsError> {
        // Before the decision: what is revoked after it fences this handle, too.
        let fences = self.tree.revocation_epoch();
        let opened = self.tree.open(caller, request)?;
        let file = OpenFile {
            ino: opened.id,
            version: opened.version,
            uid: caller.uid,
            control: false,
            cached: opened.cached,
        };
        self.handles.insert(handle, file)?;
        let open = SecretHandle {
            file,
            snapshot: self.keep(opened.plaintext),
            fences: AtomicU64::new(fences),
            shared: RwLock::default(),
        };
        self.open
            .write()
            .insert(handle, Arc::new(Open::Secret(open)));
        Ok(open_flags(&file))
    }

    /// Keeps a snapshot while the budget lasts.
    fn keep(&self, snapshot: T::Plaintext) -> Option<T::Plaintext> {
        let len = snapshot.as_ref().len();
        let before = self.cached.fetch_add(len, Ordering::Relaxed);
        if before.saturating_add(len) <= SNAPSHOT_BUDGET {
            return Some(snapshot);
        }
        self.cached.fetch_sub(len, Ordering::Relaxed);
        None
    }

    fn open_control(&self, caller: Caller, handle: u64) -> Result<FopenFlags, FsError> {
        self.control.open_control(&caller)?;
        let file = OpenFile {
            ino: CONTROL,
            version: 0,
            uid: caller.uid,
            control: true,
            cached: false,
        };
        self.handles.insert(handle, file)?;
        let open = Open::Control(Arc::new(ControlHandle::new(caller)));
        self.open.write().insert(handle, Arc::new(open));
        Ok(open_flags(&file))
    }

    pub(crate) fn opened(&self, handle: u64) -> Result<Arc<Open<T::Plaintext>>, FsError> {
        if let Some(open) = self.open.read().get(&handle) {
            return Ok(open.clone());
        }
        // An earlier process opened it: the table says what it may see.
        let file = self.handles.get(handle).ok_or(FsError::BadHandle)?;
        let open = Arc::new(match file.control {
            true => {
                let answer = self.control.kept_answer(handle);
                Open::Control(Arc::new(ControlHandle::adopted(file.uid, answer)))
            }
            false => Open::Secret(SecretHandle {
                file,
                snapshot: None,
                // Nobody has looked in this process.
                fences: AtomicU64::new(u64::MAX),
                shared: RwLock::default(),
            }),
        });
        let mut known = self.open.write();
        Ok(known.entry(handle).or_insert(open).clone())
    }

    pub(crate) fn read_secret(
        &self,
        open: &SecretHandle<T::Plaintext>,
        reader: HeaderIds,
        range: (u64, u32),
        reply: ReplyData,
    ) {
        let send = |bytes: &[u8], reply: ReplyData| reply.data(slice(bytes, range));
        let checked = self
            .check_fences(open)
            .and_then(|()| self.check_reader(open, reader));
        if let Err(error) = checked {
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

    /// A handle outlives neither its version's revocation nor its secret's.
    fn check_fences(&self, open: &SecretHandle<T::Plaintext>) -> Result<(), FsError> {
        let fences = self.tree.revocation_epoch();
        if open.fences.load(Ordering::Relaxed) == fences {
            return Ok(());
        }
        self.tree.check(open.file.ino, open.file.version)?;
        open.fences.store(fences, Ordering::Relaxed);
        Ok(())
    }

    /// A handle may be passed on; who reads with it is recorded once.
    fn check_reader(
        &self,
        open: &SecretHandle<T::Plaintext>,
        reader: HeaderIds,
    ) -> Result<(), FsError> {
        if reader.uid == open.file.uid {
            return Ok(());
        }
        if let Some(known) = open.shared.read().get(&reader.uid) {
            return *known;
        }
        let verdict = self.refusals.shared_read(SharedRead {
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

    pub(crate) fn write_control(
        &self,
        writer: HeaderIds,
        handle: &Arc<ControlHandle>,
        data: &[u8],
        origin: RequestOrigin,
        reply: ReplyWrite,
    ) {
        if writer.uid != handle.uid {
            self.refusals.foreign_control(handle.uid, writer);
            return reply.error(FsError::Denied.errno());
        }
        let caller = match handle.caller.get() {
            Some(caller) => caller.clone(),
            // It waits in its write, so `/proc` shows who it is.
            None => match self.identified(writer, CONTROL) {
                Ok(caller) => handle.caller.get_or_init(|| caller).clone(),
                Err(error) => return reply.error(error.errno()),
            },
        };
        if data.len() > MAX_REQUEST {
            let message = format!(
                "the request is longer than {MAX_REQUEST} bytes or part of a longer write; one \
                 write is one request"
            );
            let answer = self.control.refuse_control(FsError::TooLong, &message);
            handle.put(answer.body, origin.start);
            return reply.error(FsError::TooLong.errno());
        }
        let job = Job {
            handle: handle.clone(),
            caller,
            origin,
            request: Zeroizing::new(data.to_vec()),
            reply,
        };
        self.executor.submit(job, &*self.control);
    }

    pub(crate) fn close(&self, handle: u64) {
        self.handles.remove(handle);
        let open = self.open.write().remove(&handle);
        let Some(Open::Secret(secret)) = open.as_deref() else {
            return;
        };
        if let Some(snapshot) = &secret.snapshot {
            let len = snapshot.as_ref().len();
            self.cached.fetch_sub(len, Ordering::Relaxed);
        }
        if secret.file.cached {
            self.pages.drop_pages(secret.file.ino);
        }
    }

    pub(crate) fn check_access(
        &self,
        header: HeaderIds,
        ino: u64,
        mask: AccessFlags,
    ) -> Result<(), FsError> {
        let entry = self.entry(ino)?;
        let caller = || self.identify(header, CarriedIds::RealOrFileSystem).ok();
        if ino == CONTROL {
            let allowed = mask.is_empty() || caller().is_some_and(|c| self.control.may_control(&c));
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

    pub(crate) fn fill_directory(
        &self,
        header: HeaderIds,
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
        let Ok(caller) = self.identify(header, CarriedIds::FileSystem) else {
            return Ok(());
        };
        if dir == ROOT && offset < CONTROL_OFFSET && self.control.may_control(&caller) {
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

    pub(crate) fn attribute(
        &self,
        header: HeaderIds,
        ino: u64,
        name: &OsStr,
    ) -> Result<String, FsError> {
        let wanted = XATTRS.iter().find(|(known, _)| name == OsStr::new(known));
        let (_, attribute) = wanted.ok_or(FsError::NoAttribute)?;
        if matches!(ino, ROOT | CONTROL) {
            return Err(FsError::NoAttribute);
        }
        let caller = self.identified(header, ino)?;
        self.tree.xattr(&caller, ino, *attribute)
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

fn open_flags(file: &OpenFile) -> FopenFlags {
    let direct = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
    match file {
        OpenFile { cached: true, .. } => FopenFlags::FOPEN_NOFLUSH,
        OpenFile { .. } => direct,
    }
}

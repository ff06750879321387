//! The answer to each request.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use zeroize::Zeroizing;

use crate::buffers::MAX_WRITE;
use crate::caller::cgroup::WorkloadCache;
use crate::caller::containment::Containment;
use crate::caller::{Caller, CarriedIds, HeaderIds, IdentityError};
use crate::connection::{Connection, Reply};
use crate::control::{ControlExecutor, ControlHandle, ControlJob};
use crate::errno::FsError;
use crate::handles::{HandleTable, OpenFile};
use crate::in_flight::InFlight;
use crate::inode::{CONTROL, CONTROL_NAME, Inode, ROOT};
use crate::listing_budget::Listings;
use crate::notify::pages::PageInvalidator;
use crate::open_handles::{OpenHandle, OpenHandles, SecretHandle};
use crate::range::slice;
use crate::sent_back::SentBack;
use crate::tree::{
    Backend, CallerIds, Control, Entry, EntryKind, LimitScope, OpenRequest, Refusals,
    RequestOrigin, SharedRead, Tree,
};
use crate::unique::Unique;
use crate::wire::abi::fopen;

/// Longest control request in bytes. A longer write comes in pieces, and the
/// first one is up to a page (64 KiB on some machines) shorter than
/// 1 MiB, depending on where the caller's buffer starts: what is longer
/// than this may be such a piece and is refused.
pub const MAX_REQUEST: usize = (MAX_WRITE - 64 * 1024) as usize;

/// Handles of the control file that one uid may have open: each may hold an answer.
const MAX_CONTROL_HANDLES: usize = 64;

/// Where more is known of callers than the head of a request says.
struct CallerLookup {
    ids: Arc<dyn CallerIds>,
    workloads: WorkloadCache,
}

/// The file system served to the kernel.
pub struct FileSystem<T: Tree> {
    pub(crate) tree: Arc<T>,
    pub(crate) control: Arc<dyn Control>,
    callers: CallerLookup,
    refusals: Arc<dyn Refusals>,
    pub(crate) handles: Arc<HandleTable>,
    open_handles: OpenHandles<T::Plaintext>,
    executor: ControlExecutor,
    pages: Arc<PageInvalidator>,
    pub(crate) listings: Listings,
    pub(crate) in_flight: Arc<InFlight>,
    sent_back: SentBack,
    pub(crate) started: SystemTime,
}

impl<T: Tree> FileSystem<T> {
    /// A file system over `backend`, served to the kernel on `connection`.
    ///
    /// # Errors
    /// When no threads can be had.
    pub fn new(
        backend: Backend<T>,
        handles: Arc<HandleTable>,
        in_flight: Arc<InFlight>,
        connection: Arc<Connection>,
    ) -> io::Result<Self> {
        let pages = Arc::new(PageInvalidator::start(connection)?);
        let control = backend.control;
        Ok(Self {
            sent_back: SentBack::new(in_flight.served_before()),
            executor: ControlExecutor::start(
                control.clone(),
                pages.clone(),
                (handles.clone(), in_flight.clone()),
            )?,
            in_flight,
            pages,
            tree: backend.tree,
            control,
            callers: CallerLookup {
                ids: backend.callers,
                workloads: WorkloadCache::default(),
            },
            refusals: backend.refusals,
            listings: Listings::default(),
            handles,
            open_handles: OpenHandles::new(),
            started: SystemTime::now(),
        })
    }

    pub(crate) fn control_entry(&self) -> Entry {
        Entry {
            ino: CONTROL,
            node: CONTROL,
            kind: EntryKind::Secret { size: 0 },
            modified: self.started,
        }
    }

    fn root_entry(&self) -> Entry {
        Entry {
            ino: ROOT,
            node: ROOT,
            kind: EntryKind::Directory,
            modified: self.started,
        }
    }

    pub(crate) fn entry(&self, node: u64) -> Result<Entry, FsError> {
        match node {
            ROOT => Ok(self.root_entry()),
            CONTROL => Ok(self.control_entry()),
            _ => self.tree.entry(node),
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

    pub(crate) fn identify(
        &self,
        header: HeaderIds,
        carried: CarriedIds,
    ) -> Result<Caller, IdentityError> {
        let caller = header.identify(carried, |tid| self.callers.ids.thread_ids(tid))?;
        Ok(self.with_owner(caller))
    }

    /// `caller`, and if it is in another user namespace, or has ids of one, whose that is.
    fn with_owner(&self, mut caller: Caller) -> Caller {
        if caller.foreign().is_some() {
            let owner = self.callers.ids.namespace_owner(&caller);
            caller.containment = Some(Containment::UserNamespace(owner));
        } else if let Some(owner) = self.callers.ids.subordinate_owner(caller.uid, caller.gid) {
            caller.containment = Some(Containment::SubordinateIds(owner));
        }
        caller
    }

    /// The caller of an operation that is refused, and recorded, to callers without
    /// identity.
    pub(crate) fn identify_or_record(
        &self,
        header: HeaderIds,
        ino: u64,
    ) -> Result<Caller, FsError> {
        let identity = match ino {
            // With its groups, since it is kept for as long as the handle and a
            // later policy may ask for them.
            CONTROL => header
                .identify(CarriedIds::FileSystem, |_| None)
                .map(|caller| self.with_owner(caller)),
            _ => self.identify(header, CarriedIds::FileSystem),
        };
        let mut caller = identity.map_err(|why| {
            self.refusals.unidentified(header, ino, why);
            FsError::Denied
        })?;
        caller.workload = self.callers.workloads.of(caller.pid, caller.kernel_ids);
        Ok(caller)
    }

    pub(crate) fn open_file(
        &self,
        header: HeaderIds,
        unique: Unique,
        node: u64,
        flags: i32,
    ) -> Result<u32, FsError> {
        let current = match node {
            CONTROL => CONTROL,
            _ => self.check_secret_open(node, flags)?.node,
        };
        if let Some(flags) = self.opened_before(header, unique, node) {
            return Ok(flags);
        }
        let returns = self.sent_back.returns(header.tid);
        if current != node && !returns {
            self.sent_back.send(header.tid)?;
        }
        let caller = self.identify_or_record(header, node)?;
        let pending = self.handles.begin_open(caller.account());
        let pending = pending.map_err(|refused| {
            if let Some(count) = refused.report {
                let limit = match refused.error {
                    FsError::TableFull => LimitScope::Table,
                    _ => LimitScope::Caller,
                };
                self.refusals.limited(&caller, limit, count);
            }
            refused.error
        })?;
        let handle = unique.request();
        let flags = if node == CONTROL {
            self.open_control(caller, handle, flags)?
        } else {
            let resent = unique.resent();
            let request = OpenRequest { ino: node, resent };
            self.open_secret(&caller, handle, request, returns)?
        };
        drop(pending);
        Ok(flags)
    }

    /// The answer to an OPEN that an earlier process decided, recorded and entered
    /// in the table, but did not live to give.
    fn opened_before(&self, header: HeaderIds, unique: Unique, node: u64) -> Option<u32> {
        if !unique.resent() {
            return None;
        }
        let file = self.handles.get(unique.request())?;
        let same = file.ino == Inode::of(node).id() && file.uid == header.uid;
        same.then(|| open_flags(&file))
    }

    /// Refuses what nobody may do; gives the secret as it is now.
    fn check_secret_open(&self, node: u64, flags: i32) -> Result<Entry, FsError> {
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
        let entry = self.entry(node)?;
        match entry.kind {
            EntryKind::Directory => Err(FsError::IsDirectory),
            EntryKind::Secret { .. } if writes => Err(FsError::ReadOnly),
            EntryKind::Secret { .. } => Ok(entry),
        }
    }

    fn open_secret(
        &self,
        caller: &Caller,
        handle: u64,
        request: OpenRequest,
        returns: bool,
    ) -> Result<u32, FsError> {
        // Before the decision: what is revoked after it fences this handle, too.
        let epoch = self.tree.revocation_epoch();
        let opened = self.tree.open(caller, request)?;
        let file = OpenFile {
            ino: opened.id,
            version: opened.version,
            uid: caller.uid,
            account: caller.account(),
            process: caller.pid,
            turn: match Inode::of(request.ino) {
                Inode::File { turn, .. } => turn,
                _ => 0,
            },
            control: false,
            cached: opened.cached,
            one_request: false,
        };
        // A rotation came in between.
        if file.turn != 0 && !file.owns_node() && !returns {
            self.sent_back.send(caller.tid)?;
        }
        // After the record: what is in the table is not recorded again when another
        // process gets this request.
        self.handles.insert(handle, file)?;
        self.open_handles
            .insert_secret(handle, file, opened.plaintext, epoch);
        Ok(open_flags(&file))
    }

    fn open_control(&self, caller: Caller, handle: u64, flags: i32) -> Result<u32, FsError> {
        if self.handles.control_handles(caller.account()) >= MAX_CONTROL_HANDLES {
            return Err(FsError::TooManyHandles);
        }
        self.control.open_control(&caller)?;
        let file = OpenFile {
            ino: CONTROL,
            version: 0,
            uid: caller.uid,
            account: caller.account(),
            process: caller.pid,
            turn: 0,
            control: true,
            cached: false,
            // Who cannot read the answer may be a shell that writes a long line, or one with
            // line breaks, in pieces: each would be a request.
            one_request: flags & libc::O_ACCMODE == libc::O_WRONLY,
        };
        self.handles.insert(handle, file)?;
        self.open_handles
            .insert_control(handle, ControlHandle::new(caller));
        Ok(open_flags(&file))
    }

    pub(crate) fn opened(&self, handle: u64) -> Result<Arc<OpenHandle<T::Plaintext>>, FsError> {
        if let Some(open) = self.open_handles.get(handle) {
            return Ok(open);
        }
        // An earlier process opened it: the table says what it may see.
        let file = self.handles.get(handle).ok_or(FsError::BadHandle)?;
        let open = if file.control {
            let answer = self.control.kept_answer(handle);
            OpenHandle::Control(Arc::new(ControlHandle::adopted(file.uid, answer)))
        } else {
            OpenHandle::Secret(SecretHandle::adopted(file))
        };
        Ok(self.open_handles.adopt(handle, open))
    }

    pub(crate) fn read_secret(
        &self,
        open: &SecretHandle<T::Plaintext>,
        reader: HeaderIds,
        range: (u64, u32),
        reply: Reply,
    ) {
        let send = |bytes: &[u8], reply: Reply| reply.data(slice(bytes, range));
        let checked = self
            .check_revocations(open)
            .and_then(|()| self.check_reader(open, reader));
        if let Err(error) = checked {
            return reply.error(error);
        }
        match &open.plaintext {
            Some(plaintext) => send(plaintext.as_ref(), reply),
            None => match self.tree.reload(open.file.ino, open.file.version) {
                Ok(plaintext) => send(plaintext.as_ref(), reply),
                Err(error) => reply.error(error),
            },
        }
    }

    /// A handle outlives neither its version's revocation nor its secret's.
    fn check_revocations(&self, open: &SecretHandle<T::Plaintext>) -> Result<(), FsError> {
        let epoch = self.tree.revocation_epoch();
        if open.revocation_epoch.load(Ordering::Relaxed) == epoch {
            return Ok(());
        }
        self.tree.check(open.file.ino, open.file.version)?;
        // The epoch from before the check: a revocation during it is looked for
        // at the next read.
        open.revocation_epoch.store(epoch, Ordering::Relaxed);
        Ok(())
    }

    /// Records a reader who is not the opener, once: a handle may be passed on.
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
        reply: Reply,
    ) {
        if writer.uid != handle.uid {
            self.refusals.foreign_control(handle.uid, writer);
            return reply.error(FsError::Denied);
        }
        let caller = match handle.caller.get() {
            Some(caller) => caller.clone(),
            // The caller waits in its write, so `/proc` shows who it is. Another one with
            // its uid may have the handle now.
            None => match self.identify_or_record(writer, CONTROL).and_then(|caller| {
                self.control.open_control(&caller)?;
                Ok(caller)
            }) {
                Ok(caller) => handle.caller.get_or_init(|| caller).clone(),
                Err(error) => return reply.error(error),
            },
        };
        if !self.handles.takes_request(origin.handle, origin.request) {
            let message = "a handle that is open for writing only takes one request";
            self.control.refuse_control(FsError::Invalid, message);
            return reply.error(FsError::Invalid);
        }
        if data.len() > MAX_REQUEST {
            let message = format!(
                "the request is longer than {MAX_REQUEST} bytes or part of a longer write; one \
                 write is one request"
            );
            let answer = self.control.refuse_control(FsError::TooLong, &message);
            handle.put(answer.body, origin.start);
            return reply.error(FsError::TooLong);
        }
        let job = ControlJob {
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
        let open = self.open_handles.remove(handle);
        if let Some(OpenHandle::Secret(secret)) = open.as_deref()
            && secret.file.cached
        {
            let (ino, node) = (secret.file.ino, secret.file.node());
            // While others read there a page may be locked until they are answered: who
            // asks for it to be dropped waits, and can't end when this process is killed.
            if !self.handles.cached_nodes(ino).contains(&node) {
                self.pages.invalidate(node);
            }
        }
    }
}

/// Reads go past the page cache, unless it may be used and has one version's pages only:
/// on another node mappings alone use it.
fn open_flags(file: &OpenFile) -> u32 {
    if file.cached && file.owns_node() {
        fopen::NOFLUSH
    } else {
        fopen::DIRECT_IO | fopen::NOFLUSH
    }
}

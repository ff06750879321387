//! The four traits that the file system asks, and what it asks with.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::SystemTime;

use zeroize::Zeroizing;

use crate::caller::containment::NamespaceOwner;
use crate::caller::{Caller, HeaderIds, IdentityError, ThreadIds};
use crate::errno::FsError;
use crate::listing_budget::{ListingBudget, ListingEnd};

/// Directory or secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A secret whose current value has `size` bytes.
    Secret {
        /// Bytes.
        size: u64,
    },
}

/// A directory, or a secret with one of its versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Inode number, never reused.
    pub ino: u64,
    /// Number by which the kernel asks for it: of a secret's file another one for each
    /// version, else the inode number.
    pub node: u64,
    /// Directory or secret.
    pub kind: EntryKind,
    /// When the version was made.
    pub modified: SystemTime,
}

/// A name in a directory listing.
pub struct DirEntry<'a> {
    /// Inode number; also the offset to resume after.
    pub ino: u64,
    /// Last segment of the name.
    pub name: &'a str,
    /// Whether it is a directory.
    pub directory: bool,
}

/// A granted open.
pub struct OpenedSecret<P> {
    /// The secret's id.
    pub id: u64,
    /// The version the handle will show.
    pub version: u32,
    /// The value.
    pub plaintext: P,
    /// Whether the value may enter the page cache.
    pub cached: bool,
}

/// An OPEN to be decided.
#[derive(Clone, Copy)]
pub struct OpenRequest {
    /// The secret, by any of its nodes.
    pub ino: u64,
    /// Whether the kernel sent it before; an earlier process may have served it.
    pub resent: bool,
}

/// A READ by somebody else than the opener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedRead {
    /// The secret.
    pub ino: u64,
    /// The version the handle shows.
    pub version: u32,
    /// The uid that opened the handle.
    pub opener: u32,
    /// The reader; not cross-checked, READ may not look at `/proc`.
    pub reader: HeaderIds,
}

/// Extended attributes of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xattr {
    /// Key id.
    Kid,
    /// Version number.
    Version,
    /// RFC 3339 time.
    CreatedAt,
    /// RFC 3339 time.
    ExpiresAt,
    /// `current`, `grace`, `expired`, `revoked`.
    State,
}

/// The attributes by their names.
pub const XATTRS: [(&str, Xattr); 5] = [
    ("user.jarvis.kid", Xattr::Kid),
    ("user.jarvis.version", Xattr::Version),
    ("user.jarvis.created_at", Xattr::CreatedAt),
    ("user.jarvis.expires_at", Xattr::ExpiresAt),
    ("user.jarvis.state", Xattr::State),
];

/// Which bound a caller ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitScope {
    /// Handles or pending opens of one account.
    Caller,
    /// Handles of the whole file system.
    Table,
}

/// The outcome of a control request: the bytes to read back, and the errno of
/// the write.
pub struct Answer {
    /// JSON and a newline.
    pub body: Vec<u8>,
    /// `None` when the request was carried out.
    pub error: Option<FsError>,
    /// Whether it tells of a change that was made.
    pub change: bool,
    /// Secrets whose open handles must not be read any more.
    pub fenced: Vec<u64>,
}

/// An answer, and where in the file it stands: behind the request it answers.
/// That way a read can be repeated, by another process too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptAnswer {
    /// The answer's bytes.
    pub body: Vec<u8>,
    /// The position after the request, or before a refused one.
    pub at: u64,
}

/// The number and position of a control request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestOrigin {
    /// The request's number, never used again on this mount.
    pub request: u64,
    /// Whether the kernel sent it before, to a process that did not answer.
    pub resent: bool,
    /// The control handle.
    pub handle: u64,
    /// The position in the control file before the request: where it stays
    /// when the request is refused.
    pub start: u64,
    /// The position after it.
    pub end: u64,
}

/// The files: secrets and directories. Every method may be called from several
/// threads; none may touch the mount.
pub trait Tree: Send + Sync + 'static {
    /// Plaintext of one version, wiped on drop.
    type Plaintext: AsRef<[u8]> + Send + Sync;

    /// The entry `name` of directory `parent`; the same for every caller.
    ///
    /// # Errors
    /// [`FsError::NotFound`] or [`FsError::Io`].
    fn lookup(&self, parent: u64, name: &str) -> Result<Entry, FsError>;

    /// The inode with number or node `node`; a secret as it is now, whichever of its
    /// nodes it is asked by.
    ///
    /// # Errors
    /// [`FsError::NotFound`] once it is deleted, or [`FsError::Io`].
    fn entry(&self, node: u64) -> Result<Entry, FsError>;

    /// Secret `id` as it was with `version`.
    ///
    /// # Errors
    /// [`FsError::NotFound`] once nothing is known of it, or [`FsError::Io`].
    fn version_entry(&self, id: u64, version: u32) -> Result<Entry, FsError>;

    /// Shows the entries of a directory that `caller` may see, those after an inode, until `visit` breaks or the `budget` is used up.
    ///
    /// # Errors
    /// [`FsError::NotFound`] or [`FsError::Io`].
    fn list(
        &self,
        caller: &Caller,
        dir_and_after: (u64, u64),
        budget: &mut ListingBudget,
        visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<ListingEnd, FsError>;

    /// Decides, records and decrypts.
    ///
    /// # Errors
    /// [`FsError::Denied`] (recorded), [`FsError::NotFound`], or
    /// [`FsError::Io`] when vault or audit log fail.
    fn open(
        &self,
        caller: &Caller,
        request: OpenRequest,
    ) -> Result<OpenedSecret<Self::Plaintext>, FsError>;

    /// Decrypts a version that a handle is entitled to.
    ///
    /// # Errors
    /// [`FsError::Io`].
    fn reload(&self, ino: u64, version: u32) -> Result<Self::Plaintext, FsError>;

    /// Grows when versions that were good cease to be.
    fn revocation_epoch(&self) -> u64;

    /// Whether a handle may still be read after [`Tree::revocation_epoch`] grew.
    ///
    /// # Errors
    /// [`FsError::Revoked`] or [`FsError::Io`].
    fn check(&self, id: u64, version: u32) -> Result<(), FsError>;

    /// An attribute of `ino` for `caller`.
    ///
    /// # Errors
    /// [`FsError::Denied`] (recorded), [`FsError::NoAttribute`] for a
    /// directory, [`FsError::NotFound`] or [`FsError::Io`].
    fn xattr(&self, caller: &Caller, ino: u64, attribute: Xattr) -> Result<String, FsError>;

    /// Whether `caller` may read `ino` (a secret).
    fn may_read(&self, caller: &Caller, ino: u64) -> bool;

    /// Whether `caller` may see the attributes of `ino`.
    fn may_list_xattrs(&self, caller: &Caller, ino: u64) -> bool;

    /// Live secrets.
    fn secrets(&self) -> u64;
}

/// The control file: requests to change something, and their answers.
pub trait Control: Send + Sync + 'static {
    /// Whether `caller` may open the control file.
    fn may_control(&self, caller: &Caller) -> bool;

    /// Decides and records whether `caller` may open the control file.
    ///
    /// # Errors
    /// [`FsError::Denied`] (recorded) or [`FsError::Io`].
    fn open_control(&self, caller: &Caller) -> Result<(), FsError>;

    /// Carries out a control request of `caller`; one that was carried out for
    /// an earlier process is not carried out again, it gets the same answer.
    fn control(
        &self,
        caller: &Caller,
        request: Zeroizing<Vec<u8>>,
        origin: RequestOrigin,
    ) -> Answer;

    /// Whether `request` goes before those that are not: a revocation or a key. Asked by
    /// a serving thread.
    fn is_urgent(&self, request: &[u8]) -> bool;

    /// `answer` in few words: there is no room to keep it. One that tells of a change still
    /// says that it was made; a question is refused.
    fn shorten(&self, answer: Answer) -> Answer;

    /// Whether an earlier process carried out request number `request`.
    fn carried_out(&self, request: u64) -> bool;

    /// The answer to request number `request` was given to the kernel.
    fn answered(&self, request: u64);

    /// The last answer that an earlier process committed for control handle
    /// `handle`.
    fn kept_answer(&self, handle: u64) -> Option<KeptAnswer>;

    /// A control request that was not even handed to [`Control::control`].
    fn refuse_control(&self, error: FsError, message: &str) -> Answer;
}

/// The kernel's account of a thread, where that is quicker than `/proc`.
pub trait CallerIds: Send + Sync + 'static {
    /// Thread `tid`, when its ids without its groups are enough to decide by;
    /// `None` has `/proc/TID/status` read. Asked while the thread waits.
    fn thread_ids(&self, tid: u32) -> Option<ThreadIds>;

    /// The owner of the other user namespace that `caller` is in. Asked while its
    /// thread waits.
    fn namespace_owner(&self, caller: &Caller) -> NamespaceOwner;

    /// The owner of subordinate ids among these of a caller in our own user namespace: a
    /// set-user-id file that was made in a namespace brings them here.
    fn subordinate_owner(&self, uid: u32, gid: u32) -> Option<NamespaceOwner>;
}

/// Records of what the file system refuses, or decides by itself.
pub trait Refusals: Send + Sync + 'static {
    /// Records an open, a control open or an attribute read by a caller without
    /// identity.
    fn unidentified(&self, header: HeaderIds, ino: u64, why: IdentityError);

    /// A control write by somebody else than the handle's opener.
    fn foreign_control(&self, opener: u32, writer: HeaderIds);

    /// A bound was hit `count` times since the last call for this caller's account.
    fn limited(&self, caller: &Caller, limit: LimitScope, count: u64);

    /// A handle is read by another user than its opener: called once a pair.
    ///
    /// # Errors
    /// [`FsError::Denied`] when that is not allowed; [`FsError::Io`] when it
    /// cannot be recorded.
    fn shared_read(&self, read: SharedRead) -> Result<(), FsError>;
}

/// The parts of the daemon behind a file system: one object a trait, or one for
/// several. READ and the decision of an OPEN go to `tree`, without an indirect
/// call.
pub struct Backend<T> {
    /// The files.
    pub tree: Arc<T>,
    /// The control file.
    pub control: Arc<dyn Control>,
    /// Callers' identity.
    pub callers: Arc<dyn CallerIds>,
    /// The records.
    pub refusals: Arc<dyn Refusals>,
}

//! The vault's file while it is open: whether it is still where and what it was.
//!
//! redb keeps two roots in the file's first bytes and makes a commit by one write there. So
//! that header tells commits apart: with the one of the last commit that stands a failed one
//! can be taken back, and a file with another one was changed by somebody else.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions, read_link, symlink_metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jarvis_sys::trust::{self, Rule};
use parking_lot::Mutex;
use redb::StorageBackend;
use rustix::fs::{Access, FallocateFlags, FlockOperation, access, fallocate, flock};
use rustix::io::Errno;

use crate::store::StoreError;

/// Length of what is taken for the header, in bytes; redb's is a little shorter.
pub(super) const HEADER: usize = 512;

/// First bytes of the file.
pub(super) type FileHeader = [u8; HEADER];

/// Where a vault's file belongs.
#[derive(Clone, Debug)]
pub struct VaultPlace {
    /// Path by which this process reaches it.
    pub path: PathBuf,
    /// Path to show, by which others know it.
    pub shown: PathBuf,
    /// Where the link leads that the directory of `path` is, if it is one: what a
    /// process has of a directory that was given to it.
    pub directory: Option<PathBuf>,
}

impl<P: AsRef<Path> + ?Sized> From<&P> for VaultPlace {
    fn from(path: &P) -> Self {
        let path = path.as_ref();
        Self {
            path: path.to_owned(),
            shown: path.to_owned(),
            directory: directory_link(path),
        }
    }
}

fn directory_link(path: &Path) -> Option<PathBuf> {
    read_link(path.parent()?).ok()
}

/// The vault's file, locked and open.
pub(crate) struct VaultFile {
    file: File,
    place: VaultPlace,
    /// Why it could not be opened for writing, where it is open for reading alone.
    read_only: Option<String>,
    state: Mutex<FileState>,
    /// Writes, changes of length and syncs until they fail.
    #[cfg(test)]
    pub(super) faults: faults::Faults,
}

/// Room kept on the disk for revocations, beyond the length of the file.
const RESERVE_BYTES: u64 = 256 * 1024;
/// Room that ordinary changes find without asking for it.
const AHEAD_BYTES: u64 = 256 * 1024;

/// Knowledge of the file's length and of its header.
struct FileState {
    len: u64,
    /// Length up to which the disk has blocks for the file.
    allocated: u64,
    /// Length and header as of the last commit that stands.
    kept_len: u64,
    kept: FileHeader,
    /// Headers written since then.
    written: Vec<FileHeader>,
}

impl VaultFile {
    /// `file`, which is locked, as it is now; `read_only` says why it is not open for
    /// writing, if it is not.
    ///
    /// # Errors
    /// When it can't be read.
    pub(crate) fn new(
        file: File,
        place: VaultPlace,
        read_only: Option<&io::Error>,
    ) -> Result<Self, StoreError> {
        let len = file.metadata().map_err(io_error)?.len();
        let kept = header_of(&file).map_err(io_error)?;
        Ok(Self {
            file,
            place,
            read_only: read_only.map(ToString::to_string),
            state: Mutex::new(FileState {
                len,
                allocated: 0,
                kept_len: len,
                kept,
                written: Vec::new(),
            }),
            #[cfg(test)]
            faults: faults::Faults::default(),
        })
    }

    /// The place that it belongs to.
    pub(crate) fn place(&self) -> &VaultPlace {
        &self.place
    }

    /// Another fd of it.
    pub(super) fn duplicate(&self) -> Result<File, StoreError> {
        self.file.try_clone().map_err(io_error)
    }

    /// Whether it was opened for writing.
    ///
    /// # Errors
    /// [`StoreError::Unwritable`], with what kept it from that.
    pub(super) fn opened_for_writing(&self) -> Result<(), StoreError> {
        match &self.read_only {
            None => Ok(()),
            Some(why) => Err(self.unwritable(why)),
        }
    }

    /// The header as of the last commit that stands.
    pub(super) fn kept_header(&self) -> FileHeader {
        self.state.lock().kept
    }

    /// The last header written is of a commit that stands.
    pub(super) fn keep(&self) {
        let mut state = self.state.lock();
        state.kept_len = state.len;
        if let Some(last) = state.written.pop() {
            state.kept = last;
        }
        state.written.clear();
    }

    /// Takes back what was written since the last commit that stands; gives whether the disk
    /// has nothing else, for sure.
    pub(super) fn restore(&self) -> bool {
        let (kept, kept_len, untouched) = {
            let state = self.state.lock();
            let shrunk = state.len < state.kept_len;
            let len = shrunk.then_some(state.kept_len);
            (state.kept, len, state.written.is_empty() && !shrunk)
        };
        let restored = || {
            if let Some(len) = kept_len {
                self.set_len(len)?;
            }
            self.write_at(&kept, 0)?;
            self.sync()
        };
        let done = untouched || restored().is_ok();
        if done {
            self.state.lock().written.clear();
        }
        done
    }

    /// Drops the last header when nothing of it came into the file.
    fn forget_unwritten(&self) {
        let mut state = self.state.lock();
        let found = header_of(&self.file).ok();
        let unwritten = state.written.pop();
        if found != Some(*state.written.last().unwrap_or(&state.kept)) {
            state.written.extend(unwritten);
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        self.faults.strike()?;
        self.file.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        self.faults.strike()?;
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        #[cfg(test)]
        self.faults.strike()?;
        let mut state = self.state.lock();
        if len <= state.len {
            // Blocks beyond the new end go with the rest.
            state.allocated = 0;
        }
        self.file.set_len(len)?;
        state.len = len;
        Ok(())
    }

    /// Sees to it that the disk has room for a change of `bytes` and keeps the reserve.
    ///
    /// # Errors
    /// [`StoreError::Unwritable`] when it is full but for the reserve.
    pub(super) fn make_room(&self, bytes: u64) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        let least = (state.len + RESERVE_BYTES).saturating_add(bytes);
        if least <= state.allocated {
            return Ok(());
        }
        // From the start: pages within the file may have no blocks yet.
        let allocate = |len| fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, len);
        let wanted = least.saturating_add(AHEAD_BYTES);
        let allocated = match allocate(wanted) {
            Err(Errno::NOSPC | Errno::DQUOT) => allocate(least).map(|()| least),
            result => result.map(|()| wanted),
        };
        match allocated {
            Ok(allocated) => state.allocated = allocated,
            Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => {
                return Err(self.unwritable(&errno));
            }
            // A file system that keeps no room, or whose failure the write will tell.
            Err(_) => {}
        }
        Ok(())
    }

    /// Refuses a file that somebody else has written to or cut.
    ///
    /// # Errors
    /// [`StoreError::Displaced`], [`StoreError::Io`].
    pub(super) fn check_contents(&self) -> Result<(), StoreError> {
        let len = self.file.metadata().map_err(io_error)?.len();
        let state = self.state.lock();
        if len < state.len {
            return Err(self.displaced("was truncated"));
        }
        let header = header_of(&self.file).map_err(io_error)?;
        let mut ours = state.written.iter().chain([&state.kept]);
        if len > 0 && !ours.any(|known| *known == header) {
            return Err(self.overwritten());
        }
        Ok(())
    }

    /// Refuses a file that is not where a restart would look for it.
    ///
    /// # Errors
    /// [`StoreError::Displaced`], [`StoreError::Io`].
    pub(super) fn check_place(&self) -> Result<(), StoreError> {
        if directory_link(&self.place.path) != self.place.directory {
            return Err(self.displaced("is in a directory that was moved or removed"));
        }
        let own = self.file.metadata().map_err(io_error)?;
        match symlink_metadata(&self.place.path) {
            Ok(found) if is_same(&own, &found) => Ok(()),
            Ok(_) => Err(self.displaced("was replaced by another file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound && own.nlink() == 0 => {
                Err(self.displaced("was removed"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(self.displaced("was moved away"))
            }
            Err(error) => Err(io_error(error)),
        }
    }

    /// The error for a file that somebody else has written to.
    pub(super) fn overwritten(&self) -> StoreError {
        self.displaced("was overwritten")
    }

    /// Refuses a file that nobody could write to now, as far as the system tells without a
    /// write.
    ///
    /// # Errors
    /// [`StoreError::Unwritable`].
    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        let allowed = access(&self.place.path, Access::WRITE_OK).map_err(io::Error::from);
        // Of no bytes: nothing is written, and a file system that failed says so.
        let written = allowed.and_then(|()| self.file.write_at(&[], 0));
        written.map(drop).map_err(|error| self.unwritable(&error))
    }

    fn displaced(&self, what: &'static str) -> StoreError {
        StoreError::Displaced {
            path: self.place.shown.clone(),
            what,
            open_file: open_file(&self.file),
        }
    }

    /// The file that is at the place now: this one, opened anew for writing, or another.
    /// The lock goes over to it.
    ///
    /// # Errors
    /// [`StoreError`] also when somebody else has it.
    pub(super) fn successor(&self) -> Result<Self, StoreError> {
        let found = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.place.path)
            .map_err(|error| self.unwritable(&error))?;
        let (own, other) = (self.file.metadata(), found.metadata());
        let (own, other) = (own.map_err(io_error)?, other.map_err(io_error)?);
        if is_same(&own, &other) && self.read_only.is_none() {
            // Opened a second time it would be locked a second time.
            return Self::new(self.duplicate()?, self.place.clone(), None);
        }
        let shown = &self.place.shown;
        trust::check(shown, &found, Rule::PRIVATE_FILE).map_err(|why| self.unwritable(&why))?;
        let lock = |file: &File| flock(file, FlockOperation::NonBlockingLockExclusive);
        if is_same(&own, &other) {
            flock(&self.file, FlockOperation::Unlock).map_err(|e| self.unwritable(&e))?;
        }
        if let Err(errno) = lock(&found) {
            lock(&self.file).ok();
            return Err(self.unwritable(&errno));
        }
        Self::new(found, self.place.clone(), None)
    }

    /// Tells one state of the file at the place from another, cheaply; `None` where there
    /// is no file, or no place.
    pub(super) fn stamp(&self) -> Option<FileStamp> {
        if directory_link(&self.place.path) != self.place.directory {
            return None;
        }
        let found = symlink_metadata(&self.place.path).ok()?;
        Some((found.dev(), found.ino(), found.len(), found.mtime_nsec()))
    }

    /// The error for changes that can't be written.
    pub(super) fn unwritable(&self, why: &dyn fmt::Display) -> StoreError {
        StoreError::Unwritable {
            path: self.place.shown.clone(),
            why: why.to_string(),
        }
    }
}

/// Device, number, length and time of the last write of a file.
pub(super) type FileStamp = (u64, u64, u64, i64);

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Where root finds a file that has no name any more.
fn open_file(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

fn header_of(file: &File) -> io::Result<FileHeader> {
    let mut header = [0; HEADER];
    let mut filled = 0;
    while let Some(rest) = header.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(header)
}

pub(super) fn io_error(error: io::Error) -> StoreError {
    StoreError::Io(error.to_string())
}

/// redb's way to the file, until it is cut off.
pub(super) struct FileAccess {
    file: Arc<VaultFile>,
    cut: Arc<AtomicBool>,
}

impl FileAccess {
    pub(super) fn new(file: Arc<VaultFile>, cut: Arc<AtomicBool>) -> Self {
        Self { file, cut }
    }

    /// Refuses writes of a database that another one has replaced: what it would write at
    /// its end is not about the file as it is now.
    fn check_cut(&self) -> io::Result<()> {
        if self.cut.load(Ordering::Acquire) {
            return Err(io::Error::other("the database was opened anew"));
        }
        Ok(())
    }
}

impl fmt::Debug for FileAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileAccess")
    }
}

impl StorageBackend for FileAccess {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.file.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.check_cut()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.check_cut()?;
        self.file.sync()?;
        // What is not at its place is lost at the next start: it is not durable.
        self.file.check_place().map_err(io::Error::other)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.check_cut()?;
        if offset == 0 {
            let mut state = self.file.state.lock();
            let mut header = *state.written.last().unwrap_or(&state.kept);
            let bytes = data.iter().take(HEADER);
            header
                .iter_mut()
                .zip(bytes)
                .for_each(|(to, from)| *to = *from);
            state.written.push(header);
        }
        let written = self.file.write_at(data, offset);
        if offset == 0 && written.is_err() {
            self.file.forget_unwritten();
        }
        written
    }
}

#[cfg(test)]
pub(super) mod faults {
    use std::io;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Steps until the disk fails, and how many then do; no step fails at first.
    #[derive(Debug)]
    pub(in crate::store) struct Faults {
        until: AtomicU64,
        times: AtomicU64,
    }

    impl Default for Faults {
        fn default() -> Self {
            Self {
                until: AtomicU64::new(u64::MAX),
                times: AtomicU64::new(0),
            }
        }
    }

    impl Faults {
        pub(in crate::store) fn arm(&self, until: u64, times: u64) {
            self.times.store(times, Ordering::SeqCst);
            self.until.store(until, Ordering::SeqCst);
        }

        /// Whether a step has failed since it was armed.
        pub(in crate::store) fn struck(&self) -> bool {
            self.until.load(Ordering::SeqCst) == 0
        }

        pub(super) fn strike(&self) -> io::Result<()> {
            let less = |n: u64| n.checked_sub(1);
            if self
                .until
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
                .is_ok()
            {
                return Ok(());
            }
            let failing = self
                .times
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
            failing.map_or(Ok(()), |_| Err(io::Error::from_raw_os_error(libc_enospc())))
        }
    }

    fn libc_enospc() -> i32 {
        rustix::io::Errno::NOSPC.raw_os_error()
    }
}

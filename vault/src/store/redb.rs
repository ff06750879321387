//! redb as the [`Store`], and a look at a file that leaves it as it is.
//!
//! redb refuses everything, reads too, after one failure of the disk. Then what the failed
//! commit wrote is taken back and the file opened anew, in the same process: for writing, or
//! where that can't be for reading alone, under a layer of memory. A later change tries
//! again. So a commit that failed is not made, whatever the disk did, and the next one works
//! as soon as the disk does.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::store::file::{FileStamp, VaultFile};
use crate::store::view::View;
use crate::store::{Batch, RoomClaim, Store, StoreError, StoreHealth, Visit};

/// Key of bytes that show, after a failure, that a change can be written again.
const TRIAL: &[u8] = b"x";
/// Least and most bytes of a trial.
const TRIAL_BYTES: (usize, usize) = (64 * 1024, 1024 * 1024);
/// Time between two trials.
const TRIAL_PAUSE: Duration = Duration::from_secs(1);

/// How long a change waits for reads of the view before.
const READERS_LEAVE: Duration = Duration::from_secs(2);

/// A vault file opened with redb, which is opened anew when it fails.
pub(crate) struct RedbStore {
    view: RwLock<Arc<View>>,
    writer: Mutex<Writer>,
    health: Mutex<StoreHealth>,
    /// A look writes nothing, whatever happens.
    only_look: bool,
    /// The key whose value tells commits apart.
    state_key: &'static [u8],
}

/// State of one commit, trial or reopening at a time.
struct Writer {
    file: Arc<VaultFile>,
    /// Gone once nobody reads an earlier view any more, whose pages may be written to then.
    leaving: Option<Receiver<Infallible>>,
    /// Somebody else has written to the file.
    suspect: bool,
    /// The file at the place that was found to be another vault, or an older one.
    refused: Option<FileStamp>,
    /// Value of the state's key in the last commit that stands.
    state: Option<Vec<u8>>,
    /// Size of the last change that failed.
    failed_bytes: Option<usize>,
    last_trial: Option<Instant>,
    /// Why the view is for reading alone.
    failure: Option<StoreError>,
}

impl RedbStore {
    /// Opens `file` for good; an empty file becomes an empty database. Where `read_on`
    /// says so one that can't be written is read. Each commit gives `state_key` another
    /// value.
    pub(crate) fn open(
        file: VaultFile,
        state_key: &'static [u8],
        read_on: bool,
    ) -> Result<Self, StoreError> {
        let file = Arc::new(file);
        let (view, failure) = match View::for_writing(&file) {
            Ok(view) => (view, None),
            Err(error @ StoreError::Damaged(_)) => return Err(error),
            Err(error) if !read_on => return Err(error),
            Err(error) => {
                let view = View::for_reading(&file, Some(&file.kept_header()), false)?;
                (view, Some(error))
            }
        };
        let store = Self::with(file, view, state_key, false)?;
        if let Some(error) = failure {
            let mut writer = store.writer.lock();
            writer.failed_bytes = Some(0);
            writer.failure = Some(error.clone());
            drop(writer);
            store.health.lock().writable = Err(error);
        }
        Ok(store)
    }

    /// Opens a copy-on-write view of `file`, every page's checksum verified:
    /// repairs and commits stay in memory.
    pub(crate) fn probe(file: VaultFile, state_key: &'static [u8]) -> Result<Self, StoreError> {
        let file = Arc::new(file);
        let view = View::for_reading(&file, None, true)?;
        Self::with(file, view, state_key, true)
    }

    fn with(
        file: Arc<VaultFile>,
        view: View,
        state_key: &'static [u8],
        only_look: bool,
    ) -> Result<Self, StoreError> {
        let writer = Writer {
            file,
            leaving: None,
            suspect: false,
            refused: None,
            state: view.get(state_key)?,
            failed_bytes: None,
            last_trial: None,
            failure: None,
        };
        Ok(Self {
            view: RwLock::new(Arc::new(view)),
            writer: Mutex::new(writer),
            health: Mutex::default(),
            only_look,
            state_key,
        })
    }

    fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// The view after `failed`.
    fn revived(&self, failed: &Arc<View>, error: StoreError) -> Result<Arc<View>, StoreError> {
        if self.only_look {
            return Err(error);
        }
        let mut writer = self.writer.lock();
        let current = self.view();
        if !Arc::ptr_eq(&current, failed) {
            return Ok(current);
        }
        {
            let mut health = self.health.lock();
            health.failures += 1;
            health.last_failure = Some(error);
        }
        self.reopen(&mut writer)
    }

    /// Puts a new view of the file as of the last commit that stands in the place of the one
    /// that failed: one that writes, if that can be.
    fn reopen(&self, writer: &mut Writer) -> Result<Arc<View>, StoreError> {
        let before = self.view();
        before.cut.store(true, Ordering::Release);
        let file = &writer.file;
        let for_writing = || {
            file.check_contents()?;
            if !file.restore() {
                return Err(file.unwritable(&"what failed cannot be taken back yet"));
            }
            View::for_writing(file)
        };
        let kept = (!writer.suspect).then(|| file.kept_header());
        let (view, failure) = match for_writing() {
            Ok(view) => (view, None),
            Err(error) => match View::for_reading(file, kept.as_ref(), false) {
                Ok(view) => (view, Some(error)),
                Err(unreadable) => {
                    self.health.lock().readable = Err(unreadable.clone());
                    writer.failure = Some(error);
                    return Err(unreadable);
                }
            },
        };
        writer.failure = failure;
        let view = Arc::new(view);
        *self.view.write() = view.clone();
        // A view for reading alone changes nothing under those who read another one.
        writer.leaving = before.absence.lock().take().or(writer.leaving.take());
        self.health.lock().readable = Ok(());
        Ok(view)
    }

    /// Makes sure that a commit would be found by the next start, and gives a view for it.
    fn writable_view(&self, writer: &mut Writer) -> Result<Arc<View>, StoreError> {
        let contents = writer.file.check_contents();
        writer.suspect |= matches!(contents, Err(StoreError::Displaced { .. }));
        let place = contents.and_then(|()| writer.file.check_place());
        let as_it_was =
            place.is_ok() && !writer.suspect && writer.file.opened_for_writing().is_ok();
        if !as_it_was && !self.adopt(writer)? {
            return Err(place.err().unwrap_or_else(|| writer.file.overwritten()));
        }
        let mut view = self.view();
        if !view.writable {
            view = self.reopen(writer)?;
        }
        if !view.writable {
            let failure = writer.failure.clone();
            return Err(failure.unwrap_or_else(|| writer.file.unwritable(&"it is read-only")));
        }
        if let Some(leaving) = &writer.leaving {
            if leaving.recv_timeout(READERS_LEAVE) == Err(RecvTimeoutError::Timeout) {
                return Err(writer
                    .file
                    .unwritable(&"it is still being read as it was before"));
            }
            writer.leaving = None;
        }
        Ok(view)
    }

    /// Goes over to the file that is at the place now, if it has all that was committed;
    /// gives whether it has.
    fn adopt(&self, writer: &mut Writer) -> Result<bool, StoreError> {
        let stamp = writer.file.stamp();
        if stamp.is_none() || stamp == writer.refused {
            return Ok(false);
        }
        let found = Arc::new(writer.file.successor()?);
        let look = View::for_reading(&found, None, true);
        let state = look.and_then(|look| look.get(self.state_key));
        if !matches!(&state, Ok(found) if found.is_some() && *found == writer.state) {
            writer.refused = stamp;
            return Ok(false);
        }
        writer.file = found;
        writer.suspect = false;
        writer.refused = None;
        self.reopen(writer)?;
        Ok(true)
    }

    fn commit_as(
        &self,
        writer: &mut Writer,
        batch: &Batch,
        claim: RoomClaim,
    ) -> Result<(), StoreError> {
        let view = self.writable_view(writer)?;
        if claim == RoomClaim::Ordinary {
            writer.file.make_room(size(batch) as u64)?;
        }
        let Err(error) = view.commit(batch) else {
            writer.file.keep();
            let state = batch.iter().find(|(key, _)| key == self.state_key);
            if let Some((_, value)) = state {
                writer.state.clone_from(value);
            }
            return Ok(());
        };
        // Before anybody reads what is not made.
        view.cut.store(true, Ordering::Release);
        let contents = writer.file.check_contents();
        let undone = contents.is_ok() && writer.file.restore();
        // Where this fails who reads next tries again.
        let reopened = self.reopen(writer);
        if !undone && !reopened.is_ok_and(|view| view.writable) {
            return Err(StoreError::InDoubt {
                path: writer.file.place().shown.clone(),
                why: match error {
                    StoreError::Io(why) => why,
                    other => other.to_string(),
                },
            });
        }
        writer.file.check_place()?;
        Err(match error {
            StoreError::Io(why) => writer.file.unwritable(&why),
            other => other,
        })
    }

    /// Commits, when it is time, as much as the last failed change had.
    fn try_again(&self, writer: &mut Writer, bytes: usize) -> Result<(), StoreError> {
        if writer
            .last_trial
            .is_some_and(|last| last.elapsed() < TRIAL_PAUSE)
        {
            return self.health.lock().writable.clone();
        }
        let (least, most) = TRIAL_BYTES;
        let filler = vec![0; bytes.clamp(least, most)];
        let mut commit = |value| {
            let batch = vec![(TRIAL.to_vec(), value)];
            self.commit_as(writer, &batch, RoomClaim::Ordinary)
        };
        let trial = commit(Some(filler)).and_then(|()| commit(None));
        writer.last_trial = Some(Instant::now());
        if trial.is_ok() {
            writer.failed_bytes = None;
        }
        trial
    }

    fn note_writable(&self, result: &Result<(), StoreError>) {
        self.health.lock().writable.clone_from(result);
    }
}

impl Store for RedbStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let view = self.view();
        match view.get(key) {
            Err(error @ StoreError::Io(_)) => self.revived(&view, error)?.get(key),
            result => result,
        }
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let view = self.view();
        let mut from = from.max(prefix).to_vec();
        match view.scan(prefix, &mut from, visit) {
            Err(error @ StoreError::Io(_)) => {
                let view = self.revived(&view, error)?;
                view.scan(prefix, &mut from, visit)
            }
            result => result,
        }
    }

    fn commit(&self, batch: &Batch, claim: RoomClaim) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        let result = self.commit_as(&mut writer, batch, claim);
        match &result {
            // It says nothing of those that may not take the reserve.
            Ok(()) if claim == RoomClaim::Reserve && writer.failed_bytes.is_some() => {
                return result;
            }
            Ok(()) => writer.failed_bytes = None,
            // It did not come to a write.
            Err(StoreError::Displaced { .. }) => {}
            Err(_) => {
                writer.failed_bytes = Some(size(batch));
                writer.last_trial = Some(Instant::now());
            }
        }
        self.note_writable(&result);
        result
    }

    fn health(&self) -> StoreHealth {
        self.health.lock().clone()
    }

    fn check(&self) -> StoreHealth {
        // While somebody commits the answer is on its way.
        if let Some(mut writer) = self.writer.try_lock() {
            let writer = &mut *writer;
            let mut writable = self.writable_view(writer).map(drop);
            if writable.is_ok() {
                writable = writer.file.check_writable();
            }
            if writable.is_ok() {
                writable = writer.file.make_room(0);
            }
            if let Some(bytes) = writer.failed_bytes.filter(|_| writable.is_ok()) {
                writable = self.try_again(writer, bytes);
            }
            let mut readable = writer.file.check_contents();
            if readable.is_ok() && writer.suspect {
                readable = Err(writer.file.overwritten());
            }
            if readable.is_ok() {
                readable = self.view().get(self.state_key).map(drop);
            }
            let mut health = self.health.lock();
            (health.readable, health.writable) = (readable, writable);
        }
        self.health()
    }
}

/// Bytes of keys and values.
fn size(batch: &Batch) -> usize {
    let value = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
    batch.iter().map(|(key, v)| key.len() + value(v)).sum()
}

#[cfg(test)]
mod tests;

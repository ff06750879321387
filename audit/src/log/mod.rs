//! Writing the log: one signed chain of records, in segments, by one process at a time.
//!
//! Runs in: the worker.
//! Touches: the log's directory and its files, the keys of epochs (in memory only). No
//! secret; the identity's key only through [`Certify`], for its holder is asked.
//! Imported by: the crate's root, for the worker.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jarvis_sys::trust::{self, Rule};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::checkpoint::Checkpoint;
use crate::event::{Action, Event, Outcome};
use crate::keys::{Certify, EpochKey, KeyError};

mod chain;
mod disk;
mod ending;
mod error;
mod file;
mod head;
mod known;
mod limits;
mod opening;
mod payload;
mod presence;
mod retention;
mod rotation;
mod segment;
mod signer;
mod signing;
mod start;
mod tail;
mod writer;

use opening::{LogDirectory, PreparedLog};
use payload::RecordExtras;
use segment::RoomClaim;
use writer::{Writer, WriterSetup};

pub use error::{AppendError, LogFault, OpenError, PruneError, RotationError};
pub use head::{HeadMark, KnownHead, LogHead};
pub use known::{KnownRecord, RecordMark};
pub use limits::SegmentLimits;
pub use opening::Opening;
pub use tail::Tail;
pub use writer::{Counters, Durability};

/// The key of a start, so that a start that failed can be tried again under the one
/// certificate that there is for it.
pub struct StartKey(EpochKey);

impl StartKey {
    /// Makes a key.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn generate() -> Result<Self, KeyError> {
        EpochKey::generate().map(Self)
    }
}

/// The log, open for writing. One process has it at a time.
pub struct Log {
    writer: Arc<Writer>,
    /// The threads that sign and that flush, in this order.
    threads: Vec<JoinHandle<()>>,
    directory: LogDirectory,
    /// Moment of the segment's first record; locked while the segment is ended.
    segment_began: Mutex<Instant>,
}

impl Log {
    /// The last record of the log in `dir`, after which it goes on where its last writer left
    /// its end in `head`; found without changing or locking anything. `None` when there is
    /// no record yet.
    ///
    /// # Errors
    /// [`OpenError::Distrusted`], [`OpenError::Corrupt`], [`OpenError::Io`].
    pub fn inspect(dir: &Path, head: Option<&LogHead>) -> Result<Option<Tail>, OpenError> {
        trust::open_end(dir, Rule::PRIVATE_DIRECTORY)?;
        let end = ending::find(dir, head.and_then(LogHead::known).as_ref())?;
        Ok(end.resume.tail)
    }

    /// Opens the log in `dir` (made before, mode 0700), sets a torn tail aside
    /// and writes the start record of a new epoch.
    ///
    /// # Errors
    /// [`OpenError`]; then nothing has changed on disk, unless writing itself failed.
    pub fn open(
        dir: &Path,
        identity: &dyn Certify,
        opening: Opening<'_>,
    ) -> Result<Self, OpenError> {
        Self::open_under(dir, identity, opening, &StartKey::generate()?)
    }

    /// Like [`Self::open`], under `key`: when that fails, it can be tried again, and the
    /// claim to be certified is the same unless the log has changed.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_under(
        dir: &Path,
        identity: &dyn Certify,
        opening: Opening<'_>,
        key: &StartKey,
    ) -> Result<Self, OpenError> {
        let mut setup = WriterSetup::default();
        setup.clock = opening.clock.unwrap_or(setup.clock);
        Self::open_with(dir, identity, opening, key.0.clone(), setup)
    }

    /// Finds out whether the disk that the log in `dir` is on takes what is written.
    ///
    /// # Errors
    /// [`OpenError`], also when somebody has the log open.
    pub fn probe_in(dir: &Path) -> Result<(), OpenError> {
        LogDirectory::open(dir)?.probe()
    }

    /// Finds out whether the log's disk takes what is written, also when this log can't
    /// be written any more.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn probe(&self) -> Result<(), OpenError> {
        self.directory.probe()
    }

    pub(crate) fn open_with(
        dir: &Path,
        identity: &dyn Certify,
        opening: Opening<'_>,
        key: EpochKey,
        setup: WriterSetup,
    ) -> Result<Self, OpenError> {
        let prepared = opening::prepare(dir, identity.host(), &opening)?;
        Self::start(prepared, identity, opening, key, setup)
    }

    fn start(
        prepared: PreparedLog,
        identity: &dyn Certify,
        opening: Opening<'_>,
        key: EpochKey,
        setup: WriterSetup,
    ) -> Result<Self, OpenError> {
        let resume = prepared.resume;
        let writer = Arc::new(Writer::new(
            prepared.file,
            start::position(&resume, opening.vault_seq, key),
            identity.host(),
            (opening.segment_limits, opening.head.cloned()),
            setup,
        ));
        let segment_began = start::segment_began(&resume, setup.clock);
        let before = writer.chain.lock().written().mark();
        let lost = prepared.lost.as_ref();
        start::append_record(&writer, &resume, identity, opening, lost).inspect_err(|_| {
            // A start that may not be on disk is none: another try begins where this did.
            writer.disk.go_back(&before, resume.len);
        })?;
        let mut log = Self {
            writer,
            threads: Vec::new(),
            directory: prepared.directory,
            segment_began: Mutex::new(segment_began),
        };
        log.spawn("audit-sign", Writer::sign_loop)?;
        log.spawn("audit-flush", Writer::flush_loop)?;
        Ok(log)
    }

    fn spawn(&mut self, name: &str, run: fn(&Writer)) -> Result<(), OpenError> {
        let writer = self.writer.clone();
        let thread = std::thread::Builder::new().name(name.into());
        let thread = thread.spawn(move || run(&writer));
        self.threads.push(thread.map_err(OpenError::Thread)?);
        Ok(())
    }

    /// Records `event` and gives its sequence number.
    ///
    /// # Errors
    /// [`AppendError`]: the record is not in the log, or under
    /// [`Durability::Sync`] not known to be on disk; nothing may be released.
    pub fn append(&self, event: &Event<'_>, durability: Durability) -> Result<u64, AppendError> {
        let extras = RecordExtras::default();
        let mark = self.writer.append(event, extras, durability)?;
        Ok(mark.seq)
    }

    /// Like [`Self::append_durable`], for a record of what goes with a revocation: it may
    /// use the room that is kept for those.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append_urgent(&self, event: &Event<'_>) -> Result<RecordMark, AppendError> {
        let (extras, claim) = (RecordExtras::default(), RoomClaim::Revocation);
        self.writer
            .append_with(event, extras, Durability::Sync, claim)
    }

    /// Finds out whether the log takes every record: its file is where the next start
    /// would look for it and can be written, and there is room. Asked again, a fault that
    /// is over is over.
    ///
    /// # Errors
    /// [`LogFault`].
    pub fn check(&self) -> Result<(), LogFault> {
        presence::check(&self.writer, &self.directory)
    }

    /// Begins another segment in the place of one whose file is displaced; gives its
    /// number.
    ///
    /// # Errors
    /// [`RotationError`]; then the log waits for its file.
    pub fn begin_anew(&self, identity: &dyn Certify) -> Result<u32, RotationError> {
        let mut began = self.segment_began.lock();
        let number = presence::begin_anew(&self.writer, &self.directory, identity)?;
        *began = Instant::now();
        Ok(number)
    }

    /// Records `event` durably and gives what others may know the log by.
    ///
    /// # Errors
    /// [`AppendError`]: the record is not known to be on disk.
    pub fn append_durable(&self, event: &Event<'_>) -> Result<RecordMark, AppendError> {
        let extras = RecordExtras::default();
        self.writer.append(event, extras, Durability::Sync)
    }

    /// The last record, which is on disk when this returns.
    ///
    /// # Errors
    /// [`AppendError::Poisoned`].
    pub fn durable_mark(&self) -> Result<RecordMark, AppendError> {
        self.writer.durable_mark()
    }

    /// Sequence number of the last record.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.writer.chain.lock().written().seq
    }

    /// A signed note of how far the log has come, for somebody else to keep. What it
    /// tells of is on disk: no power loss makes it untrue.
    ///
    /// # Errors
    /// [`AppendError::Poisoned`].
    pub fn checkpoint(&self) -> Result<Checkpoint, AppendError> {
        self.writer.checkpoint()
    }

    /// Waits until the segment is long or old enough to be ended, at most `limit`; gives
    /// whether it is.
    #[must_use]
    pub fn await_segment_end(&self, limit: Duration) -> bool {
        let began = *self.segment_began.lock();
        self.writer.await_segment_end(began, limit)
    }

    /// Ends the segment, begins the next one and gives its number. Records wait
    /// for neither file nor certificate.
    ///
    /// # Errors
    /// [`RotationError`].
    pub fn rotate_segment(&self, identity: &dyn Certify) -> Result<u32, RotationError> {
        // Locked throughout: one rotation at a time.
        let mut began = self.segment_began.lock();
        let number = rotation::rotate(&self.writer, &self.directory, identity)?;
        *began = Instant::now();
        Ok(number)
    }

    /// Removes the segments whose last record is older than `before`, never the
    /// one that is written; gives how many. The record comes first: what it
    /// covers need not be there any more.
    ///
    /// # Errors
    /// [`PruneError`].
    pub fn prune(&self, before: Timestamp) -> Result<usize, PruneError> {
        retention::prune(&self.writer, &self.directory, before)
    }

    /// Records an orderly end, durably; no record comes after it.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn stop(&self, vault_seq: u64, reason: Option<&str>) -> Result<(), AppendError> {
        let stop = Event {
            reason,
            ..Event::new(Action::Stop, Outcome::Ok, vault_seq)
        };
        self.append(&stop, Durability::Sync).map(|_| ())
    }

    /// Records written and failed since the log was opened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.writer.counters()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.writer.signer.stop();
        for thread in self.threads.drain(..) {
            // A panic of it would have ended the process.
            thread.join().ok();
            // What the first one left is flushed by the second.
            self.writer.disk.stop();
        }
    }
}

/// Doors for the tests of other modules.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) use super::limits::EpochLimits;

    /// A log whose signatures follow as in a worker.
    pub(crate) fn open_signing(dir: &Path, identity: &dyn Certify, opening: Opening<'_>) -> Log {
        let setup = WriterSetup {
            signature_delay: Duration::from_millis(8),
            ..WriterSetup::default()
        };
        Log::open_with(dir, identity, opening, EpochKey::generate().unwrap(), setup).unwrap()
    }

    /// A log with a first key and epochs of the test's choice.
    pub(crate) fn open_with_epochs(
        dir: &Path,
        identity: &dyn Certify,
        opening: Opening<'_>,
        key: EpochKey,
        epoch_limits: EpochLimits,
    ) -> Log {
        let setup = WriterSetup {
            epoch_limits,
            ..WriterSetup::default()
        };
        Log::open_with(dir, identity, opening, key, setup).unwrap()
    }
}

#[cfg(test)]
mod tests;

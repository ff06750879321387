//! Writing the log.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex, RwLock};

use crate::checkpoint::Checkpoint;
use crate::event::{Action, Event, Outcome};
use crate::keys::{Certify, EpochClaim, EpochKey};
use crate::line::{self, MAX_LINE_BYTES};
use crate::read::{PreviousEnd, StartDetails};
use file::LogFile;
use tail::ResumePoint;
pub use tail::{OpenError, Tail};

mod chain;
mod disk;
mod file;
mod opening;
mod retention;
mod rotation;
mod segment;
mod tail;
mod writer;

use chain::{Chain, Epoch, Position};
use disk::DiskProgress;
use opening::LogDirectory;
pub use retention::PruneError;
pub use rotation::RotationError;
use segment::Segment;
pub use writer::SegmentLimits;
use writer::{EpochLimits, KeySource, RecordExtras, Writer};

/// Where times and keys come from.
type Sources = (fn() -> Timestamp, KeySource);

/// When an append returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The record is in the kernel: survives the daemon; a power loss can take
    /// the last 10 ms.
    Write,
    /// The record is on disk.
    Sync,
}

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The write failed; the log is as before and can be tried again.
    #[error("cannot write the audit log: {0}")]
    Io(#[source] io::Error),
    /// A sync failed, or a failed write could not be undone: what is on disk is
    /// not known, and nothing more is written until the daemon starts anew.
    #[error("the audit log failed earlier and takes no more records; restart the daemon")]
    Poisoned,
    /// The stop record is written.
    #[error("the audit log is closed")]
    Closed,
    /// The record would be over 32 KiB.
    #[error("the audit record is over {MAX_LINE_BYTES} bytes")]
    TooLong,
}

/// How a log is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opening<'a> {
    /// Version of the daemon, for the start record.
    pub version: &'a str,
    /// The vault's commits, as far as they are recorded.
    pub vault_seq: u64,
    /// What is known of the end of the last writer, for the start record.
    pub reason: Option<&'a str>,
    /// Go on although the vault is older than the log.
    pub accept_older_vault: bool,
    /// Begin a segment: what the last writer's sync left on disk is not known.
    pub new_segment: bool,
    /// When a segment ends.
    pub segment_limits: SegmentLimits,
}

/// Records since the log was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Written.
    pub records: u64,
    /// Not written.
    pub errors: u64,
}

/// The log, open for writing. One process has it at a time.
pub struct Log {
    writer: Arc<Writer>,
    flusher: Option<JoinHandle<()>>,
    dir: LogDirectory,
    /// When the segment's first record was written; locked while it is ended.
    began: Mutex<Instant>,
}

impl Log {
    /// How the log in `dir` ends, without changing or locking anything; `None`
    /// when it has no record yet.
    ///
    /// # Errors
    /// [`OpenError::Private`], [`OpenError::Corrupt`], [`OpenError::Io`].
    pub fn inspect(dir: &Path) -> Result<Option<Tail>, OpenError> {
        tail::inspect(dir)
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
        Self::open_with(
            dir,
            identity,
            opening,
            EpochKey::generate()?,
            (Timestamp::now, EpochKey::generate),
        )
    }

    pub(crate) fn open_with(
        dir: &Path,
        identity: &dyn Certify,
        opening: Opening<'_>,
        key: EpochKey,
        sources: Sources,
    ) -> Result<Self, OpenError> {
        let (dir, file, ending) = opening::prepare(dir, &opening)?;
        let (files, roll) = ((dir, Box::new(file) as _), EpochLimits::DEFAULT);
        Self::start(files, &ending, identity, opening, (key, roll), sources)
    }

    fn start(
        (dir, file): (LogDirectory, Box<dyn LogFile>),
        ending: &ResumePoint,
        identity: &dyn Certify,
        opening: Opening<'_>,
        (key, roll): (EpochKey, EpochLimits),
        (clock, keys): Sources,
    ) -> Result<Self, OpenError> {
        let epoch = Arc::new(Epoch {
            number: ending.tail.map_or(0, |tail| tail.epoch) + 1,
            key,
            began: Instant::now(),
        });
        let seq = ending.tail.map_or(0, |tail| tail.seq);
        let place = Position {
            epoch,
            signed: 0,
            seq,
            digest: ending.tail.map_or([0; 32], |tail| tail.digest),
            // A restored vault's is less, which the start record accepts.
            vault_seq: ending
                .tail
                .map_or(0, |tail| opening.vault_seq.min(tail.vault_seq)),
            segment: ending.segment,
            first_seq: ending.first.map_or(seq + 1, |first| first.seq),
            len: ending.len,
            closed: false,
        };
        let began = ending.first.map_or(Duration::ZERO, |first| {
            // A clock that was set back makes a segment young, not eternal.
            let age = clock().duration_since(first.time);
            age.try_into().unwrap_or_default()
        });
        let writer = Arc::new(Writer {
            segment: RwLock::new(Arc::new(Segment::new(file))),
            host: identity.host().to_string(),
            epoch_limits: roll,
            segment_limits: opening.segment_limits,
            clock,
            keys,
            chain: Mutex::new(Chain::new(place)),
            written: Condvar::new(),
            due: Condvar::new(),
            progress: DiskProgress::at(seq),
            records: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        });
        append_start(&writer, ending, identity, opening)?;
        let flushing = writer.clone();
        let flusher = std::thread::Builder::new()
            .name("audit-flush".into())
            .spawn(move || flushing.flush_loop())
            .map_err(|error| OpenError::Start(error.to_string()))?;
        Ok(Self {
            writer,
            flusher: Some(flusher),
            dir,
            began: Mutex::new(
                Instant::now()
                    .checked_sub(began)
                    .unwrap_or_else(Instant::now),
            ),
        })
    }

    /// Records `event` and gives its sequence number.
    ///
    /// # Errors
    /// [`AppendError`]: the record is not in the log, or under
    /// [`Durability::Sync`] not known to be on disk; nothing may be released.
    pub fn append(&self, event: &Event<'_>, durability: Durability) -> Result<u64, AppendError> {
        self.writer
            .append(event, RecordExtras::default(), durability)
    }

    /// How far the log has come, signed: for somebody else to keep.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        self.writer.checkpoint()
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
        self.writer.progress.stop();
        if let Some(flusher) = self.flusher.take() {
            // It cannot have panicked without ending the process.
            flusher.join().ok();
        }
    }
}

/// The first record of this start: with it the epoch key takes over.
fn append_start(
    writer: &Writer,
    ending: &ResumePoint,
    identity: &dyn Certify,
    opening: Opening<'_>,
) -> Result<(), OpenError> {
    let start = start_of(writer, ending, identity, opening.version)?;
    let older = ending
        .tail
        .is_some_and(|tail| tail.vault_seq > opening.vault_seq);
    let event = Event {
        reason: older
            .then_some("vault older than this log, accepted by the operator")
            .or(opening.reason),
        ..Event::new(Action::Start, Outcome::Ok, opening.vault_seq)
    };
    let extra = RecordExtras {
        start: Some(&start),
        ..RecordExtras::default()
    };
    writer
        .append(&event, extra, Durability::Sync)
        .map(|_| ())
        .map_err(|error| OpenError::Start(error.to_string()))
}

fn start_of(
    writer: &Writer,
    ending: &ResumePoint,
    identity: &dyn Certify,
    version: &str,
) -> Result<StartDetails, OpenError> {
    let place = writer.chain.lock().written().clone();
    let key = place.epoch.key.public();
    let certificate = identity.certify(&EpochClaim {
        epoch: place.epoch.number,
        first_seq: place.seq + 1,
        prev: place.digest,
        key,
    })?;
    Ok(StartDetails {
        daemon: version.to_owned(),
        segment: place.segment,
        previous: match ending.tail {
            None => PreviousEnd::None,
            Some(tail) if tail.clean => PreviousEnd::Clean,
            Some(_) => PreviousEnd::Unclean,
        },
        torn_bytes: ending.torn.len() as u64,
        epoch_key: line::encode(&key),
        cert: line::encode(&certificate),
    })
}

/// What the tests of other modules need of this one.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) use super::writer::EpochLimits;

    /// A log that rolls when told to.
    pub(crate) fn open_rolling(
        dir: &Path,
        identity: &dyn Certify,
        opening: Opening<'_>,
        key: (EpochKey, EpochLimits),
        clock: fn() -> Timestamp,
    ) -> Log {
        let (dir, file, ending) = opening::prepare(dir, &opening).unwrap();
        let files = (dir, Box::new(file) as _);
        let sources = (clock, EpochKey::generate as KeySource);
        Log::start(files, &ending, identity, opening, key, sources).unwrap()
    }
}

#[cfg(test)]
mod tests;

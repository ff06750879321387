//! One record after the other: composed, signed, written.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use serde::Serialize;

use super::chain::{Chain, Epoch, NextSegment, Position, Ticket, Transition, WriteBatch};
use super::disk::DiskProgress;
use super::segment::Segment;
use super::{AppendError, Counters, Durability};
use crate::checkpoint::Checkpoint;
use crate::event::{Action, Event, Outcome};
use crate::keys::{EpochKey, KeyError};
use crate::line::{self, MAX_LINE_BYTES, SUFFIX_BYTES};
use crate::read::{NextEpoch, PruneDetails, SegmentClose, SegmentOpen, StartDetails};

/// Turns a waiting thread gives away before it sleeps.
const YIELDS: u32 = 2;

const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

/// Appends to one segment after the other with one epoch key after the other.
pub(super) struct Writer {
    /// The one that is appended to. Another takes its place once all of it is on
    /// disk.
    pub(super) segment: RwLock<Arc<Segment>>,
    pub(super) host: String,
    pub(super) epoch_limits: EpochLimits,
    pub(super) segment_limits: SegmentLimits,
    pub(super) clock: fn() -> Timestamp,
    /// Where keys come from.
    pub(super) keys: KeySource,
    pub(super) chain: Mutex<Chain>,
    /// A batch of lines was written, or taken back.
    pub(super) written: Condvar,
    /// The segment has become long enough.
    pub(super) due: Condvar,
    pub(super) progress: DiskProgress,
    pub(super) records: AtomicU64,
    pub(super) errors: AtomicU64,
}

/// Makes a new key.
pub(super) type KeySource = fn() -> Result<EpochKey, KeyError>;

/// When an epoch ends.
#[derive(Clone, Copy)]
pub(crate) struct EpochLimits {
    /// After so many records.
    pub(crate) records: u64,
    /// After this time, also without a record.
    pub(crate) age: Duration,
}

impl EpochLimits {
    pub(super) const DEFAULT: Self = Self {
        records: 4096,
        age: Duration::from_secs(300),
    };

    fn is_due(self, place: &Position) -> bool {
        place.signed >= self.records || place.epoch.began.elapsed() >= self.age
    }
}

/// When a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentLimits {
    /// Once it has so many bytes.
    pub bytes: u64,
    /// After this time since its first record.
    pub age: Duration,
}

impl Default for SegmentLimits {
    fn default() -> Self {
        Self {
            bytes: 64 * 1024 * 1024,
            age: Duration::from_secs(24 * 3600),
        }
    }
}

/// What some records carry besides their event.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct RecordExtras<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<&'a StartDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<&'a NextEpoch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) close: Option<&'a SegmentClose>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) open: Option<&'a SegmentOpen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prune: Option<&'a PruneDetails>,
}

/// A record before it is signed; field order is the format's.
#[derive(Serialize)]
struct Payload<'a> {
    v: u8,
    seq: u64,
    prev: &'a str,
    time: &'a str,
    host: &'a str,
    epoch: u64,
    #[serde(flatten)]
    event: &'a Event<'a>,
    #[serde(flatten)]
    extra: RecordExtras<'a>,
}

/// Whether a record may use the room kept for a full disk: it releases nothing.
fn is_essential(event: &Event<'_>) -> bool {
    let own = matches!(
        event.action,
        Action::Start
            | Action::Stop
            | Action::Epoch
            | Action::Segment
            | Action::Limit
            | Action::Suspicious
    );
    own || event.result != Outcome::Ok
}

/// Fails before the buffer behind it outgrows a line, signature included.
struct Bounded<'a>(&'a mut Vec<u8>);

impl io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_LINE_BYTES - SUFFIX_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Writer {
    pub(super) fn append(
        &self,
        event: &Event<'_>,
        extra: RecordExtras<'_>,
        durability: Durability,
    ) -> Result<u64, AppendError> {
        let result = self
            .write(event, extra)
            .and_then(|seq| self.settle(seq, durability));
        let counter = match result {
            Ok(_) => &self.records,
            Err(_) => &self.errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            records: self.records.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }

    pub(super) fn checkpoint(&self) -> Checkpoint {
        let place = self.chain.lock().written().clone();
        let mut time = String::with_capacity(32);
        // A string takes whatever is printed.
        let _ = PRINTER.print_timestamp(&(self.clock)(), &mut time);
        let at = (&*self.host, place.seq, place.digest);
        Checkpoint::sign(&place.epoch.key, at, place.epoch.number, &time)
    }

    pub(super) fn flush_loop(&self) {
        self.progress
            .flush_loop(&self.segment, self.epoch_limits.age, || {
                // It is tried again with the next record, which fails if it must.
                let _ = self.roll_epoch();
            });
    }

    /// What is left to do after the write, outside the chain's lock.
    fn settle(&self, seq: u64, durability: Durability) -> Result<u64, AppendError> {
        match durability {
            Durability::Write => self.progress.mark_dirty(),
            Durability::Sync => self.progress.sync_through(&self.segment, seq)?,
        }
        Ok(seq)
    }

    /// Composed and numbered in turn, signed side by side, written in order.
    fn write(&self, event: &Event<'_>, extra: RecordExtras<'_>) -> Result<u64, AppendError> {
        if !is_essential(event) {
            self.find_room()?;
        }
        loop {
            let mut chain = self.chain.lock();
            if chain.head().closed {
                drop(chain);
                self.begin_segment()?;
            } else if self.epoch_limits.is_due(chain.head()) {
                drop(chain);
                self.roll_epoch()?;
            } else {
                self.progress.check()?;
                chain.check_open(event.action)?;
                let (ticket, line) = self.compose(&mut chain, event, extra, Transition::Record)?;
                drop(chain);
                return self.sign_and_submit(&ticket, line);
            }
        }
    }

    /// Refuses what would use up the room kept for refusals.
    fn find_room(&self) -> Result<(), AppendError> {
        let segment = self.segment.read().clone();
        if segment.is_scarce() {
            let len = self.chain.lock().head().len;
            segment.make_room(len);
        }
        match segment.is_scarce() {
            true => Err(AppendError::Io(io::ErrorKind::StorageFull.into())),
            false => Ok(()),
        }
    }

    fn sign_and_submit(&self, ticket: &Ticket, mut line: Vec<u8>) -> Result<u64, AppendError> {
        line::sign(&mut line, &ticket.digest, &ticket.epoch.key);
        self.submit(ticket, line)
    }

    /// Ends the epoch when it is time: the old key signs the new one and is
    /// wiped, so that who steals a key can't forge what came before.
    fn roll_epoch(&self) -> Result<(), AppendError> {
        let (ticket, line) = {
            let mut chain = self.chain.lock();
            if !self.epoch_limits.is_due(chain.head()) || chain.head().closed {
                return Ok(());
            }
            self.progress.check()?;
            chain.check_open(Action::Epoch)?;
            let key = (self.keys)().map_err(|e| AppendError::Io(io::Error::other(e)))?;
            let number = chain.head().epoch.number + 1;
            let next = NextEpoch {
                epoch: number,
                epoch_key: line::encode(&key.public()),
            };
            let epoch = Epoch {
                number,
                key,
                began: Instant::now(),
            };
            let event = Event::new(Action::Epoch, Outcome::Ok, chain.head().vault_seq);
            let extra = RecordExtras {
                next: Some(&next),
                ..RecordExtras::default()
            };
            self.compose(
                &mut chain,
                &event,
                extra,
                Transition::Epoch(Arc::new(epoch)),
            )?
        };
        self.submit_own(&ticket, line)
    }

    /// Writes one of the log's own records.
    fn submit_own(&self, ticket: &Ticket, line: Vec<u8>) -> Result<(), AppendError> {
        self.sign_and_submit(ticket, line)?;
        self.records.fetch_add(1, Ordering::Relaxed);
        self.progress.mark_dirty();
        Ok(())
    }

    /// Ends the segment and begins the next one in `file`, unless meanwhile
    /// another epoch began than the one before `beginning`'s: then `false`. Both
    /// records are written when this returns.
    pub(super) fn rotate_to(
        &self,
        file: Arc<Segment>,
        beginning: NextSegment,
    ) -> Result<bool, AppendError> {
        let segment = beginning.open.segment;
        let (ticket, line) = {
            let mut chain = self.chain.lock();
            self.progress.check()?;
            let head = chain.head();
            if head.closed || head.epoch.number + 1 != beginning.epoch.number {
                return Ok(false);
            }
            let close = SegmentClose {
                segment: head.segment,
                first_seq: head.first_seq,
                bytes: head.len,
            };
            let event = Event::new(Action::Segment, Outcome::Ok, head.vault_seq);
            chain.check_open(Action::Segment)?;
            chain.beginning = Some(beginning);
            let extra = RecordExtras {
                close: Some(&close),
                ..RecordExtras::default()
            };
            self.compose(&mut chain, &event, extra, Transition::Close(file))?
        };
        self.submit_own(&ticket, line)?;
        loop {
            self.begin_segment()?;
            // Another thread may have composed its first record and not written
            // it yet.
            let mut chain = self.chain.lock();
            while chain.written().segment < segment && !chain.head().closed {
                self.written.wait(&mut chain);
            }
            if chain.written().segment >= segment {
                return Ok(true);
            }
        }
    }

    /// Writes the first record of a segment whose predecessor is closed.
    fn begin_segment(&self) -> Result<(), AppendError> {
        let (ticket, line) = {
            let mut chain = self.chain.lock();
            if !chain.head().closed {
                return Ok(());
            }
            self.progress.check()?;
            // Whoever closed a segment has said what comes next.
            let beginning = chain.beginning.clone().ok_or(AppendError::Closed)?;
            let open = SegmentOpen {
                bytes_before: chain.head().len,
                ..beginning.open
            };
            let event = Event::new(Action::Segment, Outcome::Ok, chain.head().vault_seq);
            let extra = RecordExtras {
                open: Some(&open),
                ..RecordExtras::default()
            };
            self.compose(&mut chain, &event, extra, Transition::Open(beginning.epoch))?
        };
        self.submit_own(&ticket, line)
    }

    /// Whether the segment, which began then, is to end now or within `limit`,
    /// for which this waits.
    pub(super) fn await_segment_end(&self, began: Instant, limit: Duration) -> bool {
        let is_due = |chain: &Chain| {
            chain.written().len >= self.segment_limits.bytes
                || began.elapsed() >= self.segment_limits.age
        };
        let wait = self
            .segment_limits
            .age
            .saturating_sub(began.elapsed())
            .min(limit);
        let mut chain = self.chain.lock();
        if !is_due(&chain) && !wait.is_zero() {
            self.due.wait_for(&mut chain, wait);
        }
        is_due(&chain)
    }

    /// A payload that follows the last one composed, and its place.
    fn compose(
        &self,
        chain: &mut Chain,
        event: &Event<'_>,
        extra: RecordExtras<'_>,
        step: Transition,
    ) -> Result<(Ticket, Vec<u8>), AppendError> {
        let mut line = chain.buffer();
        let mut prev = [0; 64];
        // 32 bytes always fill 64 digits.
        let _ = hex::encode_to_slice(chain.head().digest, &mut prev);
        let mut time = chain.time();
        // A string takes whatever is printed.
        let _ = PRINTER.print_timestamp(&(self.clock)(), &mut time);
        // Whoever composed its event a moment before a change was recorded
        // stands after that change all the same: the last record tells how far
        // the log knows the vault.
        let vault_seq = event.vault_seq.max(chain.head().vault_seq);
        let event = &Event {
            vault_seq,
            ..*event
        };
        let payload = Payload {
            v: 1,
            seq: chain.head().seq + 1,
            prev: str::from_utf8(&prev).unwrap_or_default(),
            time: &time,
            host: &self.host,
            epoch: step.signer(chain.head()).number,
            event,
            extra,
        };
        // Numbers and strings always serialise; only the bound can fail.
        let composed = serde_json::to_writer(Bounded(&mut line), &payload);
        chain.keep_time(time);
        if composed.is_err() {
            chain.recycle(line);
            return Err(AppendError::TooLong);
        }
        let digest = line::digest(&line);
        let bytes = (line.len() + SUFFIX_BYTES) as u64;
        Ok((chain.issue(digest, vault_seq, bytes, step), line))
    }

    /// Hands the signed line in and returns once it is written, by whoever
    /// comes to it first.
    fn submit(&self, ticket: &Ticket, line: Vec<u8>) -> Result<u64, AppendError> {
        let mut chain = self.chain.lock();
        chain.hand_in(ticket, line);
        let mut yields = 0;
        loop {
            match chain.outcome(ticket) {
                Some(Ok(())) => return Ok(ticket.seq),
                Some(Err(kind)) => return Err(AppendError::Io(kind.into())),
                None => {}
            }
            match chain.begin_batch() {
                // Whoever signs or writes before us needs a core: offer ours
                // before going to sleep, which costs two switches.
                None if yields < YIELDS => {
                    yields += 1;
                    MutexGuard::unlocked(&mut chain, std::thread::yield_now);
                }
                None => self.written.wait(&mut chain),
                Some(batch) => {
                    let result = MutexGuard::unlocked(&mut chain, || self.write_batch(&batch));
                    chain.end_batch(batch, result.map_err(|e| e.kind()));
                    self.progress.wrote(chain.written().seq);
                    self.written.notify_all();
                    if chain.written().len >= self.segment_limits.bytes {
                        self.due.notify_one();
                    }
                }
            }
        }
    }

    /// Appends all of `batch` or nothing.
    fn write_batch(&self, batch: &WriteBatch) -> io::Result<()> {
        let segment = self.segment.read().clone();
        let len = batch.at + batch.bytes.len() as u64;
        segment.make_room(len);
        let result = match segment.file.append(&batch.bytes) {
            Ok(written) if written == batch.bytes.len() => {
                if let Some(next) = &batch.next {
                    self.leave(&segment, len, next);
                }
                return Ok(());
            }
            Ok(_) => io::ErrorKind::StorageFull.into(),
            Err(error) => error,
        };
        if segment.file.truncate(batch.at).is_err() {
            self.progress.poison();
        }
        Err(result)
    }

    /// Goes on in `next`: from here on a sync says nothing about `segment`, which
    /// must be on disk before.
    fn leave(&self, segment: &Segment, len: u64, next: &Arc<Segment>) {
        if segment
            .release(len)
            .and_then(|()| segment.file.sync())
            .is_err()
        {
            self.progress.poison();
        }
        *self.segment.write() = next.clone();
    }
}

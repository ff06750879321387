//! One record after the other: composed, signed if it is to be, written.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::chain::{Chain, ComposedRecord, Epoch, NextSegment, Position, Ticket, Transition};
use super::disk::Disk;
use super::error::AppendError;
use super::file::LogFile;
use super::head::LogHead;
use super::known::RecordMark;
use super::limits::{EpochLimits, SegmentLimits};
use super::payload::{Payload, RecordExtras, print_time};
use super::segment::{RoomClaim, Segment};
use super::signer::{self, SignerTurn};
use crate::checkpoint::Checkpoint;
use crate::event::{Action, Event, Outcome};
use crate::keys::{EpochKey, HostId, KeyError};
use crate::line::{self, SUFFIX_BYTES};
use crate::record::{FORMAT, NextEpoch, SegmentClose, SegmentOpen};

/// Time slices a waiting thread gives away before it sleeps.
const MAX_YIELDS: u32 = 2;

/// When an append returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Once the record is in the kernel: it survives the daemon; a power loss can take
    /// the last 10 ms. A signature follows within that time.
    Write,
    /// Like [`Self::Write`], with a signature of its own.
    Signed,
    /// Once the record, with a signature of its own, is on disk.
    Sync,
}

impl Durability {
    /// Whether the record has a signature of its own.
    fn is_signed(self) -> bool {
        self != Self::Write
    }
}

/// Records since the log was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Records written.
    pub records: u64,
    /// Records not written.
    pub errors: u64,
}

/// Makes a new key.
pub(crate) type KeySource = fn() -> Result<EpochKey, KeyError>;

/// Sources of keys and time, and the length of epochs: tests choose their own.
#[derive(Clone, Copy)]
pub(crate) struct WriterSetup {
    pub(crate) new_key: KeySource,
    pub(crate) clock: fn() -> Timestamp,
    pub(crate) epoch_limits: EpochLimits,
    /// Longest time from an unsigned record to the signature that vouches for it.
    pub(crate) signature_delay: Duration,
}

impl Default for WriterSetup {
    fn default() -> Self {
        Self {
            new_key: EpochKey::generate,
            clock: Timestamp::now,
            epoch_limits: EpochLimits::DEFAULT,
            signature_delay: signer::DELAY,
        }
    }
}

/// Appends to one segment after the other with one epoch key after the other.
pub(super) struct Writer {
    host: String,
    pub(super) setup: WriterSetup,
    segment_limits: SegmentLimits,
    pub(super) chain: Mutex<Chain>,
    /// Signalled when a batch of lines was written, or taken back.
    written: Condvar,
    /// Signalled when the segment has become long enough.
    segment_full: Condvar,
    pub(super) disk: Disk,
    /// Wakes the thread that signs.
    pub(super) signer: SignerTurn,
    records: AtomicU64,
    errors: AtomicU64,
}

impl Writer {
    /// A writer that goes on in `file` after `position`, with its epoch, and notes the log's
    /// end in `head`.
    pub(super) fn new(
        file: Box<dyn LogFile>,
        position: Position,
        host: HostId,
        (segment_limits, head): (SegmentLimits, Option<Arc<LogHead>>),
        setup: WriterSetup,
    ) -> Self {
        Self {
            host: host.to_string(),
            setup,
            segment_limits,
            disk: Disk::new(
                Segment::new(file, position.segment, position.len),
                position.seq,
                head,
            ),
            chain: Mutex::new(Chain::new(position)),
            signer: SignerTurn::default(),
            written: Condvar::new(),
            segment_full: Condvar::new(),
            records: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }

    /// A key for the next epoch.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub(super) fn new_key(&self) -> Result<EpochKey, KeyError> {
        (self.setup.new_key)()
    }

    /// Writes a record of `event` and gives its number and digest.
    pub(super) fn append(
        &self,
        event: &Event<'_>,
        extras: RecordExtras<'_>,
        durability: Durability,
    ) -> Result<RecordMark, AppendError> {
        self.append_with(event, extras, durability, RoomClaim::of(event))
    }

    /// Like [`Self::append`], with a claim that the event alone doesn't give.
    pub(super) fn append_with(
        &self,
        event: &Event<'_>,
        extras: RecordExtras<'_>,
        durability: Durability,
        claim: RoomClaim,
    ) -> Result<RecordMark, AppendError> {
        let result = self
            .write(event, extras, claim, durability.is_signed())
            .and_then(|mark| self.make_durable(mark, durability));
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

    pub(super) fn durable_mark(&self) -> Result<RecordMark, AppendError> {
        let position = self.chain.lock().written().clone();
        self.disk.sync_through(position.seq)?;
        Ok(RecordMark {
            seq: position.seq,
            head: position.digest,
        })
    }

    pub(super) fn checkpoint(&self) -> Result<Checkpoint, AppendError> {
        self.sign_pending()?;
        let position = self.chain.lock().written().clone();
        self.disk.sync_through(position.seq)?;
        let mut time = String::with_capacity(32);
        print_time(&(self.setup.clock)(), &mut time);
        let last = (&*self.host, position.seq, position.digest);
        let epoch = &position.epoch;
        Ok(Checkpoint::sign(&epoch.key, last, epoch.number, &time))
    }

    pub(super) fn flush_loop(&self) {
        let age = self.setup.epoch_limits.age;
        self.disk.flush_loop(age, || {
            // The roll is tried again with the next record, which fails if it must.
            let _ = self.roll_epoch();
        });
    }

    /// Sees to the record's durability after the write, outside the chain's lock.
    fn make_durable(
        &self,
        mark: RecordMark,
        durability: Durability,
    ) -> Result<RecordMark, AppendError> {
        match durability {
            Durability::Write | Durability::Signed => self.signer.note_record(),
            Durability::Sync => self.disk.sync_through(mark.seq)?,
        }
        Ok(mark)
    }

    /// Composes and writes one record, `signed` or not, after the log's own that are due
    /// before it.
    fn write(
        &self,
        event: &Event<'_>,
        extras: RecordExtras<'_>,
        claim: RoomClaim,
        signed: bool,
    ) -> Result<RecordMark, AppendError> {
        self.check_room(claim)?;
        loop {
            let mut chain = self.chain.lock();
            if chain.head().closed {
                drop(chain);
                self.begin_segment()?;
            } else if self.setup.epoch_limits.are_reached(chain.head()) {
                drop(chain);
                self.roll_epoch()?;
            } else {
                self.disk.check_takes_records()?;
                chain.check_open(event.action)?;
                if signed {
                    let record = Transition::Record;
                    let (ticket, line) = self.compose(&mut chain, event, extras, record)?;
                    drop(chain);
                    self.sign_and_write(&ticket, line)?;
                    return Ok(ticket.mark());
                }
                let ticket = self.compose_unsigned(&mut chain, event, extras)?;
                self.await_written(chain, &ticket)?;
                return Ok(ticket.mark());
            }
        }
    }

    /// Refuses what would use up the room kept for others.
    pub(super) fn check_room(&self, claim: RoomClaim) -> Result<(), AppendError> {
        let segment = self.disk.segment();
        if !segment.is_scarce() || claim == RoomClaim::Own {
            return Ok(());
        }
        let len = self.chain.lock().head().len;
        segment.make_room(len);
        if segment.has_room(claim, len) {
            Ok(())
        } else {
            Err(AppendError::Io(io::ErrorKind::StorageFull.into()))
        }
    }

    /// Signs the payload in `line` and returns once the record is written.
    pub(super) fn sign_and_write(
        &self,
        ticket: &Ticket,
        mut line: Vec<u8>,
    ) -> Result<(), AppendError> {
        // Without the chain's lock: signing takes most of the time, and the record's place
        // is already sure, for the next payload needs this one's digest only.
        line::sign(&mut line, &ticket.digest, &ticket.epoch.key);
        let mut chain = self.chain.lock();
        chain.submit_line(ticket, line);
        self.await_written(chain, ticket)
    }

    /// Ends the epoch when it is time: the old key signs the new one and is
    /// wiped, so that who steals a key can't forge what came before.
    pub(super) fn roll_epoch(&self) -> Result<(), AppendError> {
        let (ticket, line) = {
            let mut chain = self.chain.lock();
            // Another thread may have been faster, or the segment's end brings a key anyway.
            if !self.setup.epoch_limits.are_reached(chain.head()) || chain.head().closed {
                return Ok(());
            }
            self.disk.check_takes_records()?;
            chain.check_open(Action::Epoch)?;
            let key = self.new_key();
            let key = key.map_err(|e| AppendError::Io(io::Error::other(e)))?;
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
            let extras = RecordExtras {
                next: Some(&next),
                ..RecordExtras::default()
            };
            self.compose(
                &mut chain,
                &event,
                extras,
                Transition::Epoch(Arc::new(epoch)),
            )?
        };
        self.write_own(&ticket, line)
    }

    /// Writes one of the log's own records.
    pub(super) fn write_own(&self, ticket: &Ticket, line: Vec<u8>) -> Result<(), AppendError> {
        self.sign_and_write(ticket, line)?;
        self.records.fetch_add(1, Ordering::Relaxed);
        self.disk.mark_dirty();
        Ok(())
    }

    /// Ends the segment and begins `next` in `file`, unless meanwhile another epoch began
    /// than the one before `next`'s: then `false`. Both records are written when this
    /// returns.
    pub(super) fn rotate_to(
        &self,
        file: Arc<Segment>,
        next: NextSegment,
    ) -> Result<bool, AppendError> {
        let segment = next.open.segment;
        let (ticket, line) = {
            let mut chain = self.chain.lock();
            self.disk.check_not_poisoned()?;
            let head = chain.head();
            if head.closed || head.epoch.number + 1 != next.epoch.number {
                return Ok(false);
            }
            let close = SegmentClose {
                segment: head.segment,
                first_seq: head.first_seq,
                bytes: head.len,
            };
            let event = Event::new(Action::Segment, Outcome::Ok, head.vault_seq);
            chain.check_open(Action::Segment)?;
            chain.next_segment = Some(next);
            let extras = RecordExtras {
                close: Some(&close),
                ..RecordExtras::default()
            };
            self.compose(&mut chain, &event, extras, Transition::Close(file))?
        };
        self.write_own(&ticket, line)?;
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
            self.disk.check_not_poisoned()?;
            // Whoever closed a segment has said what comes next. It stays there: should this
            // record be taken back, the next thread begins the same segment.
            let next = chain.next_segment.clone().ok_or(AppendError::Closed)?;
            let open = SegmentOpen {
                bytes_before: chain.head().len,
                ..next.open
            };
            let event = Event::new(Action::Segment, Outcome::Ok, chain.head().vault_seq);
            let extras = RecordExtras {
                open: Some(&open),
                ..RecordExtras::default()
            };
            self.compose(&mut chain, &event, extras, Transition::Open(next.epoch))?
        };
        self.write_own(&ticket, line)
    }

    /// Waits, at most `limit`, until the segment, which `began` then, is to end; gives
    /// whether it is.
    pub(super) fn await_segment_end(&self, began: Instant, limit: Duration) -> bool {
        let limits = self.segment_limits;
        let wait = limits.age.saturating_sub(began.elapsed()).min(limit);
        let mut chain = self.chain.lock();
        if !limits.are_reached(chain.written().len, began) && !wait.is_zero() {
            self.segment_full.wait_for(&mut chain, wait);
        }
        limits.are_reached(chain.written().len, began)
    }

    /// Composes the payload of a signed record that follows the last one composed, and
    /// takes its place in the chain.
    pub(super) fn compose(
        &self,
        chain: &mut Chain,
        event: &Event<'_>,
        extras: RecordExtras<'_>,
        transition: Transition,
    ) -> Result<(Ticket, Vec<u8>), AppendError> {
        let epoch = transition.signer(chain.head()).number;
        let (line, vault_seq) = self.write_payload(chain, event, extras, epoch)?;
        let record = ComposedRecord {
            digest: line::digest(&line),
            vault_seq,
            // The signature's length is known before it is: so is the record's place in the file.
            bytes: (line.len() + SUFFIX_BYTES) as u64,
            signed: true,
        };
        Ok((chain.issue(&record, transition), line))
    }

    /// Composes a record without a signature, which is finished with that.
    fn compose_unsigned(
        &self,
        chain: &mut Chain,
        event: &Event<'_>,
        extras: RecordExtras<'_>,
    ) -> Result<Ticket, AppendError> {
        let epoch = chain.head().epoch.number;
        let (mut line, vault_seq) = self.write_payload(chain, event, extras, epoch)?;
        let digest = line::digest(&line);
        line::end_unsigned(&mut line);
        let record = ComposedRecord {
            digest,
            vault_seq,
            bytes: line.len() as u64,
            signed: false,
        };
        let ticket = chain.issue(&record, Transition::Record);
        chain.submit_line(&ticket, line);
        Ok(ticket)
    }

    /// The payload of `epoch` that follows the last one composed, and the commit of the vault
    /// that it names.
    fn write_payload(
        &self,
        chain: &mut Chain,
        event: &Event<'_>,
        extras: RecordExtras<'_>,
        epoch: u64,
    ) -> Result<(Vec<u8>, u64), AppendError> {
        let mut line = chain.take_buffer();
        let mut prev = [0; 64];
        // 32 bytes always fill 64 digits.
        let _ = hex::encode_to_slice(chain.head().digest, &mut prev);
        let mut time = chain.take_time_buffer();
        print_time(&(self.setup.clock)(), &mut time);
        // Whoever composed its event a moment before a change was recorded
        // stands after that change all the same: the last record tells how far
        // the log knows the vault.
        let vault_seq = event.vault_seq.max(chain.head().vault_seq);
        let payload = Payload {
            v: FORMAT,
            seq: chain.head().seq + 1,
            prev: str::from_utf8(&prev).unwrap_or_default(),
            time: &time,
            host: &self.host,
            epoch,
            event: &Event {
                vault_seq,
                ..*event
            },
            extras,
        };
        let composed = payload.write(&mut line);
        chain.give_back_time_buffer(time);
        if let Err(error) = composed {
            chain.give_back_buffer(line);
            return Err(error);
        }
        Ok((line, vault_seq))
    }

    /// Returns once the record of `ticket` is written, by whoever comes to it first.
    fn await_written(
        &self,
        mut chain: MutexGuard<'_, Chain>,
        ticket: &Ticket,
    ) -> Result<(), AppendError> {
        let mut yields = 0;
        loop {
            match chain.outcome(ticket) {
                Some(Ok(())) => return Ok(()),
                Some(Err(kind)) => return Err(AppendError::Io(kind.into())),
                None => {}
            }
            match chain.begin_batch() {
                // Whoever signs or writes before us needs a core: offer ours
                // before going to sleep, which costs two switches.
                None if yields < MAX_YIELDS => {
                    yields += 1;
                    MutexGuard::unlocked(&mut chain, std::thread::yield_now);
                }
                None => self.written.wait(&mut chain),
                Some(batch) => {
                    let result = MutexGuard::unlocked(&mut chain, || self.disk.append(&batch));
                    chain.end_batch(batch, result.map_err(|e| e.kind()));
                    self.disk.note_written(chain.written().seq);
                    self.written.notify_all();
                    if chain.written().len >= self.segment_limits.bytes {
                        self.segment_full.notify_one();
                    }
                }
            }
        }
    }
}

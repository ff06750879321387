//! The order of records while several are being signed.
//!
//! A record's place and digest depend on the payload before it, not on that one's
//! signature. So payloads are composed one after the other under the chain's lock, which
//! is cheap; signatures, where records have one, are made side by side outside of it, which
//! is not; and whoever finds the next lines finished writes them all at once.
//!
//! Each payload names the digest of the one before it. So when a write fails, every
//! record composed so far is taken back with it, signed or not: none of them could
//! stand behind what is in the file.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::error::AppendError;
use super::head::HeadMark;
use super::known::RecordMark;
use super::segment::Segment;
use crate::event::Action;
use crate::keys::EpochKey;
use crate::line::RecordDigest;
use crate::record::SegmentOpen;

/// Most line buffers kept for the next records.
const MAX_SPARE_BUFFERS: usize = 64;

/// A key and the records it signs. The key is wiped when nobody uses it any more.
pub(super) struct Epoch {
    pub(super) number: u64,
    pub(super) key: EpochKey,
    pub(super) began: Instant,
}

/// State of the chain after one of its records.
#[derive(Clone)]
pub(super) struct Position {
    pub(super) seq: u64,
    pub(super) digest: RecordDigest,
    /// Last commit of the vault that is recorded.
    pub(super) vault_seq: u64,
    /// Epoch whose key signs the next record.
    pub(super) epoch: Arc<Epoch>,
    /// Records of the epoch, which its key vouches for.
    pub(super) of_epoch: u64,
    /// Records up to this one that no signature vouches for yet.
    pub(super) unsigned: u64,
    /// Number of the segment the record is in.
    pub(super) segment: u32,
    /// Sequence number of the segment's first record.
    pub(super) first_seq: u64,
    /// Length of the segment in bytes, this record included.
    pub(super) len: u64,
    /// The record is the segment's last.
    pub(super) closed: bool,
}

/// Effect of a record on those after it.
#[derive(Clone)]
pub(super) enum Transition {
    /// None: an ordinary record.
    Record,
    /// The next record has another key.
    Epoch(Arc<Epoch>),
    /// The next record goes to this segment.
    Close(Arc<Segment>),
    /// The record begins a segment, and its own key is a new one.
    Open(Arc<Epoch>),
}

impl Transition {
    /// The epoch whose key signs the record itself, after `head`.
    pub(super) fn signer<'s>(&'s self, head: &'s Position) -> &'s Arc<Epoch> {
        match self {
            Self::Open(epoch) => epoch,
            // An epoch record is signed by the old key, which so vouches for the new one.
            Self::Record | Self::Epoch(_) | Self::Close(_) => &head.epoch,
        }
    }
}

/// First epoch and first record of the segment after a closed one.
#[derive(Clone)]
pub(super) struct NextSegment {
    pub(super) epoch: Arc<Epoch>,
    pub(super) open: SegmentOpen,
}

impl Position {
    /// The record as the log's end.
    pub(super) fn mark(&self) -> HeadMark {
        HeadMark {
            seq: self.seq,
            digest: self.digest,
            segment: self.segment,
            len: self.len,
        }
    }

    /// The position after one more record.
    fn after(&self, record: &ComposedRecord, transition: &Transition) -> Self {
        let &ComposedRecord {
            digest,
            vault_seq,
            bytes,
            signed,
        } = record;
        let next = Self {
            seq: self.seq + 1,
            digest,
            vault_seq,
            of_epoch: self.of_epoch + 1,
            unsigned: if signed { 0 } else { self.unsigned + 1 },
            len: self.len + bytes,
            ..self.clone()
        };
        match transition {
            Transition::Record => next,
            Transition::Epoch(epoch) => Self {
                epoch: epoch.clone(),
                of_epoch: 0,
                ..next
            },
            Transition::Close(_) => Self {
                closed: true,
                ..next
            },
            Transition::Open(epoch) => Self {
                epoch: epoch.clone(),
                of_epoch: 1,
                segment: self.segment + 1,
                first_seq: next.seq,
                len: bytes,
                closed: false,
                ..next
            },
        }
    }
}

/// A payload, as far as the chain needs to know it.
pub(super) struct ComposedRecord {
    pub(super) digest: RecordDigest,
    pub(super) vault_seq: u64,
    /// Length of its line.
    pub(super) bytes: u64,
    /// The line has a signature.
    pub(super) signed: bool,
}

/// Claim of a composed record to its place in the chain.
pub(super) struct Ticket {
    /// Counts tickets: grows also when sequence numbers are taken back.
    number: u64,
    pub(super) seq: u64,
    pub(super) digest: RecordDigest,
    /// Epoch whose key signs the record.
    pub(super) epoch: Arc<Epoch>,
}

impl Ticket {
    /// The record, for others to know it by.
    pub(super) fn mark(&self) -> RecordMark {
        RecordMark {
            seq: self.seq,
            head: self.digest,
        }
    }
}

/// Complete lines, to be appended at the segment's end.
pub(super) struct WriteBatch {
    pub(super) bytes: Vec<u8>,
    /// Length of the segment before the lines, in bytes.
    pub(super) offset: u64,
    /// The segment after this one, which the lines end.
    pub(super) next_segment: Option<Arc<Segment>>,
    /// The log's end with the last line.
    pub(super) end: HeadMark,
    lines: usize,
}

impl WriteBatch {
    /// Whether there is nothing but the record that ends the segment.
    pub(super) fn only_ends_segment(&self) -> bool {
        self.next_segment.is_some() && self.lines == 1
    }
}

/// A composed record that is not in the file yet.
struct PendingRecord {
    position: Position,
    /// The record's line, once it is finished: signed, where it is to be.
    line: Option<Vec<u8>>,
    next_segment: Option<Arc<Segment>>,
}

/// The records between the one composed last and the one written last.
pub(super) struct Chain {
    /// Position of the last record in the file.
    written: Position,
    /// Position of the last record composed.
    head: Position,
    /// Beginning of the next segment, once this one is being closed.
    pub(super) next_segment: Option<NextSegment>,
    /// Number of the last ticket.
    issued: u64,
    /// Number of the last ticket whose record is written or taken back.
    resolved: u64,
    /// Records of the tickets after `resolved`.
    pending: VecDeque<PendingRecord>,
    /// Tickets whose records were taken back, until their owners have seen it.
    failed: Vec<(u64, io::ErrorKind)>,
    /// A thread is writing a batch.
    writing: bool,
    /// The stop record is composed.
    stopped: bool,
    spare_buffers: Vec<Vec<u8>>,
    batch_buffer: Vec<u8>,
    time_buffer: String,
}

impl Chain {
    pub(super) fn new(position: Position) -> Self {
        Self {
            written: position.clone(),
            head: position,
            next_segment: None,
            issued: 0,
            resolved: 0,
            pending: VecDeque::new(),
            failed: Vec::new(),
            writing: false,
            stopped: false,
            spare_buffers: Vec::new(),
            batch_buffer: Vec::new(),
            time_buffer: String::with_capacity(32),
        }
    }

    pub(super) fn written(&self) -> &Position {
        &self.written
    }

    pub(super) fn head(&self) -> &Position {
        &self.head
    }

    /// Lets `action` pass, unless a stop came before; a stop is the last one.
    pub(super) fn check_open(&mut self, action: Action) -> Result<(), AppendError> {
        if self.stopped {
            return Err(AppendError::Closed);
        }
        self.stopped = action == Action::Stop;
        Ok(())
    }

    /// An empty buffer for a line.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        let spare = self.spare_buffers.pop();
        spare.unwrap_or_else(|| Vec::with_capacity(1024))
    }

    pub(super) fn give_back_buffer(&mut self, mut buffer: Vec<u8>) {
        if self.spare_buffers.len() < MAX_SPARE_BUFFERS {
            buffer.clear();
            self.spare_buffers.push(buffer);
        }
    }

    /// An empty string for a time.
    pub(super) fn take_time_buffer(&mut self) -> String {
        let mut time = mem::take(&mut self.time_buffer);
        time.clear();
        time
    }

    pub(super) fn give_back_time_buffer(&mut self, time: String) {
        self.time_buffer = time;
    }

    /// Gives the next place to `record`.
    pub(super) fn issue(&mut self, record: &ComposedRecord, transition: Transition) -> Ticket {
        let epoch = transition.signer(&self.head).clone();
        self.head = self.head.after(record, &transition);
        self.issued += 1;
        self.pending.push_back(PendingRecord {
            position: self.head.clone(),
            line: None,
            next_segment: match transition {
                Transition::Close(segment) => Some(segment),
                Transition::Record | Transition::Epoch(_) | Transition::Open(_) => None,
            },
        });
        Ticket {
            number: self.issued,
            seq: self.head.seq,
            digest: record.digest,
            epoch,
        }
    }

    /// Takes the finished line, unless its place was taken back.
    pub(super) fn submit_line(&mut self, ticket: &Ticket, line: Vec<u8>) {
        let ahead = ticket.number.checked_sub(self.resolved + 1);
        let pending = ahead
            .and_then(|n| usize::try_from(n).ok())
            .and_then(|n| self.pending.get_mut(n));
        if let Some(pending) = pending {
            pending.line = Some(line);
        }
    }

    /// The outcome of `ticket`; `None` while nobody knows. Asked until there is an
    /// answer, and then no more.
    pub(super) fn outcome(&mut self, ticket: &Ticket) -> Option<Result<(), io::ErrorKind>> {
        if ticket.number > self.resolved {
            return None;
        }
        let same = |(number, _): &(u64, io::ErrorKind)| *number == ticket.number;
        Some(match self.failed.iter().position(same) {
            Some(index) => Err(self.failed.swap_remove(index).1),
            None => Ok(()),
        })
    }

    /// The finished lines that come next, if any and if nobody writes; the caller
    /// writes them and gives the batch back to [`Self::end_batch`].
    pub(super) fn begin_batch(&mut self) -> Option<WriteBatch> {
        if self.writing {
            return None;
        }
        let mut bytes = mem::take(&mut self.batch_buffer);
        bytes.clear();
        let (mut lines, mut next_segment) = (0, None);
        // A line that ends the segment ends the batch: what follows goes to another file.
        while next_segment.is_none()
            && let Some(pending) = self.pending.get_mut(lines)
            && let Some(line) = pending.line.take()
        {
            next_segment = pending.next_segment.take();
            bytes.extend_from_slice(&line);
            self.give_back_buffer(line);
            lines += 1;
        }
        let last = lines.checked_sub(1).and_then(|n| self.pending.get(n));
        let Some(last) = last else {
            self.batch_buffer = bytes;
            return None;
        };
        let end = last.position.mark();
        self.writing = true;
        Some(WriteBatch {
            bytes,
            // After a closed segment the next one is written from its beginning.
            offset: if self.written.closed {
                0
            } else {
                self.written.len
            },
            next_segment,
            end,
            lines,
        })
    }

    /// Takes the `batch` back with the result of its write. After a failure every record
    /// composed so far is taken back.
    pub(super) fn end_batch(&mut self, batch: WriteBatch, result: Result<(), io::ErrorKind>) {
        self.writing = false;
        match result {
            Ok(()) => {
                for written in self.pending.drain(..batch.lines) {
                    self.written = written.position;
                    self.resolved += 1;
                }
            }
            Err(kind) => {
                // Also those that are still being signed: their payloads name digests that
                // are not in the file. Their owners find the failure under their ticket,
                // and the next record is composed after the last one written.
                let taken_back = self.resolved + 1..=self.issued;
                self.failed.extend(taken_back.map(|number| (number, kind)));
                self.pending.clear();
                self.resolved = self.issued;
                self.head = self.written.clone();
            }
        }
        self.batch_buffer = batch.bytes;
    }
}

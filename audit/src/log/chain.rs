//! The order of records while several are being signed.
//!
//! A record's place and digest depend on the payload before it, not on that
//! one's signature. So payloads are composed one after the other, which is
//! cheap, signatures are made side by side, which is not, and whoever finds the
//! next lines signed writes them all at once.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::AppendError;
use super::segment::Segment;
use crate::event::Action;
use crate::keys::EpochKey;
use crate::line::RecordDigest;
use crate::read::SegmentOpen;

/// Buffers kept for the next records.
const SPARE: usize = 64;

/// A key and the records it signs. It is wiped when nobody uses it any more.
pub(super) struct Epoch {
    pub(super) number: u64,
    pub(super) key: EpochKey,
    pub(super) began: Instant,
}

/// A place in the chain: the last record before it.
#[derive(Clone)]
pub(super) struct Position {
    pub(super) seq: u64,
    pub(super) digest: RecordDigest,
    /// The vault's last commit that is recorded.
    pub(super) vault_seq: u64,
    /// Whose key signs the next record, and how many it has signed.
    pub(super) epoch: Arc<Epoch>,
    pub(super) signed: u64,
    /// Number of the segment the record is in, the first record of it, and its
    /// length in bytes with this one.
    pub(super) segment: u32,
    pub(super) first_seq: u64,
    pub(super) len: u64,
    /// The record is the segment's last.
    pub(super) closed: bool,
}

/// What a record changes for those after it.
#[derive(Clone)]
pub(super) enum Transition {
    /// Nothing.
    Record,
    /// The next one has another key.
    Epoch(Arc<Epoch>),
    /// The next one goes to this file.
    Close(Arc<Segment>),
    /// It begins a segment, and its own key is a new one.
    Open(Arc<Epoch>),
}

impl Transition {
    /// Who signs the record itself, after `head`.
    pub(super) fn signer<'s>(&'s self, head: &'s Position) -> &'s Arc<Epoch> {
        match self {
            Self::Open(epoch) => epoch,
            Self::Record | Self::Epoch(_) | Self::Close(_) => &head.epoch,
        }
    }
}

/// How the segment after a closed one begins.
#[derive(Clone)]
pub(super) struct NextSegment {
    pub(super) epoch: Arc<Epoch>,
    pub(super) open: SegmentOpen,
}

impl Position {
    /// The place behind a record of `bytes` that goes here.
    fn after(&self, digest: RecordDigest, vault_seq: u64, bytes: u64, step: &Transition) -> Self {
        let next = Self {
            seq: self.seq + 1,
            digest,
            vault_seq,
            signed: self.signed + 1,
            len: self.len + bytes,
            ..self.clone()
        };
        match step {
            Transition::Record => next,
            Transition::Epoch(epoch) => Self {
                epoch: epoch.clone(),
                signed: 0,
                ..next
            },
            Transition::Close(_) => Self {
                closed: true,
                ..next
            },
            Transition::Open(epoch) => Self {
                epoch: epoch.clone(),
                signed: 1,
                segment: self.segment + 1,
                first_seq: next.seq,
                len: bytes,
                closed: false,
                ..next
            },
        }
    }
}

/// A composed record's claim to its place.
pub(super) struct Ticket {
    /// Grows also when sequence numbers are taken back.
    number: u64,
    pub(super) seq: u64,
    pub(super) digest: RecordDigest,
    /// Who signs it.
    pub(super) epoch: Arc<Epoch>,
}

/// Complete lines, to be appended where the segment ends.
pub(super) struct WriteBatch {
    pub(super) bytes: Vec<u8>,
    /// Length of the segment before, in bytes.
    pub(super) at: u64,
    /// They end the segment, and this one is next.
    pub(super) next: Option<Arc<Segment>>,
    lines: usize,
}

/// A composed record; `line` once it is signed.
struct PendingRecord {
    place: Position,
    line: Option<Vec<u8>>,
    next: Option<Arc<Segment>>,
}

pub(super) struct Chain {
    /// The last record in the file.
    written: Position,
    /// What goes first after a close.
    pub(super) beginning: Option<NextSegment>,
    /// The last record composed.
    head: Position,
    /// Tickets given out, and those of them that are written or taken back.
    issued: u64,
    resolved: u64,
    /// The records of the tickets after `resolved`.
    pending: VecDeque<PendingRecord>,
    /// Tickets whose records were taken back, until their owners have seen it.
    failed: Vec<(u64, io::ErrorKind)>,
    writing: bool,
    closed: bool,
    spare: Vec<Vec<u8>>,
    batch: Vec<u8>,
    time: String,
}

impl Chain {
    pub(super) fn new(place: Position) -> Self {
        Self {
            written: place.clone(),
            beginning: None,
            head: place,
            issued: 0,
            resolved: 0,
            pending: VecDeque::new(),
            failed: Vec::new(),
            writing: false,
            closed: false,
            spare: Vec::new(),
            batch: Vec::new(),
            time: String::with_capacity(32),
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
        if self.closed {
            return Err(AppendError::Closed);
        }
        self.closed = action == Action::Stop;
        Ok(())
    }

    /// An empty buffer for a line.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        let spare = self.spare.pop();
        spare.unwrap_or_else(|| Vec::with_capacity(1024))
    }

    pub(super) fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// An empty string for a time.
    pub(super) fn time(&mut self) -> String {
        let mut time = mem::take(&mut self.time);
        time.clear();
        time
    }

    pub(super) fn keep_time(&mut self, time: String) {
        self.time = time;
    }

    /// Gives the next place to a payload with digest `digest` and this
    /// `vault_seq`, whose line has so many `bytes`.
    pub(super) fn issue(
        &mut self,
        digest: RecordDigest,
        vault_seq: u64,
        bytes: u64,
        step: Transition,
    ) -> Ticket {
        let epoch = step.signer(&self.head).clone();
        self.head = self.head.after(digest, vault_seq, bytes, &step);
        self.issued += 1;
        self.pending.push_back(PendingRecord {
            place: self.head.clone(),
            line: None,
            next: match step {
                Transition::Close(segment) => Some(segment),
                Transition::Record | Transition::Epoch(_) | Transition::Open(_) => None,
            },
        });
        Ticket {
            number: self.issued,
            seq: self.head.seq,
            digest,
            epoch,
        }
    }

    /// Takes the signed line, unless its place was taken back.
    pub(super) fn hand_in(&mut self, ticket: &Ticket, line: Vec<u8>) {
        let ahead = ticket.number.checked_sub(self.resolved + 1);
        let pending = ahead
            .and_then(|n| usize::try_from(n).ok())
            .and_then(|n| self.pending.get_mut(n));
        if let Some(pending) = pending {
            pending.line = Some(line);
        }
    }

    /// What became of `ticket`; `None` while nobody knows. Asked until it
    /// gives an answer, and then no more.
    pub(super) fn outcome(&mut self, ticket: &Ticket) -> Option<Result<(), io::ErrorKind>> {
        if ticket.number > self.resolved {
            return None;
        }
        let mine = |(number, _): &(u64, io::ErrorKind)| *number == ticket.number;
        Some(match self.failed.iter().position(mine) {
            Some(at) => Err(self.failed.swap_remove(at).1),
            None => Ok(()),
        })
    }

    /// The signed lines that come next, if any and if nobody writes; the caller
    /// writes them and gives the batch back to [`Self::end_batch`].
    pub(super) fn begin_batch(&mut self) -> Option<WriteBatch> {
        if self.writing {
            return None;
        }
        let mut bytes = mem::take(&mut self.batch);
        bytes.clear();
        let (mut lines, mut next) = (0, None);
        while next.is_none()
            && let Some(pending) = self.pending.get_mut(lines)
            && let Some(line) = pending.line.take()
        {
            next = pending.next.take();
            bytes.extend_from_slice(&line);
            self.recycle(line);
            lines += 1;
        }
        if lines == 0 {
            self.batch = bytes;
            return None;
        }
        self.writing = true;
        Some(WriteBatch {
            bytes,
            // Of a closed segment there is nothing more to write.
            at: match self.written.closed {
                true => 0,
                false => self.written.len,
            },
            next,
            lines,
        })
    }

    /// After a failure every record composed so far is taken back: each one
    /// names the digest of the one before it.
    pub(super) fn end_batch(&mut self, batch: WriteBatch, result: Result<(), io::ErrorKind>) {
        self.writing = false;
        match result {
            Ok(()) => {
                for written in self.pending.drain(..batch.lines) {
                    self.written = written.place;
                    self.resolved += 1;
                }
            }
            Err(kind) => {
                let taken_back = self.resolved + 1..=self.issued;
                self.failed.extend(taken_back.map(|number| (number, kind)));
                self.pending.clear();
                self.resolved = self.issued;
                self.head = self.written.clone();
            }
        }
        self.batch = batch.bytes;
    }
}

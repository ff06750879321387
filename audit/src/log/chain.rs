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
use crate::event::Action;
use crate::keys::EpochKey;
use crate::line::Link;

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
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) link: Link,
    /// The vault's last commit that is recorded.
    pub(super) vault_seq: u64,
    /// Whose key signs the next record, and how many it has signed.
    pub(super) epoch: Arc<Epoch>,
    pub(super) signed: u64,
}

impl Place {
    /// The place behind a record that goes here.
    fn after(&self, link: Link, vault_seq: u64, next: Option<Arc<Epoch>>) -> Self {
        Self {
            seq: self.seq + 1,
            link,
            vault_seq,
            signed: match next {
                Some(_) => 0,
                None => self.signed + 1,
            },
            epoch: next.unwrap_or_else(|| self.epoch.clone()),
        }
    }
}

/// A composed record's claim to its place.
pub(super) struct Ticket {
    /// Grows also when sequence numbers are taken back.
    number: u64,
    pub(super) seq: u64,
    pub(super) link: Link,
    /// Who signs it.
    pub(super) epoch: Arc<Epoch>,
}

/// Complete lines, to be appended where the segment ends.
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// Length of the segment before, in bytes.
    pub(super) at: u64,
    lines: usize,
}

/// A composed record; `line` once it is signed.
struct Pending {
    place: Place,
    line: Option<Vec<u8>>,
}

pub(super) struct Chain {
    /// The last record in the file.
    written: Place,
    /// Length of the segment in bytes, all of it complete records.
    len: u64,
    /// The last record composed.
    head: Place,
    /// Tickets given out, and those of them that are written or taken back.
    issued: u64,
    resolved: u64,
    /// The records of the tickets after `resolved`.
    pending: VecDeque<Pending>,
    /// Tickets whose records were taken back, until their owners have seen it.
    failed: Vec<(u64, io::ErrorKind)>,
    writing: bool,
    closed: bool,
    spare: Vec<Vec<u8>>,
    batch: Vec<u8>,
    time: String,
}

impl Chain {
    pub(super) fn new(place: Place, len: u64) -> Self {
        Self {
            written: place.clone(),
            len,
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

    pub(super) fn written(&self) -> &Place {
        &self.written
    }

    pub(super) fn head(&self) -> &Place {
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

    /// Gives the next place to a payload with digest `link` and this
    /// `vault_seq`; with `next`, the records after it are that epoch's.
    pub(super) fn issue(&mut self, link: Link, vault_seq: u64, next: Option<Arc<Epoch>>) -> Ticket {
        let epoch = self.head.epoch.clone();
        self.head = self.head.after(link, vault_seq, next);
        self.issued += 1;
        self.pending.push_back(Pending {
            place: self.head.clone(),
            line: None,
        });
        Ticket {
            number: self.issued,
            seq: self.head.seq,
            link,
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
    pub(super) fn begin_batch(&mut self) -> Option<Batch> {
        if self.writing {
            return None;
        }
        let mut bytes = mem::take(&mut self.batch);
        bytes.clear();
        let mut lines = 0;
        while let Some(line) = self.pending.get_mut(lines).and_then(|p| p.line.take()) {
            bytes.extend_from_slice(&line);
            self.recycle(line);
            lines += 1;
        }
        if lines == 0 {
            self.batch = bytes;
            return None;
        }
        self.writing = true;
        Some(Batch {
            bytes,
            at: self.len,
            lines,
        })
    }

    /// After a failure every record composed so far is taken back: each one
    /// names the digest of the one before it.
    pub(super) fn end_batch(&mut self, batch: Batch, result: Result<(), io::ErrorKind>) {
        self.writing = false;
        match result {
            Ok(()) => {
                self.len += batch.bytes.len() as u64;
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

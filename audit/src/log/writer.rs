//! One record after the other: composed, signed, written, chained.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use parking_lot::Mutex;
use serde::Serialize;

use super::progress::Progress;
use super::{AppendError, Counters, Durability};
use crate::event::Event;
use crate::file::LogFile;
use crate::keys::EpochKey;
use crate::line::{self, Link, MAX_LINE};
use crate::read::Start;

const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

/// Appends to one segment with one epoch key.
pub(super) struct Writer {
    pub(super) file: Box<dyn LogFile>,
    pub(super) key: EpochKey,
    pub(super) host: String,
    pub(super) epoch: u64,
    pub(super) clock: fn() -> Timestamp,
    pub(super) chain: Mutex<Chain>,
    pub(super) progress: Progress,
    pub(super) records: AtomicU64,
    pub(super) errors: AtomicU64,
}

/// Where the next record goes; the buffers are reused.
pub(super) struct Chain {
    pub(super) seq: u64,
    pub(super) link: Link,
    /// Length of the segment in bytes, all of it complete records.
    pub(super) len: u64,
    line: Vec<u8>,
    time: String,
}

impl Chain {
    pub(super) fn new(seq: u64, link: Link, len: u64) -> Self {
        Self {
            seq,
            link,
            len,
            line: Vec::with_capacity(1024),
            time: String::with_capacity(32),
        }
    }
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
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<&'a Start>,
}

/// Fails before the buffer behind it outgrows a line.
struct Bounded<'a>(&'a mut Vec<u8>);

impl io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_LINE {
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
        start: Option<&Start>,
        durability: Durability,
    ) -> Result<u64, AppendError> {
        let result = self
            .write(event, start)
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

    pub(super) fn flush_loop(&self) {
        self.progress.flush_loop(&*self.file);
    }

    /// What is left to do after the write, outside the chain's lock.
    fn settle(&self, seq: u64, durability: Durability) -> Result<u64, AppendError> {
        match durability {
            Durability::Write => self.progress.mark_dirty(),
            Durability::Sync => self.progress.sync_through(&*self.file, seq)?,
        }
        Ok(seq)
    }

    /// Signs and writes one line; the chain goes on only when all of it was
    /// written.
    fn write(&self, event: &Event<'_>, start: Option<&Start>) -> Result<u64, AppendError> {
        let mut chain = self.chain.lock();
        self.progress.check()?;
        let chain = &mut *chain;
        let link = self.compose(chain, event, start)?;
        let len = chain.line.len();
        match self.file.append(&chain.line) {
            Ok(written) if written == len => {}
            Ok(_) => return Err(self.undo(chain, io::ErrorKind::StorageFull.into())),
            Err(error) => return Err(self.undo(chain, error)),
        }
        chain.seq += 1;
        chain.link = link;
        chain.len += len as u64;
        self.progress.wrote(chain.seq);
        Ok(chain.seq)
    }

    /// Leaves the signed line in the chain's buffer and gives its digest.
    fn compose(
        &self,
        chain: &mut Chain,
        event: &Event<'_>,
        start: Option<&Start>,
    ) -> Result<Link, AppendError> {
        let mut prev = [0; 64];
        // 32 bytes always fill 64 digits.
        let _ = hex::encode_to_slice(chain.link, &mut prev);
        chain.time.clear();
        // A string takes whatever is printed.
        let _ = PRINTER.print_timestamp(&(self.clock)(), &mut chain.time);
        let payload = Payload {
            v: 1,
            seq: chain.seq + 1,
            prev: str::from_utf8(&prev).unwrap_or_default(),
            time: &chain.time,
            host: &self.host,
            epoch: self.epoch,
            event,
            start,
        };
        chain.line.clear();
        // Numbers and strings always serialise; only the bound can fail.
        serde_json::to_writer(Bounded(&mut chain.line), &payload)
            .map_err(|_| AppendError::TooLong)?;
        let link = line::seal(&mut chain.line, &self.key);
        match chain.line.len() > MAX_LINE {
            true => Err(AppendError::TooLong),
            false => Ok(link),
        }
    }

    /// Takes a half-written line away again.
    fn undo(&self, chain: &Chain, error: io::Error) -> AppendError {
        if self.file.truncate(chain.len).is_err() {
            self.progress.poison();
        }
        AppendError::Io(error)
    }
}

//! The signed part of a record, as JSON.

use std::io;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde::Serialize;

use super::error::AppendError;
use crate::event::Event;
use crate::line::{MAX_LINE_BYTES, SUFFIX_BYTES};
use crate::record::{NextEpoch, PruneDetails, SegmentClose, SegmentOpen, StartDetails};

/// RFC 3339 with microseconds.
const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

/// Parts that some records have besides their event.
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
pub(super) struct Payload<'a> {
    pub(super) v: u8,
    pub(super) seq: u64,
    pub(super) prev: &'a str,
    pub(super) time: &'a str,
    pub(super) host: &'a str,
    pub(super) epoch: u64,
    #[serde(flatten)]
    pub(super) event: &'a Event<'a>,
    #[serde(flatten)]
    pub(super) extras: RecordExtras<'a>,
}

impl Payload<'_> {
    /// Writes the payload into `line`, which is empty.
    ///
    /// # Errors
    /// [`AppendError::TooLong`]; then part of it is in `line`.
    pub(super) fn write(&self, line: &mut Vec<u8>) -> Result<(), AppendError> {
        // Numbers and strings always serialise; only the bound can fail.
        serde_json::to_writer(Bounded(line), self).map_err(|_| AppendError::TooLong)
    }
}

/// Appends `time` to `text`, as it stands in records and checkpoints.
pub(super) fn print_time(time: &Timestamp, text: &mut String) {
    // A string takes whatever is printed.
    let _ = PRINTER.print_timestamp(time, text);
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

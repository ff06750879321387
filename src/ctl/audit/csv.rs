//! Comma-separated values (RFC 4180) of records.

use std::ops::ControlFlow;

use jarvis_audit::Record;

use super::records::{Column, shown};
use crate::common::escape::csv_cell;
use crate::ctl::exit::CommandError;
use crate::ctl::output::Output;
use crate::ctl::rows::RowSink;

/// Bytes that are collected before they are printed.
const BUFFER_BYTES: usize = 64 * 1024;

const COLUMNS: [Column; 18] = [
    ("seq", |r| r.seq.to_string()),
    ("time", |r| r.time.clone()),
    ("action", |r| r.action.to_string()),
    ("result", |r| r.result.to_string()),
    ("name", |r| shown(&r.name)),
    ("version", |r| shown(&r.version)),
    ("kid", |r| shown(&r.kid)),
    ("uid", |r| shown(&r.uid)),
    ("gid", |r| shown(&r.gid)),
    ("pid", |r| shown(&r.pid)),
    ("unit", |r| shown(&r.unit)),
    ("container", |r| shown(&r.container)),
    ("exe", |r| shown(&r.exe)),
    ("client", |r| shown(&r.client)),
    ("rule", |r| shown(&r.rule)),
    ("errno", |r| shown(&r.errno)),
    ("reason", |r| shown(&r.reason)),
    ("count", |r| shown(&r.count)),
];

/// Rows under a header.
pub(super) struct CsvOutput<'o> {
    out: &'o Output,
    writer: csv::Writer<Vec<u8>>,
}

impl<'o> CsvOutput<'o> {
    pub(super) fn new(out: &'o Output) -> Result<Self, CommandError> {
        let mut csv = Self {
            out,
            writer: csv::Writer::from_writer(Vec::new()),
        };
        csv.write(COLUMNS.map(|(name, _)| name.to_owned()))?;
        Ok(csv)
    }

    fn write(&mut self, row: [String; COLUMNS.len()]) -> Result<(), CommandError> {
        self.writer.write_record(row).map_err(CommandError::other)
    }

    fn print(&mut self) -> Result<ControlFlow<()>, CommandError> {
        let writer = csv::Writer::from_writer(Vec::new());
        let full = std::mem::replace(&mut self.writer, writer);
        self.out
            .part(&full.into_inner().map_err(CommandError::other)?)
    }
}

impl RowSink<Record> for CsvOutput<'_> {
    fn push(&mut self, record: &Record) -> Result<ControlFlow<()>, CommandError> {
        self.write(COLUMNS.map(|(_, cell)| csv_cell(&cell(record))))?;
        if self.writer.get_ref().len() >= BUFFER_BYTES {
            return self.print();
        }
        Ok(ControlFlow::Continue(()))
    }

    fn finish(mut self) -> Result<(), CommandError> {
        self.print().map(|_| ())
    }
}

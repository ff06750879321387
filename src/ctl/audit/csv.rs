//! Comma-separated values (RFC 4180) of records.

use jarvis_audit::Record;

use super::records::{Column, shown};
use crate::ctl::escape::csv_cell;

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

/// `records` with a header.
pub(super) fn csv<'r>(
    records: impl IntoIterator<Item = &'r Record>,
) -> Result<Vec<u8>, csv::Error> {
    let mut bytes = Vec::new();
    let mut writer = csv::Writer::from_writer(&mut bytes);
    writer.write_record(COLUMNS.map(|(name, _)| name))?;
    for record in records {
        writer.write_record(COLUMNS.map(|(_, cell)| csv_cell(&cell(record))))?;
    }
    writer.flush()?;
    drop(writer);
    Ok(bytes)
}

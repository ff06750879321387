//! Records for people.

use jarvis_audit::Record;

use super::filter::{RecordFilter, search};
use super::log::AuditLog;
use crate::ctl::exit::CommandError;
use crate::ctl::output::Output;
use crate::ctl::rows::{Columns, RowSink, RowsOutput};
use crate::ctl::table::columns;

/// Column: its name, and its cell for a record.
pub(super) type Column = (&'static str, fn(&Record) -> String);

const COLUMNS: [Column; 12] = [
    ("seq", |r| r.seq.to_string()),
    ("time", |r| r.time.clone()),
    ("action", |r| r.action.to_string()),
    ("result", |r| r.result.to_string()),
    ("name", |r| shown(&r.name)),
    ("version", |r| shown(&r.version)),
    ("uid", |r| shown(&r.uid)),
    ("pid", |r| shown(&r.pid)),
    ("where", workload),
    ("client", |r| shown(&r.client)),
    ("rule", |r| shown(&r.rule)),
    ("reason", |r| shown(&r.reason)),
];

/// Cell for a field that may be missing.
pub(super) fn shown(field: &Option<impl ToString>) -> String {
    field.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// Destination for records: JSON, or a table.
pub(super) fn record_rows(out: &Output) -> RowsOutput<'_, Record, { COLUMNS.len() }> {
    let columns = Columns {
        header: COLUMNS.map(|(name, _)| name),
        cells: |record| COLUMNS.map(|(_, cell)| cell(record)),
    };
    RowsOutput::new(out, columns)
}

/// Table with one record.
pub(super) fn table(record: &Record) -> String {
    columns(
        COLUMNS.map(|(name, _)| name),
        [COLUMNS.map(|(_, cell)| cell(record))],
    )
}

/// Line about a record for people who watch.
pub(super) fn line(record: &Record) -> String {
    let words = [
        Some(record.time.clone()),
        Some(format!("{} {}", record.action, record.result)),
        record.name.clone(),
        record.version.map(|version| format!("version {version}")),
        record.uid.map(|uid| format!("uid {uid}")),
        record.pid.map(|pid| format!("pid {pid}")),
        Some(workload(record)).filter(|workload| !workload.is_empty()),
        record.reason.clone(),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join("  ")
}

/// Container, shortened as engines do, else the unit.
fn workload(record: &Record) -> String {
    match (&record.container, &record.unit) {
        (Some(container), _) => container.chars().take(12).collect(),
        (None, Some(unit)) => unit.clone(),
        (None, None) => String::new(),
    }
}

/// Prints those of the records that `filter` wants, the last `most` of them: they are
/// counted first, so that none has to be kept.
pub(super) fn print_last(
    log: &AuditLog,
    filter: &RecordFilter,
    most: Option<usize>,
    mut sink: impl RowSink<Record>,
) -> Result<(), CommandError> {
    let mut found = search(log, filter)?;
    let (skipped, shown) = match most {
        None => (0, usize::MAX),
        Some(most) => {
            let all = found.try_fold(0, |all, record| record.map(|_| all + 1_usize))?;
            found = search(log, filter)?;
            (all.saturating_sub(most), most)
        }
    };
    for (nth, record) in found.enumerate() {
        let record = record?;
        if nth < skipped {
            continue;
        }
        // What came after they were counted is left to the next look.
        if nth - skipped >= shown || sink.push(&record)?.is_break() {
            break;
        }
    }
    sink.finish()
}

//! Records for people.

use std::collections::VecDeque;

use jarvis_audit::Record;

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

/// Table of `records`.
pub(super) fn table<'r>(records: impl IntoIterator<Item = &'r Record>) -> String {
    let rows = records
        .into_iter()
        .map(|record| COLUMNS.map(|(_, cell)| cell(record)));
    columns(COLUMNS.map(|(name, _)| name), rows)
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

/// Adds `record` to the last ones, of which at most `limit` stay.
pub(super) fn keep_last(last: &mut VecDeque<Record>, record: Record, limit: usize) {
    last.push_back(record);
    if last.len() > limit {
        last.pop_front();
    }
}

//! Fields of an answer, and tables for people.

use comfy_table::presets::NOTHING;
use comfy_table::{Row, Table};
use serde_json::Value;

use super::escape;

/// Text of the field `key`; empty when there is none.
pub(super) fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Elements of the field `key`; none when it is no array.
pub(super) fn array<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    let array = value.get(key).and_then(Value::as_array);
    array.map_or(&[], Vec::as_slice)
}

/// Cell for the field `key`: nothing for what is not there.
pub(super) fn cell(value: &Value, key: &str) -> String {
    match value.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(values)) => {
            let texts: Vec<_> = values.iter().filter_map(Value::as_str).collect();
            texts.join(", ")
        }
        Some(other) => other.to_string(),
    }
}

/// Table of the `keys` of `values`.
pub(super) fn table(values: &[Value], keys: &[&str]) -> String {
    let row = |value| keys.iter().map(move |key| cell(value, key));
    columns(keys, values.iter().map(row))
}

/// Table of `rows` under a `header`; each row is a line.
pub(super) fn columns<R: Into<Row>>(
    header: impl Into<Row>,
    rows: impl IntoIterator<Item = R>,
) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header);
    for row in rows {
        let cells = row.into();
        let cells = cells.cell_iter().map(|cell| escape::line(&cell.content()));
        table.add_row(cells.collect::<Vec<_>>());
    }
    table.trim_fmt()
}

//! Fields of an answer, and tables for people.

use comfy_table::presets::NOTHING;
use comfy_table::{ColumnConstraint, Row, Table, Width};
use serde_json::Value;

use crate::common::escape;

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
    let mut table = plain();
    table.set_header(header);
    add(&mut table, rows);
    table.trim_fmt()
}

/// Widths that the columns of a table have so far, which comes in parts.
#[derive(Default)]
pub(super) struct TableWidths(Vec<u16>);

impl TableWidths {
    /// The next `rows`, each a line with its line break, the first ones under the `header`.
    pub(super) fn rows<R: Into<Row>>(
        &mut self,
        header: impl Into<Row>,
        rows: impl IntoIterator<Item = R>,
    ) -> String {
        let mut table = plain();
        if self.0.is_empty() {
            table.set_header(header);
        }
        add(&mut table, rows);
        if table.is_empty() && !self.0.is_empty() {
            return String::new();
        }
        // A column has a blank on both sides.
        let lower = |width: &u16| ColumnConstraint::LowerBoundary(Width::Fixed(width + 2));
        table.set_constraints(self.0.iter().map(lower));
        let widths = table.column_max_content_widths();
        let known = self.0.iter().copied().chain(std::iter::repeat(0));
        self.0 = widths
            .into_iter()
            .zip(known)
            .map(|(a, b)| a.max(b))
            .collect();
        table.trim_fmt() + "\n"
    }
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table
}

fn add<R: Into<Row>>(table: &mut Table, rows: impl IntoIterator<Item = R>) {
    for row in rows {
        let cells = row.into();
        let cells = cells.cell_iter().map(|cell| escape::line(&cell.content()));
        table.add_row(cells.collect::<Vec<_>>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_in_parts_has_one_header_and_columns_that_only_grow() {
        let mut widths = TableWidths::default();
        let mut rows = |rows: &[[&str; 2]]| widths.rows(["name", "n"], rows.iter().copied());
        assert_eq!(
            rows(&[["app/database", "1"]]),
            " name          n \n app/database  1\n".replace(" \n", "\n")
        );
        assert_eq!(rows(&[["a", "2"]]), " a             2\n");
        assert_eq!(rows(&[["app/database/x", "3"]]), " app/database/x  3\n");
        assert_eq!(rows(&[["a", "4"]]), " a               4\n");
        assert_eq!(rows(&[]), "");
        let mut none = TableWidths::default();
        assert_eq!(none.rows(["name", "n"], [[""; 2]; 0]), " name  n\n");
    }
}

//! Rows of any number, printed as they come: what is kept does not grow with their number.

use std::ops::ControlFlow;

use serde::Serialize;

use super::exit::CommandError;
use super::output::Output;
use super::table::TableWidths;

/// Rows of a table that are aligned with each other: the first ones, which a screen
/// shows, have the header over them; later ones are only as wide or wider.
const BLOCK_ROWS: usize = 1000;
/// Bytes that are collected before they are printed.
const BUFFER_BYTES: usize = 64 * 1024;

/// Destination of rows, one at a time.
pub(super) trait RowSink<T> {
    /// Takes `row`, the next one; breaks when nobody reads any more.
    fn push(&mut self, row: &T) -> Result<ControlFlow<()>, CommandError>;

    /// Prints what is left, and what stands at the end.
    fn finish(self) -> Result<(), CommandError>;
}

/// Columns of a table for values of type `T`: a header, and the cells of a row.
pub(super) struct Columns<T, const N: usize> {
    pub(super) header: [&'static str; N],
    pub(super) cells: fn(&T) -> [String; N],
}

/// An array in JSON, or a table for people.
pub(super) struct RowsOutput<'o, T, const N: usize> {
    out: &'o Output,
    columns: Columns<T, N>,
    /// Elements that wait, with what stands between them.
    json: String,
    /// Rows that wait, and how wide those before them were.
    block: Vec<[String; N]>,
    widths: TableWidths,
    any: bool,
}

impl<'o, T, const N: usize> RowsOutput<'o, T, N> {
    pub(super) fn new(out: &'o Output, columns: Columns<T, N>) -> Self {
        Self {
            out,
            columns,
            json: String::new(),
            block: Vec::new(),
            widths: TableWidths::default(),
            any: false,
        }
    }

    fn print(&mut self) -> Result<ControlFlow<()>, CommandError> {
        if self.out.json() {
            let json = std::mem::take(&mut self.json);
            return self.out.json_text(&json);
        }
        let rows = std::mem::take(&mut self.block);
        let lines = self.widths.rows(self.columns.header, rows);
        self.out.text(&lines)
    }
}

impl<T: Serialize, const N: usize> RowSink<T> for RowsOutput<'_, T, N> {
    fn push(&mut self, row: &T) -> Result<ControlFlow<()>, CommandError> {
        let full = if self.out.json() {
            let element = serde_json::to_string_pretty(row).map_err(CommandError::other)?;
            self.json.push_str(if self.any { ",\n  " } else { "[\n  " });
            // A string holds no line break: JSON has it escaped.
            self.json.push_str(&element.replace('\n', "\n  "));
            self.json.len() >= BUFFER_BYTES
        } else {
            self.block.push((self.columns.cells)(row));
            self.block.len() >= BLOCK_ROWS
        };
        self.any = true;
        if full {
            return self.print();
        }
        Ok(ControlFlow::Continue(()))
    }

    fn finish(mut self) -> Result<(), CommandError> {
        if self.out.json() {
            self.json.push_str(if self.any { "\n]\n" } else { "[]\n" });
        }
        // At the end it is all the same whether somebody reads on.
        self.print().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_stand_as_in_one_array() {
        let out = Output::new(true);
        let columns = || Columns {
            header: ["n"],
            cells: |_: &serde_json::Value| [String::new()],
        };
        let rows = [serde_json::json!({"a": "b\nc"}), serde_json::json!([])];
        let mut printed = RowsOutput::new(&out, columns());
        for row in &rows {
            assert!(printed.push(row).unwrap().is_continue());
        }
        let whole = serde_json::to_string_pretty(&rows).unwrap();
        assert_eq!(format!("{}\n]", printed.json), whole);
    }
}

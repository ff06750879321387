//! Answers in pages: a question about everything is answered in pieces of bounded size and
//! work.

use std::ops::ControlFlow;

use serde_json::{Value, json};

/// Most rows of a page.
const MAX_ROWS: usize = 256;
/// Most records looked at for a page.
const MAX_LOOKED_AT: usize = 4096;

/// Page in the making: rows, in the order of ids.
#[derive(Default)]
pub(super) struct Page {
    rows: Vec<Value>,
    looked_at: usize,
    /// Id after which the next page begins.
    next: Option<u64>,
}

impl Page {
    /// Takes note of the record `id`, which gives a row or none; breaks at the page's end.
    pub(super) fn add(&mut self, id: u64, row: Option<Value>) -> ControlFlow<()> {
        self.rows.extend(row);
        self.looked_at += 1;
        if self.rows.len() < MAX_ROWS && self.looked_at < MAX_LOOKED_AT {
            return ControlFlow::Continue(());
        }
        self.next = Some(id);
        ControlFlow::Break(())
    }

    /// The page as its answer shows it.
    pub(super) fn answer(self) -> Value {
        match self.next {
            Some(next) => json!({"rows": self.rows, "next": next}),
            None => json!({"rows": self.rows}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_with_its_rows_or_its_work() {
        let fill = |row: Option<Value>| {
            let mut page = Page::default();
            let last = (1..).find(|&id| page.add(id, row.clone()).is_break());
            (last, page.answer())
        };
        let (last, page) = fill(Some(json!(7)));
        assert_eq!(last, Some(256));
        assert_eq!(page["rows"].as_array().unwrap().len(), 256);
        assert_eq!(page["next"], 256);
        assert_eq!(fill(None), (Some(4096), json!({"rows": [], "next": 4096})));
        assert_eq!(Page::default().answer(), json!({"rows": []}));
    }
}

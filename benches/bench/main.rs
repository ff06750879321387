//! `make bench`: the hot path beside the least a FUSE file system can do, and
//! the parts it is made of. Everything is measured in one run on one machine,
//! in turns, so that ratios mean something; no figure is asserted.
//!
//! Needs root. Writes `target/bench.json`. With `QUICK` set it takes less than a minute;
//! with arguments (`opens`, `parts`, `log`) it measures these alone.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::rows::Row;

mod log;
mod nothing;
mod opens;
mod parts;
mod rows;
mod stage;

const VALUE: [u8; 1024] = [7; 1024];

/// How often things are measured.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    quick: bool,
}

impl Effort {
    fn wanted() -> Self {
        let quick = std::env::var("QUICK").is_ok_and(|quick| !matches!(&*quick, "" | "0"));
        let rounds = if quick { 3 } else { 8 };
        Self { rounds, quick }
    }

    /// `count`, or less of it.
    fn of(self, count: usize) -> usize {
        if self.quick { count / 4 } else { count }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, which, dir] = arguments.as_slice()
        && flag == "--serve-nothing"
    {
        return nothing::serve(which, Path::new(dir));
    }
    let parts = ["opens", "parts", "log"];
    let chosen: Vec<&str> = parts
        .into_iter()
        .filter(|part| arguments.iter().any(|argument| argument == part))
        .collect();
    let wants = |part| chosen.is_empty() || chosen.contains(&part);
    let effort = Effort::wanted();
    let mut rows = Vec::new();
    let mut take = |part, measure: fn(Effort) -> Vec<Row>| {
        if wants(part) {
            let measured = measure(effort);
            rows::print(&measured);
            rows.extend(measured);
        }
    };
    take("opens", opens::measure);
    take("parts", parts::measure);
    take("log", log::measure);
    let json: Value = rows.iter().map(Row::json).collect();
    fs::write("target/bench.json", format!("{json:#}\n")).unwrap();
    println!("\nwritten: target/bench.json");
}

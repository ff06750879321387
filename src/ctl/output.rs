//! Standard output: for people or as JSON.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use super::exit::Failure;
use super::table::text;

/// How to print.
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON was asked for.
    pub(super) fn json(&self) -> bool {
        self.json
    }

    /// `value` as JSON, or `text` for people.
    pub(super) fn show(&self, value: &Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let mut line = match self.json {
            true => serde_json::to_string_pretty(value).map_err(Failure::other)?,
            false => text(),
        };
        if !line.ends_with('\n') {
            line.push('\n');
        }
        self.bytes(line.as_bytes())
    }

    /// One of many, as JSON in a line of its own, or as `text` for people.
    pub(super) fn line(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let mut line = match self.json {
            true => serde_json::to_string(value).map_err(Failure::other)?,
            false => text(),
        };
        line.push('\n');
        self.bytes(line.as_bytes())
    }

    /// The answer to a change: what it came to, in a sentence for people.
    pub(super) fn change(&self, answer: &Value) -> Result<(), Failure> {
        let (action, name) = (text(answer, "action"), text(answer, "name"));
        self.show(answer, || match answer.get("version") {
            Some(version) => {
                let kid = text(answer, "kid");
                format!("{action} {name}: version {version}, key id {kid}")
            }
            None => format!("{action} {name}"),
        })
    }

    /// Bytes as they are.
    pub(super) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            // `jarvisctl list | head` is no failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(Failure::other),
        }
    }
}

//! Standard output: for people or as JSON, and never as orders to a terminal.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use super::escape;
use super::exit::CommandError;
use super::table::text;

/// Standard output, and how to print there.
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

    /// Prints `value` as JSON, or `text` for people.
    pub(super) fn show(
        &self,
        value: &Value,
        text: impl FnOnce() -> String,
    ) -> Result<(), CommandError> {
        let mut line = if self.json {
            escape::json(&serde_json::to_string_pretty(value).map_err(CommandError::other)?)
        } else {
            escape::lines(&text())
        };
        if !line.ends_with('\n') {
            line.push('\n');
        }
        self.bytes(line.as_bytes())
    }

    /// Prints one value of many, as JSON in a line of its own, or as `text` for people.
    pub(super) fn line(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), CommandError> {
        let mut line = if self.json {
            escape::json(&serde_json::to_string(value).map_err(CommandError::other)?)
        } else {
            escape::line(&text())
        };
        line.push('\n');
        self.bytes(line.as_bytes())
    }

    /// Prints the answer to a change, for people a sentence on what it came to.
    pub(super) fn change(&self, answer: &Value) -> Result<(), CommandError> {
        let (action, name) = (text(answer, "action"), text(answer, "name"));
        self.show(answer, || match answer.get("version") {
            Some(version) => {
                let kid = text(answer, "kid");
                escape::line(&format!("{action} {name}: version {version}, key id {kid}"))
            }
            None => escape::line(&format!("{action} {name}")),
        })
    }

    /// Prints bytes as they are.
    pub(super) fn bytes(&self, bytes: &[u8]) -> Result<(), CommandError> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            // `jarvisctl list | head` is no failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(CommandError::other),
        }
    }
}

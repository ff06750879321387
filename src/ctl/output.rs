//! Standard output: for people or as JSON, and never as orders to a terminal.

use std::io::{self, Write};
use std::ops::ControlFlow;

use serde::Serialize;
use serde_json::Value;

use super::exit::CommandError;
use super::table::text;
use crate::common::escape;

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

    /// Prints one value of many, as JSON in a line of its own, or as `text` for people;
    /// breaks when nobody reads any more.
    pub(super) fn line(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<ControlFlow<()>, CommandError> {
        let mut line = if self.json {
            escape::json(&serde_json::to_string(value).map_err(CommandError::other)?)
        } else {
            escape::line(&text())
        };
        line.push('\n');
        self.part(line.as_bytes())
    }

    /// Prints a part of JSON; breaks when nobody reads any more.
    pub(super) fn json_text(&self, json: &str) -> Result<ControlFlow<()>, CommandError> {
        self.part(escape::json(json).as_bytes())
    }

    /// Prints a part of what people read; breaks when nobody reads any more.
    pub(super) fn text(&self, text: &str) -> Result<ControlFlow<()>, CommandError> {
        self.part(escape::lines(text).as_bytes())
    }

    /// Prints the answer to a change, for people a sentence on what it came to.
    pub(super) fn change(&self, answer: &Value) -> Result<(), CommandError> {
        let (action, name) = (text(answer, "action"), text(answer, "name"));
        self.show(answer, || {
            let mut line = format!("{action} {name}");
            if let Some(version) = answer.get("version") {
                let kid = text(answer, "kid");
                line.push_str(&format!(": version {version}, key id {kid}"));
            }
            if let Some(note) = answer.get("note").and_then(Value::as_str) {
                line.push_str(&format!(" ({note})"));
            }
            escape::line(&line)
        })
    }

    /// Prints bytes as they are.
    pub(super) fn bytes(&self, bytes: &[u8]) -> Result<(), CommandError> {
        self.part(bytes).map(|_| ())
    }

    /// Prints bytes as they are; breaks when nobody reads any more.
    pub(super) fn part(&self, bytes: &[u8]) -> Result<ControlFlow<()>, CommandError> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            // `jarvisctl list | head` is no failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
            result => result
                .map_err(CommandError::other)
                .map(ControlFlow::Continue),
        }
    }
}

//! Why a policy is refused, and where.

use std::fmt;

use serde_saphyr::Location;

/// Longest message in characters.
const MAX_MESSAGE_CHARS: usize = 300;

/// A refused policy: the place and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    line: u64,
    column: u64,
    message: String,
}

impl PolicyError {
    pub(crate) fn new(at: Location, message: impl Into<String>) -> Self {
        Self {
            // The parser has no place for an empty document: its start.
            line: at.line().max(1),
            column: at.column().max(1),
            message: printable(&message.into()),
        }
    }

    pub(crate) fn start(message: impl Into<String>) -> Self {
        Self {
            line: 1,
            column: 1,
            message: printable(&message.into()),
        }
    }

    pub(crate) fn yaml(error: &serde_saphyr::Error) -> Self {
        let text = error.without_snippet().to_string();
        // The place is given once, in front; the parser's own goes.
        let message = text.split(" at line ").next().unwrap_or_default();
        let message = message.lines().next().unwrap_or_default();
        match error.location() {
            Some(at) => Self::new(at, message),
            None => Self::start(message),
        }
    }

    /// Line in the policy, from 1.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Column in the line, from 1.
    #[must_use]
    pub fn column(&self) -> u64 {
        self.column
    }
}

/// Cleans a message, which may quote the file: no control characters, and not more than a
/// line.
fn printable(message: &str) -> String {
    let visible = message
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c });
    visible.take(MAX_MESSAGE_CHARS).collect()
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            column,
            message,
        } = self;
        write!(f, "line {line}, column {column}: {message}")
    }
}

impl std::error::Error for PolicyError {}

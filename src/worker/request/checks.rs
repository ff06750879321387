//! Checks of a request's parts, and how a refusal is put.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jarvis_vault::{MAX_VALUE, NameError, SecretBytes, SecretName};

/// Longest text of somebody's own words, in bytes.
const MAX_TEXT: usize = 512;
/// Longest name of a consumer, hook or owner, in bytes.
const MAX_WORD: usize = 128;

/// Reason why bytes are no request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Wrong, and what and where.
    Invalid(String),
    /// A name or segment over its limit.
    NameTooLong(String),
    /// A value or batch over its limit.
    TooLong(String),
}

pub(super) type Checked<T> = Result<T, Malformed>;

/// A refusal with `message`.
pub(super) fn invalid<T>(message: impl Into<String>) -> Checked<T> {
    Err(Malformed::Invalid(message.into()))
}

impl Malformed {
    /// The refusal of request number `index` (from 0) of a batch.
    pub(super) fn at(self, index: usize) -> Self {
        let prefix = |message| format!("request {} of the batch: {message}", index + 1);
        match self {
            Self::Invalid(message) => Self::Invalid(prefix(message)),
            Self::NameTooLong(message) => Self::NameTooLong(prefix(message)),
            Self::TooLong(message) => Self::TooLong(prefix(message)),
        }
    }
}

/// serde_json's messages can quote the text they choke on, which may be a
/// value: only the kind of the error and its place are passed on.
pub(super) fn json_error(error: &serde_json::Error) -> Malformed {
    use serde_json::error::Category;
    let what = match error.classify() {
        Category::Syntax | Category::Io => "invalid JSON",
        Category::Eof => "the JSON ends early",
        Category::Data => field_error(&error.to_string()),
    };
    // Where serde keeps what it has read until it knows what to make of it, there is no place.
    match (error.line(), error.column()) {
        (0, _) => Malformed::Invalid(what.into()),
        (line, column) => Malformed::Invalid(format!("{what} at line {line}, column {column}")),
    }
}

/// A message of serde's without what it quotes.
pub(super) fn field_error(message: &str) -> &'static str {
    let known = [
        ("unknown field", "an unknown field"),
        ("duplicate field", "a field given twice"),
        ("missing field `op`", "the field `op` is missing"),
        ("unknown variant", "an unknown `op` or `type`"),
        ("invalid type", "a field of the wrong type"),
    ];
    let found = known.iter().find(|(start, _)| message.starts_with(start));
    found.map_or("a field with an invalid value", |(_, what)| what)
}

/// A field that must be there.
pub(super) fn required<T>(field: &str, value: Option<T>) -> Checked<T> {
    value.map_or_else(|| invalid(format!("the field `{field}` is missing")), Ok)
}

/// The bytes behind base64 in `field`.
pub(super) fn base64_bytes(field: &str, text: &str) -> Checked<Vec<u8>> {
    STANDARD
        .decode(text)
        .or_else(|_| invalid(format!("`{field}` is not base64 (RFC 4648, padded)")))
}

/// `text` as the name of a secret.
pub(super) fn checked_name(text: &str) -> Checked<SecretName> {
    SecretName::parse(text).map_err(|error| {
        let message = error.to_string();
        match error {
            NameError::Long(_) | NameError::LongSegment(..) | NameError::TooDeep(_) => {
                Malformed::NameTooLong(message)
            }
            NameError::Empty
            | NameError::EmptySegment(_)
            | NameError::LeadingDot(_)
            | NameError::Control(..)
            | NameError::Hidden(..)
            | NameError::Blank(_)
            | NameError::NotNormal(_)
            | NameError::Reserved => Malformed::Invalid(message),
        }
    })
}

/// `value`, unless it is too long.
pub(super) fn checked_value(value: SecretBytes) -> Checked<SecretBytes> {
    if value.len() > MAX_VALUE {
        let message = format!("the value has {} bytes, at most {MAX_VALUE}", value.len());
        return Err(Malformed::TooLong(message));
    }
    Ok(value)
}

/// Checks somebody's words: printable, and not too many.
pub(super) fn text(field: &str, text: &str) -> Checked<()> {
    if text.len() > MAX_TEXT {
        let message = format!("`{field}` has {} bytes, at most {MAX_TEXT}", text.len());
        return Err(Malformed::TooLong(message));
    }
    if text.chars().any(char::is_control) {
        return invalid(format!("`{field}` has a control character in it"));
    }
    Ok(())
}

/// Somebody's words, if there are any.
pub(super) fn words(field: &str, given: Option<String>) -> Checked<Option<String>> {
    if let Some(given) = &given {
        text(field, given)?;
    }
    Ok(given)
}

/// A word of somebody's choice.
pub(super) fn word(field: &str, given: String) -> Checked<String> {
    text(field, &given)?;
    if given.is_empty() || given.len() > MAX_WORD {
        return invalid(format!("`{field}` must have 1 to {MAX_WORD} bytes"));
    }
    Ok(given)
}

//! Control requests: from bytes to something checked.
//!
//! A request is one JSON object, a JSON array of them (a batch, all or
//! nothing), or the short form of a shell: `set NAME VALUE`, `rotate NAME` ...

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jarvis_policy::Verb;
use jarvis_vault::{MAX_VALUE, SecretBytes, SecretName, SecretType};
use serde::Deserialize;
use zeroize::Zeroizing;

/// Most requests in a batch.
const MAX_BATCH: usize = 1024;
/// Length of a generated password when none is given.
const DEFAULT_LENGTH: usize = 32;

/// Something an admin asks for.
pub(crate) enum Operation {
    Set {
        name: SecretName,
        value: SecretBytes,
        kind: Option<SecretType>,
        if_kid: Option<String>,
    },
    Generate {
        name: SecretName,
        kind: SecretType,
    },
    Rotate(SecretName),
    Delete(SecretName),
    Restore(SecretName),
    Purge(SecretName),
    Reload,
    Status,
}

impl Operation {
    /// The verb the caller needs, and on which secret.
    pub(crate) fn needs(&self) -> (Verb, Option<&SecretName>) {
        match self {
            Self::Set { name, .. }
            | Self::Generate { name, .. }
            | Self::Delete(name)
            | Self::Restore(name)
            | Self::Purge(name) => (Verb::Write, Some(name)),
            Self::Rotate(name) => (Verb::Rotate, Some(name)),
            Self::Reload => (Verb::Policy, None),
            Self::Status => (Verb::List, None),
        }
    }
}

/// One operation, or several that happen together.
pub(crate) enum Parsed {
    One(Operation),
    Batch(Vec<Operation>),
}

/// Why bytes are no request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Wrong, and what and where.
    Invalid(String),
    /// A name or segment over its limit.
    NameTooLong(String),
    /// A value or batch over its limit.
    TooLong(String),
}

type Checked<T> = Result<T, Malformed>;

fn invalid<T>(message: impl Into<String>) -> Checked<T> {
    Err(Malformed::Invalid(message.into()))
}

/// Parses one write.
pub(crate) fn parse(bytes: &[u8]) -> Checked<Parsed> {
    let text = match str::from_utf8(bytes) {
        Ok(text) => text.strip_suffix('\n').unwrap_or(text),
        Err(error) => {
            return invalid(format!("byte {} is not UTF-8", error.valid_up_to() + 1));
        }
    };
    match text.trim_start().as_bytes().first() {
        None => invalid("the request is empty"),
        Some(b'{') => Ok(Parsed::One(object(text)?)),
        Some(b'[') => batch(text).map(Parsed::Batch),
        Some(_) => short(text).map(Parsed::One),
    }
}

/// A request as it stands in JSON. Fields that an operation does not take are
/// refused below, unknown and repeated ones by serde.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    op: Op,
    name: Option<String>,
    value: Option<Zeroizing<String>>,
    value_b64: Option<Zeroizing<String>>,
    #[serde(rename = "type")]
    kind: Option<Kind>,
    length: Option<usize>,
    if_kid: Option<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Op {
    Set,
    Generate,
    Rotate,
    Delete,
    Restore,
    Purge,
    Reload,
    Status,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Opaque,
    Password,
}

fn object(text: &str) -> Checked<Operation> {
    let wire: Wire = serde_json::from_str(text).map_err(json_error)?;
    wire.check()
}

fn batch(text: &str) -> Checked<Vec<Operation>> {
    let wires: Vec<Wire> = serde_json::from_str(text).map_err(json_error)?;
    if wires.is_empty() {
        return invalid("the batch is empty");
    }
    if wires.len() > MAX_BATCH {
        let message = format!(
            "the batch has {} requests, at most {MAX_BATCH}",
            wires.len()
        );
        return Err(Malformed::TooLong(message));
    }
    let operations = wires.into_iter().enumerate().map(|(index, wire)| {
        let operation = wire.check().map_err(|error| error.at(index))?;
        match operation {
            Operation::Reload | Operation::Status => {
                invalid("only changes of secrets can be in a batch").map_err(|e| e.at(index))
            }
            change => Ok(change),
        }
    });
    operations.collect()
}

impl Malformed {
    fn at(self, index: usize) -> Self {
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
fn json_error(error: serde_json::Error) -> Malformed {
    use serde_json::error::Category;
    let what = match error.classify() {
        Category::Syntax | Category::Io => "invalid JSON",
        Category::Eof => "the JSON ends early",
        Category::Data => field_error(&error.to_string()),
    };
    let (line, column) = (error.line(), error.column());
    Malformed::Invalid(format!("{what} at line {line}, column {column}"))
}

fn field_error(message: &str) -> &'static str {
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

impl Wire {
    fn check(self) -> Checked<Operation> {
        self.check_fields()?;
        match self.op {
            Op::Reload => return Ok(Operation::Reload),
            Op::Status => return Ok(Operation::Status),
            _ => {}
        }
        let name = match &self.name {
            Some(name) => checked_name(name)?,
            None => return invalid("the field `name` is missing"),
        };
        Ok(match self.op {
            Op::Set => Operation::Set {
                kind: self
                    .kind
                    .map(|kind| kind.checked(self.length))
                    .transpose()?,
                value: self.value()?,
                if_kid: self.if_kid,
                name,
            },
            Op::Generate => Operation::Generate {
                name,
                kind: self.kind.unwrap_or(Kind::Password).checked(self.length)?,
            },
            Op::Rotate => Operation::Rotate(name),
            Op::Delete => Operation::Delete(name),
            Op::Restore => Operation::Restore(name),
            Op::Purge => Operation::Purge(name),
            Op::Reload => Operation::Reload,
            Op::Status => Operation::Status,
        })
    }

    /// Refuses fields the operation would silently ignore.
    fn check_fields(&self) -> Checked<()> {
        let takes_value = self.op == Op::Set;
        let takes_type = matches!(self.op, Op::Set | Op::Generate);
        let takes_name = !matches!(self.op, Op::Reload | Op::Status);
        let given = [
            ("value", self.value.is_some(), takes_value),
            ("value_b64", self.value_b64.is_some(), takes_value),
            ("if_kid", self.if_kid.is_some(), takes_value),
            ("type", self.kind.is_some(), takes_type),
            ("length", self.length.is_some(), takes_type),
            ("name", self.name.is_some(), takes_name),
        ];
        match given.iter().find(|(_, given, takes)| *given && !takes) {
            Some((field, _, _)) => invalid(format!("this `op` takes no field `{field}`")),
            None => Ok(()),
        }
    }

    fn value(&self) -> Checked<SecretBytes> {
        let bytes = match (&self.value, &self.value_b64) {
            (Some(text), None) => text.as_bytes().to_vec(),
            (None, Some(text)) => STANDARD
                .decode(text.as_bytes())
                .or_else(|_| invalid("`value_b64` is not base64 (RFC 4648, padded)"))?,
            _ => return invalid("give exactly one of `value` and `value_b64`"),
        };
        checked_value(SecretBytes::new(bytes))
    }
}

impl Kind {
    fn checked(self, length: Option<usize>) -> Checked<SecretType> {
        match (self, length) {
            (Self::Opaque, None) => Ok(SecretType::Opaque),
            (Self::Opaque, Some(_)) => invalid("type `opaque` takes no `length`"),
            (Self::Password, length) => SecretType::password(length.unwrap_or(DEFAULT_LENGTH))
                .or_else(|error| invalid(error.to_string())),
        }
    }
}

fn checked_name(text: &str) -> Checked<SecretName> {
    use jarvis_vault::NameError;
    SecretName::parse(text).map_err(|error| {
        let message = error.to_string();
        match error {
            NameError::LongSegment(..) | NameError::TooDeep(_) => Malformed::NameTooLong(message),
            NameError::Empty
            | NameError::EmptySegment(_)
            | NameError::LeadingDot(_)
            | NameError::Control(..)
            | NameError::Reserved => Malformed::Invalid(message),
        }
    })
}

fn checked_value(value: SecretBytes) -> Checked<SecretBytes> {
    if value.len() > MAX_VALUE {
        let message = format!("the value has {} bytes, at most {MAX_VALUE}", value.len());
        return Err(Malformed::TooLong(message));
    }
    Ok(value)
}

/// `set NAME VALUE` (the value is the rest of the line), `VERB NAME`,
/// `generate NAME [TYPE [LENGTH]]`, `status`, `reload`.
fn short(text: &str) -> Checked<Operation> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    if word == "set" {
        let Some((name, value)) = rest.split_once(' ') else {
            return invalid("use: set NAME VALUE");
        };
        return Ok(Operation::Set {
            name: checked_name(name)?,
            value: checked_value(SecretBytes::new(value.as_bytes().to_vec()))?,
            kind: None,
            if_kid: None,
        });
    }
    let arguments: Vec<&str> = rest.split_ascii_whitespace().collect();
    match (word, arguments.as_slice()) {
        ("rotate", [name]) => Ok(Operation::Rotate(checked_name(name)?)),
        ("delete", [name]) => Ok(Operation::Delete(checked_name(name)?)),
        ("restore", [name]) => Ok(Operation::Restore(checked_name(name)?)),
        ("purge", [name]) => Ok(Operation::Purge(checked_name(name)?)),
        ("generate", [name, options @ ..]) => short_generate(name, options),
        ("reload", []) => Ok(Operation::Reload),
        ("status", []) => Ok(Operation::Status),
        ("rotate" | "delete" | "restore" | "purge", _) => invalid(format!("use: {word} NAME")),
        ("generate", _) => invalid("use: generate NAME [TYPE [LENGTH]]"),
        ("reload" | "status", _) => invalid(format!("`{word}` takes no arguments")),
        _ => invalid(
            "unknown request; use JSON or one of: set, generate, rotate, delete, restore, purge, reload, status",
        ),
    }
}

fn short_generate(name: &str, options: &[&str]) -> Checked<Operation> {
    let (kind, length) = match options {
        [] => ("password", None),
        [kind] => (*kind, None),
        [kind, length] => match length.parse() {
            Ok(length) => (*kind, Some(length)),
            Err(_) => return invalid("LENGTH is not a number"),
        },
        _ => return invalid("use: generate NAME [TYPE [LENGTH]]"),
    };
    let kind = match kind {
        "password" => Kind::Password,
        "opaque" => Kind::Opaque,
        _ => return invalid("TYPE is one of: password, opaque"),
    };
    Ok(Operation::Generate {
        name: checked_name(name)?,
        kind: kind.checked(length)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: &[u8]) -> String {
        match parse(bytes) {
            Ok(_) => panic!("accepted"),
            Err(Malformed::Invalid(m) | Malformed::NameTooLong(m) | Malformed::TooLong(m)) => m,
        }
    }

    fn set_value(bytes: &[u8]) -> Vec<u8> {
        match parse(bytes).unwrap_or_else(|e| panic!("{e:?}")) {
            Parsed::One(Operation::Set { value, .. }) => value.expose().to_vec(),
            _ => panic!("not a set"),
        }
    }

    #[test]
    fn values_come_in_three_ways() {
        assert_eq!(set_value(b"set a b  c\n"), b"b  c");
        assert_eq!(
            set_value(br#"{"op":"set","name":"a","value":"x\n"}"#),
            b"x\n"
        );
        assert_eq!(
            set_value(br#"{"op":"set","name":"a","value_b64":"AP8="}"#),
            b"\0\xff"
        );
    }

    #[test]
    fn refusals_say_what_and_where() {
        let cases: [(&[u8], &str); 16] = [
            (b"", "empty"),
            (b"\n", "empty"),
            (b"\xff", "byte 1 is not UTF-8"),
            (b"dance", "unknown request"),
            (b"set a", "use: set NAME VALUE"),
            (b"rotate", "use: rotate NAME"),
            (b"rotate a b", "use: rotate NAME"),
            (br#"{"op":"set","name":"a"}"#, "exactly one of"),
            (
                br#"{"op":"set","name":"a","value":"x","value_b64":""}"#,
                "exactly one of",
            ),
            (
                br#"{"op":"set","name":"a","name":"b"}"#,
                "given twice at line 1",
            ),
            (
                br#"{"op":"set","nam":"a"}"#,
                "unknown field at line 1, column",
            ),
            (
                br#"{"op":"rotate","name":"a","value":"x"}"#,
                "takes no field `value`",
            ),
            (br#"{"op":"rotate"}"#, "`name` is missing"),
            (br#"{"op":"set","name":"a","value_b64":"?"}"#, "not base64"),
            (br#"[]"#, "batch is empty"),
            (
                br#"[{"op":"rotate","name":"a"},{"op":"rotate","name":"a//b"}]"#,
                "request 2",
            ),
        ];
        for (bytes, expected) in cases {
            let text = message(bytes);
            assert!(text.contains(expected), "{text} lacks {expected}");
        }
    }

    #[test]
    fn errors_never_quote_a_value() {
        for request in [
            r#"{"op":"set","name":"a","value":{"hunter2":1}}"#,
            r#"{"op":"set","name":"a","value":"hunter2"#,
            r#"{"op":"set","name":"a","hunter2":1}"#,
            r#"{"op":"hunter2"}"#,
            r#"{"op":"set","name":"a","value_b64":"hunter2!"}"#,
            r#"{"op":"set","name":"a","value":"x","length":"hunter2"}"#,
        ] {
            let text = message(request.as_bytes());
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn limits_hold() {
        let long = "v".repeat(MAX_VALUE);
        assert_eq!(
            set_value(format!("set a {long}").as_bytes()).len(),
            MAX_VALUE
        );
        let over = parse(format!("set a {long}v").as_bytes());
        assert!(matches!(over, Err(Malformed::TooLong(_))));
        let name = "n".repeat(256);
        let over = parse(format!("rotate {name}").as_bytes());
        assert!(matches!(over, Err(Malformed::NameTooLong(_))));
        let deep = "[".repeat(100_000);
        assert!(message(deep.as_bytes()).contains("JSON"));
    }
}

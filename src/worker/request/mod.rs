//! Control requests: from bytes to something checked.
//!
//! A request is one JSON object, a JSON array of them (a batch, all or
//! nothing), or the short form of a shell: `set NAME VALUE`, `rotate NAME` ...

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jarvis_policy::Verb;
use jarvis_vault::{Credential, MAX_VALUE, SecretBytes, SecretName, SecretType, TYPES, TypeSpec};
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

pub(crate) mod lifecycle;

use crate::common::strict_json::Strict;
pub(crate) use lifecycle::{Configure, Life, MAX_CONSUMERS};

/// Most requests in a batch.
const MAX_BATCH: usize = 1024;

/// A change an admin asks for.
pub(crate) enum Operation {
    Set {
        name: SecretName,
        value: SecretBytes,
        kind: Option<SecretType>,
        if_kid: Option<String>,
        cached: Option<bool>,
    },
    Generate {
        name: SecretName,
        kind: SecretType,
    },
    Rotate(SecretName),
    Delete(SecretName),
    Restore(SecretName),
    Purge(SecretName),
    Life(Life),
    KeyAdd(Credential),
    KeyRemove(u8),
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
            Self::Life(life) => life.needs(),
            Self::KeyAdd(_) | Self::KeyRemove(_) => (Verb::Key, None),
        }
    }
}

/// Something an admin asks that changes no secret.
pub(crate) enum Question {
    Status,
    Reload,
    KeyList,
    /// All that is kept of a secret, sealed for somebody.
    HistoryExport {
        name: SecretName,
        credential: Credential,
    },
    /// How far the audit log has come, signed.
    Checkpoint,
    /// End the audit log's segment.
    AuditRotate,
    /// The versions of a secret and its settings.
    Versions(SecretName),
    /// How two versions differ, without showing them.
    Diff {
        name: SecretName,
        from: u32,
        to: u32,
    },
    /// What is to be rotated when.
    Schedule,
    /// Every revocation there was.
    Revocations,
    /// One of them.
    Revocation(u64),
    /// What the policy in force says of somebody.
    Explain {
        name: SecretName,
        verb: Verb,
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
    },
}

impl Question {
    /// The verb the caller needs; none for what every manager may ask.
    pub(crate) fn needs(&self) -> Option<Verb> {
        match self {
            // These are decided by secret.
            Self::Status
            | Self::Versions(_)
            | Self::Diff { .. }
            | Self::HistoryExport { .. }
            | Self::Schedule
            | Self::Revocations
            | Self::Revocation(_) => None,
            Self::Reload | Self::Explain { .. } => Some(Verb::Policy),
            Self::KeyList => Some(Verb::Key),
            Self::Checkpoint | Self::AuditRotate => Some(Verb::Audit),
        }
    }
}

/// One change, several that happen together, or a question.
pub(crate) enum Parsed {
    One(Operation),
    Batch(Vec<Operation>),
    Ask(Question),
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
        Some(b'{') => object(text),
        Some(b'[') => batch(text).map(Parsed::Batch),
        Some(_) => short(text),
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
    kind: Option<String>,
    length: Option<usize>,
    options: Option<Strict>,
    if_kid: Option<String>,
    allow_cached_reads: Option<bool>,
    passphrase: Option<Zeroizing<String>>,
    key_b64: Option<Zeroizing<String>>,
    slot: Option<u8>,
    verb: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    groups: Option<Vec<u32>>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Op {
    Set,
    Generate,
    Rotate,
    Delete,
    Restore,
    Purge,
    KeyAdd,
    KeyRemove,
    KeyList,
    HistoryExport,
    Checkpoint,
    AuditRotate,
    Reload,
    Status,
    Explain,
}

fn object(text: &str) -> Checked<Parsed> {
    if let Some(parsed) = lifecycle::parse(text) {
        return parsed;
    }
    let wire: Wire = serde_json::from_str(text).map_err(|e| json_error(&e))?;
    wire.check()
}

fn batch(text: &str) -> Checked<Vec<Operation>> {
    let wires: Vec<Wire> = serde_json::from_str(text).map_err(|e| json_error(&e))?;
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
        let parsed = wire.check().map_err(|error| error.at(index))?;
        match parsed {
            Parsed::One(operation) => Ok(operation),
            Parsed::Batch(_) | Parsed::Ask(_) => {
                invalid("only changes can be in a batch").map_err(|e| e.at(index))
            }
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
fn json_error(error: &serde_json::Error) -> Malformed {
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
    fn check(self) -> Checked<Parsed> {
        self.check_fields()?;
        let operation = match self.op {
            Op::Reload => return Ok(Parsed::Ask(Question::Reload)),
            Op::Status => return Ok(Parsed::Ask(Question::Status)),
            Op::KeyList => return Ok(Parsed::Ask(Question::KeyList)),
            Op::Checkpoint => return Ok(Parsed::Ask(Question::Checkpoint)),
            Op::AuditRotate => return Ok(Parsed::Ask(Question::AuditRotate)),
            Op::Explain => return self.explain().map(Parsed::Ask),
            Op::HistoryExport => {
                return Ok(Parsed::Ask(Question::HistoryExport {
                    credential: self.credential()?,
                    name: self.name()?,
                }));
            }
            Op::Set => Operation::Set {
                kind: self.kind()?,
                value: self.value()?,
                name: self.name()?,
                if_kid: self.if_kid,
                cached: self.allow_cached_reads,
            },
            Op::Generate => Operation::Generate {
                name: self.name()?,
                kind: match self.kind()? {
                    Some(kind) => kind,
                    None => secret_type("password", self.length, None)?,
                },
            },
            Op::Rotate => Operation::Rotate(self.name()?),
            Op::Delete => Operation::Delete(self.name()?),
            Op::Restore => Operation::Restore(self.name()?),
            Op::Purge => Operation::Purge(self.name()?),
            Op::KeyAdd => Operation::KeyAdd(self.credential()?),
            Op::KeyRemove => Operation::KeyRemove(required("slot", self.slot)?),
        };
        Ok(Parsed::One(operation))
    }

    /// Refuses fields the operation would silently ignore.
    fn check_fields(&self) -> Checked<()> {
        let op = self.op;
        let named = !matches!(
            op,
            Op::Reload
                | Op::Status
                | Op::KeyAdd
                | Op::KeyRemove
                | Op::KeyList
                | Op::Checkpoint
                | Op::AuditRotate
        );
        let typed = matches!(op, Op::Set | Op::Generate);
        let opens = matches!(op, Op::KeyAdd | Op::HistoryExport);
        let given = [
            ("value", self.value.is_some(), op == Op::Set),
            ("value_b64", self.value_b64.is_some(), op == Op::Set),
            ("if_kid", self.if_kid.is_some(), op == Op::Set),
            (
                "allow_cached_reads",
                self.allow_cached_reads.is_some(),
                op == Op::Set,
            ),
            ("type", self.kind.is_some(), typed),
            ("length", self.length.is_some(), typed),
            ("options", self.options.is_some(), typed),
            ("name", self.name.is_some(), named),
            ("passphrase", self.passphrase.is_some(), opens),
            ("key_b64", self.key_b64.is_some(), opens),
            ("slot", self.slot.is_some(), op == Op::KeyRemove),
            ("verb", self.verb.is_some(), op == Op::Explain),
            ("uid", self.uid.is_some(), op == Op::Explain),
            ("gid", self.gid.is_some(), op == Op::Explain),
            ("groups", self.groups.is_some(), op == Op::Explain),
        ];
        match given.iter().find(|(_, given, takes)| *given && !takes) {
            Some((field, _, _)) => invalid(format!("this `op` takes no field `{field}`")),
            None => Ok(()),
        }
    }

    fn kind(&self) -> Checked<Option<SecretType>> {
        let options = match &self.options {
            None => None,
            Some(Strict(Value::Object(options))) => Some(options.clone()),
            Some(_) => return invalid("`options` is no JSON object"),
        };
        match (&self.kind, options) {
            (Some(kind), options) => secret_type(kind, self.length, options).map(Some),
            (None, Some(_)) => invalid("`options` are those of a `type`"),
            (None, None) => Ok(None),
        }
    }

    fn name(&self) -> Checked<SecretName> {
        checked_name(required("name", self.name.as_deref())?)
    }

    fn explain(self) -> Checked<Question> {
        let verb = self.verb.as_deref().unwrap_or("read");
        Ok(Question::Explain {
            name: self.name()?,
            verb: verb.parse().or_else(|()| invalid("`verb` is no verb"))?,
            uid: required("uid", self.uid)?,
            gid: required("gid", self.gid)?,
            groups: self.groups.unwrap_or_default(),
        })
    }

    fn credential(&self) -> Checked<Credential> {
        match (&self.passphrase, &self.key_b64) {
            (Some(text), None) => {
                let bytes = text.as_bytes().to_vec();
                Ok(Credential::Passphrase(SecretBytes::new(bytes)))
            }
            (None, Some(text)) => {
                let bytes = base64_bytes("key_b64", text)?;
                Ok(Credential::KeyFile(SecretBytes::new(bytes)))
            }
            _ => invalid("give exactly one of `passphrase` and `key_b64`"),
        }
    }

    fn value(&self) -> Checked<SecretBytes> {
        let bytes = match (&self.value, &self.value_b64) {
            (Some(text), None) => text.as_bytes().to_vec(),
            (None, Some(text)) => base64_bytes("value_b64", text)?,
            _ => return invalid("give exactly one of `value` and `value_b64`"),
        };
        checked_value(SecretBytes::new(bytes))
    }
}

/// A type by its word, with options; `length` is one that several types have.
fn secret_type(
    kind: &str,
    length: Option<usize>,
    options: Option<Map<String, Value>>,
) -> Checked<SecretType> {
    let mut spec = options.unwrap_or_default();
    if let Some(length) = length {
        spec.insert("length".into(), length.into());
    }
    if spec.insert("type".into(), kind.into()).is_some() {
        return invalid("`type` is no option");
    }
    let spec: TypeSpec = serde_json::from_value(Value::Object(spec)).or_else(|error| {
        let what = match error.to_string() {
            text if text.starts_with("unknown variant") && !known(kind) => {
                return invalid("an unknown `type`; see: jarvisctl types");
            }
            text => field_error(&text),
        };
        invalid(format!("type `{kind}`: {what} among its options"))
    })?;
    spec.check()
        .or_else(|error| invalid(format!("type `{kind}`: {error}")))
}

fn known(kind: &str) -> bool {
    TYPES.iter().any(|(word, ..)| *word == kind)
}

fn required<T>(field: &str, value: Option<T>) -> Checked<T> {
    value.map_or_else(|| invalid(format!("the field `{field}` is missing")), Ok)
}

fn base64_bytes(field: &str, text: &str) -> Checked<Vec<u8>> {
    STANDARD
        .decode(text)
        .or_else(|_| invalid(format!("`{field}` is not base64 (RFC 4648, padded)")))
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
fn short(text: &str) -> Checked<Parsed> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let arguments: Vec<&str> = rest.split_ascii_whitespace().collect();
    let operation = match (word, arguments.as_slice()) {
        ("set", _) => short_set(rest)?,
        ("rotate", [name]) => Operation::Rotate(checked_name(name)?),
        ("delete", [name]) => Operation::Delete(checked_name(name)?),
        ("restore", [name]) => Operation::Restore(checked_name(name)?),
        ("purge", [name]) => Operation::Purge(checked_name(name)?),
        ("generate", [name, options @ ..]) => short_generate(name, options)?,
        ("reload", []) => return Ok(Parsed::Ask(Question::Reload)),
        ("status", []) => return Ok(Parsed::Ask(Question::Status)),
        ("rotate" | "delete" | "restore" | "purge", _) => {
            return invalid(format!("use: {word} NAME"));
        }
        ("generate", _) => return invalid("use: generate NAME [TYPE [LENGTH]]"),
        ("reload" | "status", _) => return invalid(format!("`{word}` takes no arguments")),
        _ => {
            return invalid(
                "unknown request; use JSON or one of: set, generate, rotate, delete, restore, \
                 purge, reload, status",
            );
        }
    };
    Ok(Parsed::One(operation))
}

fn short_set(rest: &str) -> Checked<Operation> {
    let Some((name, value)) = rest.split_once(' ') else {
        return invalid("use: set NAME VALUE");
    };
    Ok(Operation::Set {
        name: checked_name(name)?,
        value: checked_value(SecretBytes::new(value.as_bytes().to_vec()))?,
        kind: None,
        if_kid: None,
        cached: None,
    })
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
    Ok(Operation::Generate {
        name: checked_name(name)?,
        kind: secret_type(kind, length, None)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        let cases: [(&[u8], &str); 22] = [
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
                br#"{"op":"generate","name":"a","type":"json","options":{"template":{"b":1,"b":2}}}"#,
                "given twice at line 1",
            ),
            (
                br#"{"op":"generate","name":"a","type":"json","options":[]}"#,
                "no JSON object",
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
            (br#"{"op":"key_add","name":"a"}"#, "takes no field `name`"),
            (br#"{"op":"key_add"}"#, "exactly one of `passphrase`"),
            (
                br#"{"op":"explain","name":"a","uid":1}"#,
                "`gid` is missing",
            ),
            (br#"[{"op":"status"}]"#, "only changes"),
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
            r#"{"op":"key_add","key_b64":"hunter2!"}"#,
            r#"{"op":"key_add","passphrase":["hunter2"]}"#,
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

    /// Requests as they are, with a byte or a piece changed.
    fn nearly_a_request() -> impl Strategy<Value = Vec<u8>> {
        let seeds = prop::sample::select(vec![
            r#"{"op":"set","name":"a/b","value":"v","type":"password","length":20,"if_kid":"none"}"#,
            r#"[{"op":"rotate","name":"a"},{"op":"delete","name":"b"}]"#,
            r#"{"op":"explain","name":"a","verb":"read","uid":1,"gid":2,"groups":[3,4]}"#,
            "generate a/b password 64",
            "set a b c",
        ]);
        (
            seeds,
            any::<prop::sample::Index>(),
            prop::collection::vec(any::<u8>(), 0..4),
        )
            .prop_map(|(seed, at, piece)| {
                let mut bytes = seed.as_bytes().to_vec();
                let at = at.index(bytes.len());
                bytes.splice(at..(at + piece.len() / 2).min(seed.len()), piece);
                bytes
            })
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn what_parses_is_within_bounds(bytes in nearly_a_request()) {
            if let Ok(Parsed::One(operation)) = parse(&bytes)
                && let (_, Some(name)) = operation.needs()
            {
                prop_assert!(SecretName::parse(name.as_str()).is_ok());
            }
        }
    }
}

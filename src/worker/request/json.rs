//! Requests as JSON: an object, or an array of them.

use jarvis_policy::Verb;
use jarvis_vault::{Credential, SecretBytes, SecretName, SecretType};
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::checks::{
    Checked, Malformed, base64_bytes, checked_name, checked_value, invalid, json_error, required,
};
use super::lifecycle;
use super::operation::{Operation, Parsed, Question};
use super::secret_type::secret_type;
use crate::common::strict_json::Strict;

/// Most requests in a batch.
const MAX_BATCH: usize = 1024;

/// A request as it stands in JSON. Fields that an operation does not take are
/// refused below, unknown and repeated ones by serde.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestFields {
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
    force: Option<bool>,
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

/// One request.
pub(super) fn object(text: &str) -> Checked<Parsed> {
    if let Some(parsed) = lifecycle::parse(text) {
        return parsed;
    }
    let wire: RequestFields = serde_json::from_str(text).map_err(|e| json_error(&e))?;
    wire.check()
}

/// Several changes that happen together.
pub(super) fn batch(text: &str) -> Checked<Vec<Operation>> {
    let wires: Vec<RequestFields> = serde_json::from_str(text).map_err(|e| json_error(&e))?;
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

fn no_verb(text: &str) -> String {
    let verbs: Vec<_> = Verb::ALL.iter().map(|verb| verb.as_str()).collect();
    format!("{text:?} is no verb; the verbs are {}", verbs.join(", "))
}

impl RequestFields {
    fn check(self) -> Checked<Parsed> {
        self.check_fields()?;
        let operation = match self.op {
            Op::Reload => {
                let force = self.force.unwrap_or_default();
                return Ok(Parsed::Ask(Question::Reload { force }));
            }
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
                if_kid: self.if_kid,
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
            ("if_kid", self.if_kid.is_some(), typed),
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
            ("force", self.force.is_some(), op == Op::Reload),
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
            verb: verb.parse().or_else(|_| invalid(no_verb(verb)))?,
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

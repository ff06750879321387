//! Requests in the short form of a shell.
//!
//! A shell may write a line in pieces, so no piece of a `set` may be one: the value has
//! quotes around it.

use jarvis_vault::SecretBytes;
use zeroize::Zeroizing;

use super::checks::{Checked, checked_name, checked_value, invalid};
use super::operation::{Operation, Parsed, Question};
use super::secret_type::secret_type;

/// Advice to who gives the value of a `set` in another way.
const USE_OF_SET: &str = "use: set NAME \"VALUE\", with VALUE as in JSON (line breaks as \\n); \
                          or give any value to `jarvisctl set NAME` on standard input";

/// `set NAME "VALUE"` (a JSON string), `VERB NAME`, `generate NAME [TYPE [LENGTH]]`,
/// `status`, `reload`. One blank stands between two words; more are refused, as a name
/// with blanks at its ends is.
pub(super) fn short(text: &str) -> Checked<Parsed> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let arguments: Vec<&str> = text.split(' ').skip(1).collect();
    let operation = match (word, arguments.as_slice()) {
        ("set", _) => short_set(rest)?,
        ("rotate", [name]) => Operation::Rotate(checked_name(name)?),
        ("delete", [name]) => Operation::Delete(checked_name(name)?),
        ("restore", [name]) => Operation::Restore(checked_name(name)?),
        ("purge", [name]) => Operation::Purge(checked_name(name)?),
        ("generate", [name, options @ ..]) => short_generate(name, options)?,
        ("reload", []) => return Ok(Parsed::Ask(Question::Reload { force: false })),
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
        return invalid(USE_OF_SET);
    };
    // JSON would let blanks and line breaks stand around it.
    if !(value.starts_with('"') && value.ends_with('"')) {
        return invalid(USE_OF_SET);
    }
    let Ok(value) = serde_json::from_str::<Zeroizing<String>>(value) else {
        return invalid(USE_OF_SET);
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
        if_kid: None,
    })
}

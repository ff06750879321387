//! JSON with generated fields.
//!
//! The text is written piece by piece: no tree of it ever holds a generated
//! value, for nothing would wipe it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::VaultError;
use crate::kind::{SecretType, Spec};
use crate::secret::SecretBytes;

/// What stands for a generated text.
const MARK: &str = "$generate";
/// What stands for the next one of some texts.
const TURN: &str = "$alternate";
/// Most generated fields.
const MAX_FIELDS: usize = 64;
/// Most texts that take turns, and the longest of them in bytes.
const MAX_TURNS: usize = 16;
const MAX_TEXT: usize = 256;

fn wrong<T>(rule: &str) -> Result<T, VaultError> {
    Err(VaultError::Option {
        option: "template",
        rule: rule.into(),
    })
}

/// The types of the generated fields, in their order.
fn fields(template: &Value, found: &mut Vec<SecretType>) -> Result<(), VaultError> {
    if let Some(kind) = marked(template)? {
        if found.len() == MAX_FIELDS {
            return wrong("must have at most 64 generated fields");
        }
        found.push(kind);
        return Ok(());
    }
    if turns(template)?.is_some() {
        return Ok(());
    }
    match template {
        Value::Array(values) => values.iter().try_for_each(|v| fields(v, found)),
        Value::Object(map) => map.values().try_for_each(|v| fields(v, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

/// The type that `value` stands for, if it is marked.
fn marked(value: &Value) -> Result<Option<SecretType>, VaultError> {
    let Some(spec) = value.as_object().and_then(|map| map.get(MARK)) else {
        return Ok(None);
    };
    if value.as_object().is_some_and(|map| map.len() > 1) {
        return wrong("has fields beside `$generate`");
    }
    let Ok(spec) = Spec::deserialize(spec) else {
        return wrong("has a `$generate` with an unknown type or option");
    };
    match spec.check()? {
        SecretType::Opaque | SecretType::Ed25519 | SecretType::Json { .. } => {
            wrong("may generate password, api_key, random, uuid and jwt only")
        }
        SecretType::Random {
            encoding: crate::kind::Encoding::Raw,
            ..
        } => wrong("must write random bytes as base64 or hex"),
        kind => Ok(Some(kind)),
    }
}

/// The texts that take turns in `value`, if it is marked so.
fn turns(value: &Value) -> Result<Option<Vec<&str>>, VaultError> {
    let Some(texts) = value.as_object().and_then(|map| map.get(TURN)) else {
        return Ok(None);
    };
    let found: Vec<_> = texts
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter(|text| text.len() <= MAX_TEXT)
        .collect();
    let distinct: BTreeSet<_> = found.iter().collect();
    let whole = texts
        .as_array()
        .is_some_and(|texts| texts.len() == found.len());
    let alone = value.as_object().is_some_and(|map| map.len() == 1);
    let fit = (2..=MAX_TURNS).contains(&found.len()) && distinct.len() == found.len();
    match whole && alone && fit {
        true => Ok(Some(found)),
        false => wrong("has an `$alternate` that is not a list of 2 to 16 different texts"),
    }
}

/// # Errors
/// [`VaultError::Option`] says what is wrong with it.
pub(crate) fn check(template: &Value) -> Result<(), VaultError> {
    if !template.is_object() {
        return wrong("must be a JSON object");
    }
    let mut found = Vec::new();
    fields(template, &mut found)?;
    match found.is_empty() {
        true => wrong("has no `$generate` field; use type `opaque`"),
        false => Ok(()),
    }
}

/// The text with new fields; of texts that take turns, the one after that in `old`.
///
/// # Errors
/// [`VaultError::Option`] for a template that was not checked.
pub(super) fn fill(template: &str, old: Option<&[u8]>) -> Result<SecretBytes, VaultError> {
    let Ok(template) = serde_json::from_str::<Value>(template) else {
        return wrong("is no JSON");
    };
    let mut kinds = Vec::new();
    fields(&template, &mut kinds)?;
    let made = kinds.iter().map(|kind| kind.generate(None));
    let made: Vec<_> = made.collect::<Result<_, _>>()?;
    let made: Vec<_> = made.into_iter().flatten().collect();
    // Growing would leave copies behind; of generated texts none is escaped to
    // more than six times its length.
    let room = template.to_string().len() + made.iter().map(|v| 6 * v.len() + 2).sum::<usize>();
    let mut out = Vec::with_capacity(room);
    // Borrowed from the old value: no copy of it is left behind.
    let old = old.and_then(|old| serde_json::from_slice::<&RawValue>(old).ok());
    write(&template, old, &mut made.iter(), &mut out)?;
    Ok(SecretBytes::new(out))
}

fn write<'m>(
    template: &Value,
    old: Option<&RawValue>,
    made: &mut impl Iterator<Item = &'m SecretBytes>,
    out: &mut Vec<u8>,
) -> Result<(), VaultError> {
    if marked(template)?.is_some() {
        let text = made.next().and_then(|m| str::from_utf8(m.expose()).ok());
        return put(text.unwrap_or_default(), out);
    }
    if let Some(turns) = turns(template)? {
        return put(next(&turns, old), out);
    }
    match template {
        Value::Array(values) => {
            out.push(b'[');
            let olds: Vec<&RawValue> = parsed(old).unwrap_or_default();
            for (n, value) in values.iter().enumerate() {
                separate(n, out);
                write(value, olds.get(n).copied(), made, out)?;
            }
            out.push(b']');
            Ok(())
        }
        Value::Object(map) => {
            out.push(b'{');
            let olds: BTreeMap<Cow<'_, str>, &RawValue> = parsed(old).unwrap_or_default();
            for (n, (key, value)) in map.iter().enumerate() {
                separate(n, out);
                put(key, out)?;
                out.push(b':');
                write(value, olds.get(key.as_str()).copied(), made, out)?;
            }
            out.push(b'}');
            Ok(())
        }
        plain => put(plain, out),
    }
}

fn parsed<'o, T: Deserialize<'o>>(old: Option<&'o RawValue>) -> Option<T> {
    serde_json::from_str(old?.get()).ok()
}

/// Whose turn it is.
fn next<'t>(turns: &[&'t str], old: Option<&RawValue>) -> &'t str {
    let old: Option<Cow<'_, str>> = parsed(old);
    let last = old.and_then(|old| turns.iter().position(|turn| *turn == old));
    let at = last.map_or(0, |last| (last + 1) % turns.len());
    turns.get(at).copied().unwrap_or_default()
}

fn separate(n: usize, out: &mut Vec<u8>) {
    if n > 0 {
        out.push(b',');
    }
}

fn put(value: &(impl serde::Serialize + ?Sized), out: &mut Vec<u8>) -> Result<(), VaultError> {
    serde_json::to_writer(out, value).or_else(|_| wrong("cannot be written"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn filled(template: &Value) -> Value {
        check(template).unwrap();
        let text = fill(&template.to_string(), None).unwrap();
        serde_json::from_slice(text.expose()).unwrap()
    }

    #[test]
    fn marked_fields_are_new_and_others_stay() {
        let template = json!({
            "user": "app\"\n", "n": [1, null, true, {"key": {"$generate": {"type": "uuid"}}}],
            "password": {"$generate": {"type": "password", "length": 40}},
            "token": {"$generate": {"type": "random", "bytes": 16, "encoding": "hex"}},
        });
        let (first, second) = (filled(&template), filled(&template));
        for value in [&first, &second] {
            assert_eq!(value["user"], template["user"]);
            assert_eq!(
                value["n"].as_array().unwrap()[..3],
                [json!(1), json!(null), json!(true)]
            );
            assert_eq!(value["password"].as_str().unwrap().len(), 40);
            assert_eq!(value["token"].as_str().unwrap().len(), 32);
        }
        assert_ne!(first["password"], second["password"]);
        assert_ne!(first["n"][3]["key"], second["n"][3]["key"]);
    }

    #[test]
    fn texts_take_turns() {
        let template = json!({
            "in": [{"user": {"$alternate": ["a", "b", "c"]}}],
            "password": {"$generate": {"type": "password"}},
        });
        check(&template).unwrap();
        let template = template.to_string();
        let mut old: Option<Vec<u8>> = None;
        for user in ["a", "b", "c", "a"] {
            let new = fill(&template, old.as_deref()).unwrap().expose().to_vec();
            let value: Value = serde_json::from_slice(&new).unwrap();
            assert_eq!(value["in"][0]["user"], user);
            old = Some(new);
        }
        for odd in [
            &b"no json"[..],
            b"[1]",
            br#"{"in":[{"user":"z"}]}"#,
            br#"{"in":{}}"#,
        ] {
            let new = fill(&template, Some(odd)).unwrap();
            let value: Value = serde_json::from_slice(new.expose()).unwrap();
            assert_eq!(value["in"][0]["user"], "a");
        }
    }

    #[test]
    fn what_cannot_be_filled_is_refused() {
        let nested = |kind: Value| json!({"a": {"$generate": kind}});
        for template in [
            json!([1]),
            json!({"a": 1}),
            nested(json!({"type": "json", "template": {}})),
            nested(json!({"type": "ed25519"})),
            nested(json!({"type": "opaque"})),
            nested(json!({"type": "random", "encoding": "raw"})),
            nested(json!({"type": "password", "length": 3})),
            nested(json!({"type": "other"})),
            nested(json!("uuid")),
            json!({"a": {"$generate": {"type": "uuid"}, "b": 1}}),
            json!({"a": {"$generate": {"type": "uuid"}}, "b": {"$alternate": ["x"]}}),
            json!({"a": {"$generate": {"type": "uuid"}}, "b": {"$alternate": ["x", "x"]}}),
            json!({"a": {"$generate": {"type": "uuid"}}, "b": {"$alternate": ["x", 1]}}),
            json!({"b": {"$alternate": ["x", "y"]}}),
            json!({"a": vec![json!({"$generate": {"type": "uuid"}}); 65]}),
        ] {
            assert!(check(&template).is_err(), "{template}");
        }
    }
}

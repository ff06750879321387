//! JSON with generated fields.
//!
//! The text is written piece by piece: no tree of it ever holds a generated
//! value, for nothing would wipe it.

use serde::Deserialize;
use serde_json::Value;

use crate::error::VaultError;
use crate::kind::{SecretType, Spec};
use crate::secret::SecretBytes;

/// What stands for a generated text.
const MARK: &str = "$generate";
/// Most generated fields.
const MAX_FIELDS: usize = 64;

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

/// The text with new fields.
///
/// # Errors
/// [`VaultError::Option`] for a template that was not checked.
pub(super) fn fill(template: &str) -> Result<SecretBytes, VaultError> {
    let Ok(template) = serde_json::from_str::<Value>(template) else {
        return wrong("is no JSON");
    };
    let mut kinds = Vec::new();
    fields(&template, &mut kinds)?;
    let made = kinds.iter().map(SecretType::generate);
    let made: Vec<_> = made.collect::<Result<_, _>>()?;
    let made: Vec<_> = made.into_iter().flatten().collect();
    // Growing would leave copies behind; of generated texts none is escaped to
    // more than six times its length.
    let room = template.to_string().len() + made.iter().map(|v| 6 * v.len() + 2).sum::<usize>();
    let mut out = Vec::with_capacity(room);
    write(&template, &mut made.iter(), &mut out)?;
    Ok(SecretBytes::new(out))
}

fn write<'m>(
    template: &Value,
    made: &mut impl Iterator<Item = &'m SecretBytes>,
    out: &mut Vec<u8>,
) -> Result<(), VaultError> {
    if marked(template)?.is_some() {
        let text = made.next().and_then(|m| str::from_utf8(m.expose()).ok());
        return put(text.unwrap_or_default(), out);
    }
    match template {
        Value::Array(values) => {
            out.push(b'[');
            for (n, value) in values.iter().enumerate() {
                separate(n, out);
                write(value, made, out)?;
            }
            out.push(b']');
            Ok(())
        }
        Value::Object(map) => {
            out.push(b'{');
            for (n, (key, value)) in map.iter().enumerate() {
                separate(n, out);
                put(key, out)?;
                out.push(b':');
                write(value, made, out)?;
            }
            out.push(b'}');
            Ok(())
        }
        plain => put(plain, out),
    }
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
        let text = fill(&template.to_string()).unwrap();
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
            json!({"a": vec![json!({"$generate": {"type": "uuid"}}); 65]}),
        ] {
            assert!(check(&template).is_err(), "{template}");
        }
    }
}

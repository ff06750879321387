//! JSON with generated fields.
//!
//! The text is written piece by piece: no tree of it ever holds a generated
//! value, for nothing would wipe it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::spec::{alternates, generated_fields, generated_type, wrong_template};
use crate::error::VaultError;
use crate::kind::SecretType;
use crate::secret::SecretBytes;

/// The text of `template` with fields that `generate` makes; of texts that take
/// turns, the one after that in `old`.
///
/// # Errors
/// [`VaultError::Option`] for a template that was not checked.
pub(super) fn fill(
    template: &str,
    old: Option<&[u8]>,
    generate: impl Fn(&SecretType) -> Result<Option<SecretBytes>, VaultError>,
) -> Result<SecretBytes, VaultError> {
    let Ok(template) = serde_json::from_str::<Value>(template) else {
        return wrong_template("is no JSON");
    };
    let mut kinds = Vec::new();
    generated_fields(&template, &mut kinds)?;
    let made = kinds.iter().map(generate);
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

/// Work that a new text of `template` takes.
pub(super) fn work(template: &str) -> u64 {
    let mut kinds = Vec::new();
    let parsed = serde_json::from_str::<Value>(template);
    // What is refused later takes no work.
    if let Ok(parsed) = parsed {
        generated_fields(&parsed, &mut kinds).ok();
    }
    let fields: u64 = kinds.iter().map(SecretType::work).sum();
    fields + template.len() as u64 / 16
}

fn write<'m>(
    template: &Value,
    old: Option<&RawValue>,
    made: &mut impl Iterator<Item = &'m SecretBytes>,
    out: &mut Vec<u8>,
) -> Result<(), VaultError> {
    if generated_type(template)?.is_some() {
        let text = made.next().and_then(|m| str::from_utf8(m.expose()).ok());
        return put(text.unwrap_or_default(), out);
    }
    if let Some(texts) = alternates(template)? {
        return put(next_text(&texts, old), out);
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

/// The text of `texts` after the one in `old`, or the first one.
fn next_text<'t>(texts: &[&'t str], old: Option<&RawValue>) -> &'t str {
    let old: Option<Cow<'_, str>> = parsed(old);
    let last = old.and_then(|old| texts.iter().position(|text| *text == old));
    let at = last.map_or(0, |last| (last + 1) % texts.len());
    texts.get(at).copied().unwrap_or_default()
}

fn separate(n: usize, out: &mut Vec<u8>) {
    if n > 0 {
        out.push(b',');
    }
}

fn put(value: &(impl serde::Serialize + ?Sized), out: &mut Vec<u8>) -> Result<(), VaultError> {
    serde_json::to_writer(out, value).or_else(|_| wrong_template("cannot be written"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::spec::TypeSpec;
    use serde_json::json;

    fn filled(template: &Value) -> Value {
        let kind: TypeSpec =
            serde_json::from_value(json!({"type": "json", "template": template})).unwrap();
        let text = kind.check().unwrap().generate(None).unwrap().unwrap();
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
        let template = template.to_string();
        let mut old: Option<Vec<u8>> = None;
        for user in ["a", "b", "c", "a"] {
            let new = fill(&template, old.as_deref(), |kind| kind.generate(None))
                .unwrap()
                .expose()
                .to_vec();
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
            let new = fill(&template, Some(odd), |kind| kind.generate(None)).unwrap();
            let value: Value = serde_json::from_slice(new.expose()).unwrap();
            assert_eq!(value["in"][0]["user"], "a");
        }
    }
}

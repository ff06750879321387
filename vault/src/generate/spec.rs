//! Types as somebody asks for them: which options there are, and their limits.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde_json::Value;

use crate::error::VaultError;
use crate::kind::{ByteEncoding, CharacterClass, JwtAlgorithm, SecretType};

/// Characters of a password.
const PASSWORD_CHARACTERS: RangeInclusive<usize> = 8..=4096;
/// Characters of a password when no length is given.
const DEFAULT_PASSWORD_CHARACTERS: usize = 32;
/// Characters of an API key, its prefix apart.
const API_KEY_CHARACTERS: RangeInclusive<usize> = 16..=1024;
/// Characters of an API key when no length is given.
const DEFAULT_API_KEY_CHARACTERS: usize = 40;
/// Longest prefix of an API key in bytes.
const MAX_PREFIX_BYTES: usize = 32;
/// Bytes of a random value, before they are written as text.
const RANDOM_BYTES: RangeInclusive<usize> = 8..=65_536;
/// Bytes of a random value when no number is given.
const DEFAULT_RANDOM_BYTES: usize = 32;
/// Longest template in bytes.
const MAX_TEMPLATE_BYTES: usize = 16 * 1024;
/// Least entropy of a generated password in bits.
const MIN_PASSWORD_BITS: f64 = 48.0;
/// Characters that one is taken for another.
const AMBIGUOUS: &str = "0O1lI|";

/// The field that stands for a generated text.
const GENERATE_FIELD: &str = "$generate";
/// The field that stands for the next one of some texts.
const ALTERNATE_FIELD: &str = "$alternate";
/// Most generated fields of a template.
const MAX_FIELDS: usize = 64;
/// Most texts that take turns.
const MAX_ALTERNATES: usize = 16;
/// Longest of the texts that take turns, in bytes.
const MAX_ALTERNATE_BYTES: usize = 256;

/// A type with its options, as somebody asks for it.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[expect(missing_docs, reason = "the options of SecretType")]
pub enum TypeSpec {
    Opaque {},
    Password {
        length: Option<usize>,
        alphabet: Option<String>,
        classes: Option<Vec<CharacterClass>>,
        #[serde(default)]
        no_ambiguous: bool,
    },
    ApiKey {
        prefix: Option<String>,
        length: Option<usize>,
    },
    Random {
        bytes: Option<usize>,
        encoding: Option<ByteEncoding>,
    },
    Uuid {},
    Jwt {
        algorithm: Option<JwtAlgorithm>,
    },
    Ed25519 {},
    Json {
        template: Value,
    },
}

/// The types: word, options, what comes of it.
pub const TYPES: [(&str, &str, &str); 8] = [
    ("opaque", "", "bytes from outside; rotated only by `set`"),
    (
        "password",
        "length (8 to 4096, default 32), alphabet, classes (lower, upper, digit, symbol), no_ambiguous",
        "characters; letters and digits by default",
    ),
    (
        "api_key",
        "prefix (at most 32), length (16 to 1024, default 40)",
        "the prefix, then letters and digits",
    ),
    (
        "random",
        "bytes (8 to 65536, default 32), encoding (base64, hex, raw; default base64)",
        "random bytes",
    ),
    ("uuid", "", "a random UUID (version 4)"),
    (
        "jwt",
        "algorithm (HS256, HS384, HS512; default HS256)",
        "a shared key for JSON Web Tokens, base64url",
    ),
    (
        "ed25519",
        "",
        "a key pair: private key as PKCS#8 PEM, public key as the secret NAME.pub",
    ),
    (
        "json",
        "template: JSON in which {\"$generate\": {\"type\": ...}} stands for a generated text, and \
         {\"$alternate\": [\"a\", \"b\"]} for the next one of some",
        "the template with new fields",
    ),
];

impl TypeSpec {
    /// The type, once its options are checked.
    ///
    /// # Errors
    /// [`VaultError::Option`].
    pub fn check(self) -> Result<SecretType, VaultError> {
        match self {
            Self::Opaque {} => Ok(SecretType::Opaque),
            Self::Uuid {} => Ok(SecretType::Uuid),
            Self::Ed25519 {} => Ok(SecretType::Ed25519),
            Self::Password {
                length,
                alphabet,
                classes,
                no_ambiguous,
            } => password(length, alphabet, classes, no_ambiguous),
            Self::ApiKey { prefix, length } => api_key(prefix.unwrap_or_default(), length),
            Self::Random { bytes, encoding } => Ok(SecretType::Random {
                bytes: within("bytes", bytes.unwrap_or(DEFAULT_RANDOM_BYTES), RANDOM_BYTES)?,
                encoding: encoding.unwrap_or(ByteEncoding::Base64),
            }),
            Self::Jwt { algorithm } => Ok(SecretType::Jwt {
                algorithm: algorithm.unwrap_or(JwtAlgorithm::HS256),
            }),
            Self::Json { template } => json(&template),
        }
    }
}

fn refused<T>(option: &'static str, rule: impl Into<String>) -> Result<T, VaultError> {
    Err(VaultError::Option {
        option,
        rule: rule.into(),
    })
}

fn within<N: TryFrom<usize>>(
    option: &'static str,
    value: usize,
    range: RangeInclusive<usize>,
) -> Result<N, VaultError> {
    match N::try_from(value) {
        Ok(number) if range.contains(&value) => Ok(number),
        _ => refused(
            option,
            format!("must be {} to {}", range.start(), range.end()),
        ),
    }
}

fn password(
    length: Option<usize>,
    alphabet: Option<String>,
    classes: Option<Vec<CharacterClass>>,
    no_ambiguous: bool,
) -> Result<SecretType, VaultError> {
    let length: u16 = within(
        "length",
        length.unwrap_or(DEFAULT_PASSWORD_CHARACTERS),
        PASSWORD_CHARACTERS,
    )?;
    let demanded = classes.clone().unwrap_or_default();
    let mut characters = match (&alphabet, classes) {
        (Some(_), Some(_)) => return refused("alphabet", "excludes `classes`"),
        (Some(own), None) => own.clone(),
        (None, classes) => {
            let usual = vec![
                CharacterClass::Lower,
                CharacterClass::Upper,
                CharacterClass::Digit,
            ];
            let classes = classes.unwrap_or(usual);
            classes.iter().map(|class| class.characters()).collect()
        }
    };
    if no_ambiguous {
        characters.retain(|c| !AMBIGUOUS.contains(c));
    }
    if !characters.bytes().all(|b| b.is_ascii_graphic()) {
        return refused("alphabet", "must be printable ASCII without spaces");
    }
    let mut distinct: Vec<_> = characters.chars().collect();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() != characters.len() {
        return refused("alphabet", "names a character twice");
    }
    let bits = f64::from(length) * (distinct.len().max(1) as f64).log2();
    if bits < MIN_PASSWORD_BITS {
        let rule =
            format!("and `alphabet` give {bits:.0} bits, at least {MIN_PASSWORD_BITS} are needed");
        return refused("length", rule);
    }
    Ok(SecretType::Password {
        length,
        alphabet: characters.into(),
        classes: demanded,
    })
}

fn api_key(prefix: String, length: Option<usize>) -> Result<SecretType, VaultError> {
    if prefix.len() > MAX_PREFIX_BYTES || !prefix.bytes().all(|b| b.is_ascii_graphic()) {
        let rule = format!("must be at most {MAX_PREFIX_BYTES} printable ASCII characters");
        return refused("prefix", rule);
    }
    Ok(SecretType::ApiKey {
        prefix: prefix.into(),
        length: within(
            "length",
            length.unwrap_or(DEFAULT_API_KEY_CHARACTERS),
            API_KEY_CHARACTERS,
        )?,
    })
}

fn json(template: &Value) -> Result<SecretType, VaultError> {
    let text = template.to_string();
    if text.len() > MAX_TEMPLATE_BYTES {
        return wrong_template(format!("must have at most {MAX_TEMPLATE_BYTES} bytes"));
    }
    check_template(template)?;
    Ok(SecretType::Json {
        template: text.into(),
    })
}

impl SecretType {
    /// A password of `length` letters and digits.
    ///
    /// # Errors
    /// [`VaultError::Option`] outside of 8 to 4096.
    pub fn password(length: usize) -> Result<Self, VaultError> {
        password(Some(length), None, None, false)
    }
}

/// The error for a template that breaks `rule`.
pub(super) fn wrong_template<T>(rule: impl Into<String>) -> Result<T, VaultError> {
    refused("template", rule)
}

/// The types of the generated fields, in their order.
pub(super) fn generated_fields(
    template: &Value,
    found: &mut Vec<SecretType>,
) -> Result<(), VaultError> {
    if let Some(kind) = generated_type(template)? {
        if found.len() == MAX_FIELDS {
            return wrong_template(format!("must have at most {MAX_FIELDS} generated fields"));
        }
        found.push(kind);
        return Ok(());
    }
    if alternates(template)?.is_some() {
        return Ok(());
    }
    match template {
        Value::Array(values) => values.iter().try_for_each(|v| generated_fields(v, found)),
        Value::Object(map) => map.values().try_for_each(|v| generated_fields(v, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

/// The type of the text that `value` stands for, if it is a generated field.
pub(super) fn generated_type(value: &Value) -> Result<Option<SecretType>, VaultError> {
    let Some(spec) = value.as_object().and_then(|map| map.get(GENERATE_FIELD)) else {
        return Ok(None);
    };
    if value.as_object().is_some_and(|map| map.len() > 1) {
        return wrong_template("has fields beside `$generate`");
    }
    let Ok(spec) = TypeSpec::deserialize(spec) else {
        return wrong_template("has a `$generate` with an unknown type or option");
    };
    match spec.check()? {
        SecretType::Opaque | SecretType::Ed25519 | SecretType::Json { .. } => {
            wrong_template("may generate password, api_key, random, uuid and jwt only")
        }
        SecretType::Random {
            encoding: ByteEncoding::Raw,
            ..
        } => wrong_template("must write random bytes as base64 or hex"),
        kind => Ok(Some(kind)),
    }
}

/// The texts that take turns in `value`, if it is such a field.
pub(super) fn alternates(value: &Value) -> Result<Option<Vec<&str>>, VaultError> {
    let Some(texts) = value.as_object().and_then(|map| map.get(ALTERNATE_FIELD)) else {
        return Ok(None);
    };
    let found: Vec<_> = texts
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter(|text| text.len() <= MAX_ALTERNATE_BYTES)
        .collect();
    let distinct: BTreeSet<_> = found.iter().collect();
    let whole = texts
        .as_array()
        .is_some_and(|texts| texts.len() == found.len());
    let alone = value.as_object().is_some_and(|map| map.len() == 1);
    let fit = (2..=MAX_ALTERNATES).contains(&found.len()) && distinct.len() == found.len();
    if whole && alone && fit {
        return Ok(Some(found));
    }
    wrong_template(format!(
        "has an `$alternate` that is not a list of 2 to {MAX_ALTERNATES} different texts"
    ))
}

fn check_template(template: &Value) -> Result<(), VaultError> {
    if !template.is_object() {
        return wrong_template("must be a JSON object");
    }
    let mut found = Vec::new();
    generated_fields(template, &mut found)?;
    if found.is_empty() {
        return wrong_template("has no `$generate` field; use type `opaque`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(spec: Value) -> String {
        let spec = serde_json::from_value::<TypeSpec>(spec);
        let checked = spec
            .map_err(|e| e.to_string())
            .and_then(|spec| spec.check().map_err(|e| e.to_string()));
        checked.unwrap_err()
    }

    #[test]
    fn bad_options_are_named() {
        for (spec, option) in [
            (
                json!({"type": "password", "length": 7}),
                "`length` must be 8 to 4096",
            ),
            (
                json!({"type": "password", "length": 4097}),
                "`length` must be 8 to 4096",
            ),
            (
                json!({"type": "password", "length": 8, "alphabet": "ab"}),
                "8 bits",
            ),
            (json!({"type": "password", "alphabet": "abca"}), "twice"),
            (json!({"type": "password", "alphabet": "a b"}), "printable"),
            (json!({"type": "password", "alphabet": ""}), "bits"),
            (
                json!({"type": "password", "alphabet": "abcdefgh", "classes": ["lower"]}),
                "excludes",
            ),
            (
                json!({"type": "password", "classes": ["digit", "digit"]}),
                "twice",
            ),
            (json!({"type": "api_key", "prefix": "a b"}), "`prefix`"),
            (
                json!({"type": "api_key", "length": 1}),
                "`length` must be 16",
            ),
            (json!({"type": "random", "bytes": 1}), "`bytes` must be 8"),
            (
                json!({"type": "random", "encoding": "rot13"}),
                "unknown variant",
            ),
            (json!({"type": "uuid", "length": 3}), "unknown field"),
            (json!({"type": "public_key"}), "unknown variant"),
        ] {
            let refused = refusal(spec.clone());
            assert!(refused.contains(option), "{spec}: {refused}");
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
            assert!(check_template(&template).is_err(), "{template}");
        }
    }
}

//! Types of secrets: what they are made of, and whether the daemon can make them.
//!
//! Another type needs a variant of [`SecretType`] and of [`Spec`], a line in
//! [`TYPES`], and its generator in `generate.rs`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::VaultError;
use crate::generate::template;

/// Characters of a password.
const PASSWORD: std::ops::RangeInclusive<usize> = 8..=4096;
/// Length of a password when none is given, in characters.
const PASSWORD_LENGTH: usize = 32;
/// Characters of an API key, its prefix apart.
const API_KEY: std::ops::RangeInclusive<usize> = 16..=1024;
const API_KEY_LENGTH: usize = 40;
const MAX_PREFIX: usize = 32;
/// Random bytes.
const RANDOM: std::ops::RangeInclusive<usize> = 8..=65_536;
const RANDOM_BYTES: usize = 32;
/// Longest template in bytes.
const MAX_TEMPLATE: usize = 16 * 1024;
/// Least entropy of a generated password in bits.
const LEAST_BITS: f64 = 48.0;

/// Characters that one is taken for another.
const AMBIGUOUS: &str = "0O1lI|";

/// A class of characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// a to z.
    Lower,
    /// A to Z.
    Upper,
    /// 0 to 9.
    Digit,
    /// Punctuation that neither shells nor URLs nor SQL literals trip over.
    Symbol,
}

impl Class {
    pub(crate) fn characters(self) -> &'static str {
        match self {
            Self::Lower => "abcdefghijklmnopqrstuvwxyz",
            Self::Upper => "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
            Self::Digit => "0123456789",
            Self::Symbol => "-_.+=@%:,^~",
        }
    }
}

/// How random bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// RFC 4648, padded.
    Base64,
    /// Lower case.
    Hex,
    /// As they are.
    Raw,
}

/// A JWT algorithm with a shared key (RFC 7518, 3.2): the key has the length of
/// its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JwtAlgorithm {
    /// SHA-256, 32 bytes.
    HS256,
    /// SHA-384, 48 bytes.
    HS384,
    /// SHA-512, 64 bytes.
    HS512,
}

/// What a secret is, and so whether the daemon can make a new value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretType {
    /// Bytes from outside; no generator.
    Opaque,
    /// Characters of an alphabet.
    Password {
        /// Characters.
        length: u16,
        /// Each of them may come.
        alphabet: Box<str>,
        /// Of each of these at least one comes.
        classes: Vec<Class>,
    },
    /// A prefix that tells whose it is, and letters and digits.
    ApiKey {
        /// In front.
        prefix: Box<str>,
        /// Characters behind it.
        length: u16,
    },
    /// Random bytes.
    Random {
        /// Bytes.
        bytes: u32,
        /// How they are written.
        encoding: Encoding,
    },
    /// A random UUID (version 4, RFC 9562).
    Uuid,
    /// A key for JSON Web Tokens, base64url.
    Jwt {
        /// What signs with it.
        algorithm: JwtAlgorithm,
    },
    /// An Ed25519 key pair: the private key as PKCS#8 PEM (RFC 5958, 8410); the
    /// public one is a secret of its own, `NAME.pub`.
    Ed25519,
    /// The public part of a key pair; made with it.
    PublicKey,
    /// JSON with generated fields.
    Json {
        /// A JSON text; objects `{"$generate": {"type": ...}}` and `{"$alternate":
        /// [...]}` in it are replaced.
        template: Box<str>,
    },
}

/// A type with its options, as somebody asks for it.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[expect(missing_docs, reason = "the options of the types above")]
pub enum Spec {
    Opaque {},
    Password {
        length: Option<usize>,
        alphabet: Option<String>,
        classes: Option<Vec<Class>>,
        #[serde(default)]
        no_ambiguous: bool,
    },
    ApiKey {
        prefix: Option<String>,
        length: Option<usize>,
    },
    Random {
        bytes: Option<usize>,
        encoding: Option<Encoding>,
    },
    Uuid {},
    Jwt {
        algorithm: Option<JwtAlgorithm>,
    },
    Ed25519 {},
    Json {
        template: serde_json::Value,
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

impl fmt::Display for SecretType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Opaque => "opaque",
            Self::Password { .. } => "password",
            Self::ApiKey { .. } => "api_key",
            Self::Random { .. } => "random",
            Self::Uuid => "uuid",
            Self::Jwt { .. } => "jwt",
            Self::Ed25519 => "ed25519",
            Self::PublicKey => "public_key",
            Self::Json { .. } => "json",
        })
    }
}

impl Spec {
    /// The type, its options checked.
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
                bytes: within("bytes", bytes.unwrap_or(RANDOM_BYTES), RANDOM)?,
                encoding: encoding.unwrap_or(Encoding::Base64),
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
    range: std::ops::RangeInclusive<usize>,
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
    classes: Option<Vec<Class>>,
    no_ambiguous: bool,
) -> Result<SecretType, VaultError> {
    let length: u16 = within("length", length.unwrap_or(PASSWORD_LENGTH), PASSWORD)?;
    let demanded = classes.clone().unwrap_or_default();
    let mut characters = match (&alphabet, classes) {
        (Some(_), Some(_)) => return refused("alphabet", "excludes `classes`"),
        (Some(own), None) => own.clone(),
        (None, classes) => {
            let usual = vec![Class::Lower, Class::Upper, Class::Digit];
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
    if bits < LEAST_BITS {
        let rule = format!("and `alphabet` give {bits:.0} bits, at least {LEAST_BITS} are needed");
        return refused("length", rule);
    }
    Ok(SecretType::Password {
        length,
        alphabet: characters.into(),
        classes: demanded,
    })
}

fn api_key(prefix: String, length: Option<usize>) -> Result<SecretType, VaultError> {
    if prefix.len() > MAX_PREFIX || !prefix.bytes().all(|b| b.is_ascii_graphic()) {
        return refused("prefix", "must be at most 32 printable ASCII characters");
    }
    Ok(SecretType::ApiKey {
        prefix: prefix.into(),
        length: within("length", length.unwrap_or(API_KEY_LENGTH), API_KEY)?,
    })
}

fn json(template: &serde_json::Value) -> Result<SecretType, VaultError> {
    let text = template.to_string();
    if text.len() > MAX_TEMPLATE {
        return refused(
            "template",
            format!("must have at most {MAX_TEMPLATE} bytes"),
        );
    }
    template::check(template)?;
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

    /// Whether the daemon can make a new value.
    #[must_use]
    pub fn has_generator(&self) -> bool {
        !matches!(self, Self::Opaque | Self::PublicKey)
    }
}

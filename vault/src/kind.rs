//! Types of secrets: what they are made of, and whether the daemon can make them.
//!
//! Another type needs a variant of [`SecretType`], one of [`crate::TypeSpec`] and
//! a line in [`crate::TYPES`] (generate/spec.rs), and its generator in
//! generate/mod.rs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A class of characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CharacterClass {
    /// a to z.
    Lower,
    /// A to Z.
    Upper,
    /// 0 to 9.
    Digit,
    /// Punctuation that neither shells nor URLs nor SQL literals trip over.
    Symbol,
}

impl CharacterClass {
    /// The characters of the class.
    pub(crate) fn characters(self) -> &'static str {
        match self {
            Self::Lower => "abcdefghijklmnopqrstuvwxyz",
            Self::Upper => "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
            Self::Digit => "0123456789",
            Self::Symbol => "-_.+=@%:,^~",
        }
    }
}

/// Encoding in which random bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ByteEncoding {
    /// RFC 4648, padded.
    Base64,
    /// Lower case.
    Hex,
    /// The bytes themselves.
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

/// Type of a secret: the form of its values, and whether the daemon can make one.
///
/// Stored by its position: a new variant goes last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretType {
    /// Bytes from outside; no generator.
    Opaque,
    /// Characters of an alphabet.
    Password {
        /// Number of characters.
        length: u16,
        /// Characters that may come.
        alphabet: Box<str>,
        /// Classes of which at least one character comes.
        classes: Vec<CharacterClass>,
    },
    /// A prefix that tells whose it is, and letters and digits.
    ApiKey {
        /// Text in front.
        prefix: Box<str>,
        /// Number of characters behind the prefix.
        length: u16,
    },
    /// Random bytes.
    Random {
        /// Number of bytes.
        bytes: u32,
        /// Encoding of the bytes.
        encoding: ByteEncoding,
    },
    /// A random UUID (version 4, RFC 9562).
    Uuid,
    /// A key for JSON Web Tokens, base64url.
    Jwt {
        /// Algorithm that signs with the key.
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

impl SecretType {
    /// True if the daemon can make a new value.
    #[must_use]
    pub fn has_generator(&self) -> bool {
        !matches!(self, Self::Opaque | Self::PublicKey)
    }
}

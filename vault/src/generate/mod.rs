//! New values made by the daemon: which can be asked for, and how they are made.
//!
//! Runs in: the worker; jarvisctl reads the list of types.
//! Touches: plaintext of new values, and of the old one where the new depends on it.
//! Imported by: lib.rs; txn/versions.rs calls [`SecretType`]'s methods.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey, KeypairBytes};
use rand::RngExt;
use rand::distr::{Alphanumeric, Distribution};
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use crate::error::VaultError;
use crate::kind::{ByteEncoding, CharacterClass, JwtAlgorithm, SecretType};
use crate::secret::SecretBytes;

pub(crate) mod spec;
mod template;

/// Work that a key pair takes, in random characters.
const KEY_PAIR_WORK: u64 = 512;

impl SecretType {
    /// A fresh value after `old`, or `None` when the type has no generator.
    ///
    /// # Errors
    /// [`VaultError::Keys`] when no random bytes can be had.
    pub(crate) fn generate(&self, old: Option<&[u8]>) -> Result<Option<SecretBytes>, VaultError> {
        let value = match self {
            Self::Opaque | Self::PublicKey => return Ok(None),
            Self::Password {
                length,
                alphabet,
                classes,
            } => password(usize::from(*length), alphabet.as_bytes(), classes),
            Self::ApiKey { prefix, length } => api_key(prefix, usize::from(*length)),
            Self::Random { bytes, encoding } => encoded(&random(*bytes as usize)?, *encoding),
            Self::Uuid => uuid()?,
            Self::Jwt { algorithm } => {
                let bytes = match algorithm {
                    JwtAlgorithm::HS256 => 32,
                    JwtAlgorithm::HS384 => 48,
                    JwtAlgorithm::HS512 => 64,
                };
                text(URL_SAFE_NO_PAD.encode(&*random(bytes)?))
            }
            Self::Ed25519 => key_pair()?,
            Self::Json { template } => template::fill(template, old, |kind| kind.generate(None))?,
        };
        Ok(Some(value))
    }

    /// Work that a new value takes: about the number of its random characters, each of which
    /// is asked of the kernel.
    #[must_use]
    pub fn work(&self) -> u64 {
        match self {
            Self::Opaque | Self::PublicKey => 0,
            Self::Password {
                length, classes, ..
            } => {
                // One that lacks a class is made anew.
                let attempts = if classes.is_empty() { 1 } else { 3 };
                attempts * u64::from(*length)
            }
            Self::ApiKey { length, .. } => u64::from(*length),
            // One call for all.
            Self::Random { bytes, .. } => u64::from(*bytes) / 64,
            Self::Uuid | Self::Jwt { .. } => 1,
            Self::Ed25519 => KEY_PAIR_WORK,
            Self::Json { template } => template::work(template),
        }
    }

    /// The public part of `value`, of types that have one.
    ///
    /// # Errors
    /// [`VaultError::Value`] when the value is not of its type.
    pub(crate) fn public_part(&self, value: &[u8]) -> Result<Option<SecretBytes>, VaultError> {
        if *self != Self::Ed25519 {
            return Ok(None);
        }
        let wrong = || VaultError::Value("an Ed25519 private key as PKCS#8 PEM");
        let pem = str::from_utf8(value).map_err(|_| wrong())?;
        let key = SigningKey::from_pkcs8_pem(pem).map_err(|_| wrong())?;
        let public = key.verifying_key().to_public_key_pem(LineEnding::LF);
        public.map(|pem| Some(text(pem))).map_err(|_| wrong())
    }
}

fn text(text: String) -> SecretBytes {
    SecretBytes::new(text.into_bytes())
}

fn random(len: usize) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let mut bytes = Zeroizing::new(vec![0; len]);
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

fn encoded(bytes: &[u8], encoding: ByteEncoding) -> SecretBytes {
    match encoding {
        ByteEncoding::Base64 => text(STANDARD.encode(bytes)),
        ByteEncoding::Hex => text(hex::encode(bytes)),
        ByteEncoding::Raw => SecretBytes::new(bytes.to_vec()),
    }
}

/// A password in which every one that has all classes comes as often as any other:
/// those that lack one are thrown away.
fn password(length: usize, alphabet: &[u8], classes: &[CharacterClass]) -> SecretBytes {
    let mut rng = UnwrapErr(SysRng);
    loop {
        let mut value = Vec::with_capacity(length);
        value.extend((0..length).filter_map(|_| {
            let at = rng.random_range(0..alphabet.len().max(1));
            alphabet.get(at).copied()
        }));
        let value = SecretBytes::new(value);
        let has = |class: &CharacterClass| {
            let characters = class.characters().as_bytes();
            value.expose().iter().any(|b| characters.contains(b))
        };
        if classes.iter().all(has) {
            return value;
        }
    }
}

fn api_key(prefix: &str, length: usize) -> SecretBytes {
    let mut rng = UnwrapErr(SysRng);
    let mut value = Vec::with_capacity(prefix.len() + length);
    value.extend_from_slice(prefix.as_bytes());
    value.extend((0..length).map(|_| Alphanumeric.sample(&mut rng)));
    SecretBytes::new(value)
}

fn uuid() -> Result<SecretBytes, VaultError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    let uuid = uuid::Builder::from_random_bytes(bytes).into_uuid();
    let mut buffer = Zeroizing::new([0; uuid::fmt::Hyphenated::LENGTH]);
    let written = uuid.hyphenated().encode_lower(&mut *buffer);
    Ok(SecretBytes::new(written.as_bytes().to_vec()))
}

fn key_pair() -> Result<SecretBytes, VaultError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed)?;
    let key = KeypairBytes {
        secret_key: *seed,
        // Without it the form is the old one (RFC 5208), which all programs read.
        public_key: None,
    };
    let pem = key.to_pkcs8_pem(LineEnding::LF);
    let pem = pem.map_err(|_| VaultError::Value("a key that can be encoded"))?;
    Ok(SecretBytes::new(pem.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::spec::TypeSpec;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn made(spec: serde_json::Value) -> Vec<u8> {
        let value = kind(spec).unwrap().generate(None).unwrap().unwrap();
        value.expose().to_vec()
    }

    fn kind(spec: serde_json::Value) -> Result<SecretType, String> {
        let spec: TypeSpec = serde_json::from_value(spec).map_err(|e| e.to_string())?;
        spec.check().map_err(|e| e.to_string())
    }

    #[test]
    fn passwords_have_their_length_and_alphabet() {
        let first = made(json!({"type": "password", "length": 64}));
        assert_eq!(first.len(), 64);
        assert!(first.iter().all(u8::is_ascii_alphanumeric));
        assert!(first != made(json!({"type": "password", "length": 64})));
        let own = made(json!({"type": "password", "length": 48, "alphabet": "ab"}));
        assert!(own.iter().all(|b| b"ab".contains(b)) && own.len() == 48);
    }

    #[test]
    fn classes_all_come_and_ambiguous_characters_do_not() {
        let spec = json!({
            "type": "password", "length": 10, "classes": ["lower", "upper", "digit", "symbol"],
            "no_ambiguous": true,
        });
        for _ in 0..500 {
            let value = made(spec.clone());
            for class in [
                CharacterClass::Lower,
                CharacterClass::Upper,
                CharacterClass::Digit,
                CharacterClass::Symbol,
            ] {
                let characters = class.characters().as_bytes();
                assert!(value.iter().any(|b| characters.contains(b)), "{class:?}");
            }
            assert!(!value.iter().any(|b| b"0O1lI|".contains(b)));
        }
    }

    /// No character comes much more often than the others.
    #[test]
    fn characters_come_equally_often() {
        let mut counts = std::collections::BTreeMap::new();
        for b in (0..50).flat_map(|_| made(json!({"type": "password", "length": 4000}))) {
            *counts.entry(b).or_insert(0_u32) += 1;
        }
        // 200,000 of 62 characters: 3,226 each, 57 the standard deviation.
        assert_eq!(counts.len(), 62);
        assert!(
            counts.values().all(|n| (2900..3550).contains(n)),
            "{counts:?}"
        );
    }

    #[test]
    fn random_bytes_are_written_as_told() {
        let raw = made(json!({"type": "random", "bytes": 20, "encoding": "raw"}));
        let hex = made(json!({"type": "random", "bytes": 20, "encoding": "hex"}));
        let base64 = made(json!({"type": "random", "bytes": 20}));
        assert_eq!((raw.len(), hex.len()), (20, 40));
        assert!(hex.iter().all(|b| b"0123456789abcdef".contains(b)));
        assert_eq!(STANDARD.decode(base64).unwrap().len(), 20);
    }

    #[test]
    fn other_types_are_what_they_are_called() {
        let key = String::from_utf8(made(json!({"type": "api_key", "prefix": "sk_"}))).unwrap();
        assert!(key.starts_with("sk_") && key.len() == 43);
        let text = String::from_utf8(made(json!({"type": "uuid"}))).unwrap();
        let uuid = uuid::Uuid::parse_str(&text).unwrap();
        assert_eq!((uuid.get_version_num(), text.len()), (4, 36));
        for (algorithm, len) in [("HS256", 32), ("HS384", 48), ("HS512", 64)] {
            let key = made(json!({"type": "jwt", "algorithm": algorithm}));
            assert_eq!(URL_SAFE_NO_PAD.decode(key).unwrap().len(), len);
        }
        assert!(SecretType::Opaque.generate(None).unwrap().is_none());
        assert!(!SecretType::PublicKey.has_generator());
    }

    #[test]
    fn a_key_pair_has_its_public_part() {
        let kind = SecretType::Ed25519;
        let value = kind.generate(None).unwrap().unwrap();
        let public = kind.public_part(value.expose()).unwrap().unwrap();
        let pem = str::from_utf8(public.expose()).unwrap();
        assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----"));
        assert!(kind.public_part(b"hunter2").is_err());
        assert!(SecretType::Uuid.public_part(b"x").unwrap().is_none());
    }

    proptest! {
        #[test]
        fn what_is_accepted_can_be_made(
            length in 8_usize..64,
            pick in prop::sample::subsequence(vec!["lower", "upper", "digit", "symbol"], 1..4),
            no_ambiguous: bool,
        ) {
            let spec = json!({
                "type": "password", "length": length, "classes": pick, "no_ambiguous": no_ambiguous,
            });
            if let Ok(kind) = kind(spec) {
                prop_assert_eq!(kind.generate(None).unwrap().unwrap().len(), length);
            }
        }
    }
}

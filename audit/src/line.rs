//! The bytes of one record.
//!
//! `payload` is a JSON object. Its digest is the hash of a leaf in a Merkle tree (RFC 6962,
//! section 2.1): SHA-256 over a zero byte and the payload as it is, so that one hash serves
//! the chain and a tree over the records. The signature is over a domain and the
//! digest. The line is the payload and a newline; that of a signed record has
//! `,"sig":"<86 characters>"` before the last brace. That suffix has a fixed length: a
//! verifier cuts it off unparsed.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::keys::{EpochKey, EpochPublic};

/// Longest line in bytes, with its newline. A name and a pattern have at most
/// 4095 bytes each, which JSON may double.
pub(crate) const MAX_LINE_BYTES: usize = 32 * 1024;

/// Prefix of a leaf's hash, which no inner node's has (RFC 6962, section 2.1).
const LEAF_PREFIX: &[u8] = &[0];
/// Domain of a record's signature.
const SIGNATURE_DOMAIN: &[u8] = b"jarvis-audit-v2 signature\0";
const BEFORE_SIGNATURE: &[u8] = b",\"sig\":\"";
const AFTER_SIGNATURE: &[u8] = b"\"}";
/// Length of a signature, 64 bytes, in base64url without padding.
const ENCODED_BYTES: usize = 86;

/// SHA-256 that chains a record to the next, and stands for it in a Merkle tree.
pub(crate) type RecordDigest = [u8; 32];

pub(crate) fn digest(payload: &[u8]) -> RecordDigest {
    Sha256::new()
        .chain_update(LEAF_PREFIX)
        .chain_update(payload)
        .finalize()
        .into()
}

/// The bytes that a record's signature is over.
pub(crate) type SignedMessage = [u8; SIGNATURE_DOMAIN.len() + 32];

pub(crate) fn message(digest: &RecordDigest) -> SignedMessage {
    let mut out = [0; SIGNATURE_DOMAIN.len() + 32];
    for (to, from) in out.iter_mut().zip(SIGNATURE_DOMAIN.iter().chain(digest)) {
        *to = *from;
    }
    out
}

/// Bytes by which [`sign`] makes a payload longer: the signature and a newline.
pub(crate) const SUFFIX_BYTES: usize = BEFORE_SIGNATURE.len() + ENCODED_BYTES + 2;

/// Turns the payload in `line`, whose digest is `digest`, into a signed line.
pub(crate) fn sign(line: &mut Vec<u8>, digest: &RecordDigest, key: &EpochKey) {
    let signature = key.sign(&message(digest));
    let mut encoded = [0; ENCODED_BYTES];
    // 64 bytes always fill 86 characters.
    let _ = URL_SAFE_NO_PAD.encode_slice(signature, &mut encoded);
    line.pop();
    for part in [BEFORE_SIGNATURE, &encoded, AFTER_SIGNATURE, b"\n"] {
        line.extend_from_slice(part);
    }
}

/// Turns the payload in `line` into a line without a signature.
pub(crate) fn end_unsigned(line: &mut Vec<u8>) {
    line.push(b'\n');
}

/// Bytes before the suffix of `line`, and the signature in base64url; `None` when there is
/// no suffix.
fn cut_suffix(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(AFTER_SIGNATURE)?;
    let (head, encoded) = line.split_at_checked(line.len().checked_sub(ENCODED_BYTES)?)?;
    Some((head.strip_suffix(BEFORE_SIGNATURE)?, encoded))
}

/// A line taken apart; nothing is verified yet.
pub(crate) struct RecordLine<'l> {
    /// The payload, for a signed record without its last brace.
    head: &'l [u8],
    pub(crate) signature: Option<[u8; 64]>,
}

impl<'l> RecordLine<'l> {
    /// Cuts the suffix off `line` (without newline), if it has one; `None` for what no record
    /// begins or ends with, and for a signature that is none.
    pub(crate) fn split(line: &'l [u8]) -> Option<Self> {
        if !line.starts_with(b"{") || !line.ends_with(b"}") {
            return None;
        }
        let Some((head, encoded)) = cut_suffix(line) else {
            return Some(Self {
                head: line,
                signature: None,
            });
        };
        let mut signature = [0; 64];
        // 86 characters make 64 bytes, or are refused.
        URL_SAFE_NO_PAD.decode_slice(encoded, &mut signature).ok()?;
        Some(Self {
            head,
            signature: Some(signature),
        })
    }

    /// The payload.
    pub(crate) fn payload(&self) -> Cow<'l, [u8]> {
        match self.signature {
            None => Cow::Borrowed(self.head),
            Some(_) => Cow::Owned([self.head, b"}"].concat()),
        }
    }

    pub(crate) fn digest(&self) -> RecordDigest {
        let hash = Sha256::new().chain_update(LEAF_PREFIX);
        let hash = hash.chain_update(self.head);
        let hash = match self.signature {
            None => hash,
            Some(_) => hash.chain_update(b"}"),
        };
        hash.finalize().into()
    }

    pub(crate) fn signed_by(&self, key: &EpochPublic) -> bool {
        self.signature
            .is_some_and(|signature| key.signed(&message(&self.digest()), &signature))
    }
}

/// 32 or 64 bytes as they stand in a record.
pub(crate) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

//! Sealing: AES-256-GCM with random 96-bit nonces and bound context.
//!
//! NIST SP 800-38D. A sealed record is `nonce (12) || ciphertext || tag (16)`.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Nonce, Tag};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use jarvis_sys::{KEY_LEN, LockedKey};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::error::VaultError;
use crate::secret::SecretBytes;

/// Length of a nonce in bytes.
const NONCE_LEN: usize = 12;
/// Length of an authentication tag in bytes.
const TAG_LEN: usize = 16;
/// First part of all associated data.
const DOMAIN: &[u8; 16] = b"jarvis-vault-v1\0";
/// Length of a stored name hash in bytes.
pub(crate) const NAME_HASH_LEN: usize = 16;

/// Kind of a sealed record; part of its associated data, so a number is never
/// given to another kind.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum RecordKind {
    Slot = 1,
    TenantKey = 2,
    State = 3,
    Node = 4,
    DataKey = 5,
    Value = 6,
    Outbox = 7,
    Journal = 8,
    Revocation = 9,
}

/// Place of a sealed record: it opens nowhere else.
#[derive(Clone, Copy)]
pub(crate) struct SealContext {
    pub(crate) vault: [u8; 16],
    pub(crate) kind: RecordKind,
    pub(crate) id: u64,
    pub(crate) version: u64,
}

impl SealContext {
    /// `"jarvis-vault-v1\0" || vault id (16) || kind (1) || id (8) || version (8)`,
    /// numbers big-endian.
    fn associated_data(&self) -> [u8; 49] {
        let mut out = [0; 49];
        let parts: [&[u8]; 5] = [
            DOMAIN,
            &self.vault,
            &[self.kind as u8],
            &self.id.to_be_bytes(),
            &self.version.to_be_bytes(),
        ];
        for (to, from) in out.iter_mut().zip(parts.concat()) {
            *to = from;
        }
        out
    }
}

/// The record does not authenticate under this key and context.
#[derive(Debug, thiserror::Error)]
#[error("the record does not authenticate")]
pub(crate) struct NotAuthentic;

fn cipher(key: &[u8; KEY_LEN]) -> Aes256Gcm {
    // The key schedule lives for one call and is wiped when dropped.
    Aes256Gcm::new(<&Key<Aes256Gcm>>::from(key))
}

/// Seals `plaintext` for `context`.
pub(crate) fn seal(
    key: &[u8; KEY_LEN],
    context: SealContext,
    plaintext: &[u8],
) -> Result<Vec<u8>, VaultError> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce)?;
    let mut out = Vec::with_capacity(NONCE_LEN + plaintext.len() + TAG_LEN);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plaintext);
    let body = out.get_mut(NONCE_LEN..).unwrap_or_default();
    let tag = cipher(key)
        .encrypt_inout_detached(&Nonce::from(nonce), &context.associated_data(), body.into())
        .map_err(|_| VaultError::Keys(std::io::Error::other("AES-GCM refused the length")))?;
    out.extend_from_slice(&tag);
    Ok(out)
}

/// Opens `sealed` in place; the buffer becomes the plaintext's memory.
pub(crate) fn open(
    key: &[u8; KEY_LEN],
    context: SealContext,
    mut sealed: Vec<u8>,
) -> Result<SecretBytes, NotAuthentic> {
    let end = sealed.len().checked_sub(TAG_LEN).ok_or(NotAuthentic)?;
    let nonce: [u8; NONCE_LEN] = prefix(&sealed).ok_or(NotAuthentic)?;
    let tag: [u8; TAG_LEN] = sealed.get(end..).and_then(prefix).ok_or(NotAuthentic)?;
    let body = sealed.get_mut(NONCE_LEN..end).ok_or(NotAuthentic)?;
    cipher(key)
        .decrypt_inout_detached(
            &Nonce::from(nonce),
            &context.associated_data(),
            body.into(),
            &Tag::from(tag),
        )
        .map_err(|_| NotAuthentic)?;
    Ok(SecretBytes::within(sealed, NONCE_LEN..end))
}

/// A 256-bit key for the length of one operation; wiped on drop. Keys that stay
/// are [`LockedKey`]s, which cost system calls to make.
pub(crate) type BriefKey = Zeroizing<[u8; KEY_LEN]>;

/// Opens a sealed 256-bit key.
pub(crate) fn open_key(
    key: &[u8; KEY_LEN],
    context: SealContext,
    sealed: Vec<u8>,
) -> Result<BriefKey, NotAuthentic> {
    let plain = open(key, context, sealed)?;
    let bytes: &[u8; KEY_LEN] = plain.expose().try_into().map_err(|_| NotAuthentic)?;
    Ok(Zeroizing::new(*bytes))
}

/// Copies a key into locked memory.
pub(crate) fn lock(key: &BriefKey) -> Result<LockedKey, VaultError> {
    LockedKey::build(|out| {
        out.copy_from_slice(key.as_slice());
        Ok(())
    })
}

/// A new random key.
pub(crate) fn random_key() -> Result<BriefKey, VaultError> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    getrandom::fill(key.as_mut_slice())?;
    Ok(key)
}

/// HKDF-SHA256 (RFC 5869) of `input` into locked memory.
pub(crate) fn derive(input: &[u8], salt: &[u8], info: &str) -> Result<LockedKey, VaultError> {
    LockedKey::build(|out| {
        Hkdf::<Sha256>::new(Some(salt), input)
            .expand(info.as_bytes(), out)
            .map_err(|_| VaultError::Keys(std::io::Error::other("HKDF refused the length")))
    })
}

/// HMAC-SHA256 of a directory entry, cut to 128 bits: the stored form of a name.
pub(crate) fn name_hash(key: &LockedKey, parent: u64, segment: &str) -> [u8; NAME_HASH_LEN] {
    // RFC 2104 pads a key to the hash's block with zeros: done here, it is infallible.
    let mut block = Zeroizing::new([0; 64]);
    for (to, from) in block.iter_mut().zip(key.expose()) {
        *to = *from;
    }
    let mut mac = <Hmac<Sha256> as KeyInit>::new((&*block).into());
    mac.update(&parent.to_be_bytes());
    mac.update(segment.as_bytes());
    prefix(&mac.finalize().into_bytes()).unwrap_or_default()
}

fn prefix<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk().copied()
}

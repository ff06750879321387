//! The host's identity key and the epoch keys it certifies.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey, verify_batch};
use jarvis_sys::LockedKey;
use jarvis_sys::trust::{self, Rule, TrustError};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha512};
use zeroize::Zeroizing;

/// Largest key file accepted, in bytes.
const MAX_KEY_FILE_BYTES: u64 = 4096;
/// Room for the longest file, with what reading one byte too many may ask for.
const PEM_BUFFER_BYTES: usize = 8192;
/// Domain of certificates for the key of a start.
const EPOCH_DOMAIN: &[u8] = b"jarvis-audit-v2 epoch\0";
/// Domain of certificates for the first key of a segment.
const SEGMENT_DOMAIN: &[u8] = b"jarvis-audit-v2 segment\0";

/// First 8 bytes of the SHA-256 of the identity's public key, shown as 16
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostId([u8; 8]);

impl HostId {
    /// The id with these bytes, as [`Self::bytes`] gives them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The id's bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 8] {
        self.0
    }

    fn of(key: &VerifyingKey) -> Self {
        let digest = Sha256::digest(key.as_bytes());
        Self(digest.first_chunk().copied().unwrap_or_default())
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostId({self})")
    }
}

/// Why an identity can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// Step that failed.
        action: &'static str,
        /// File that was used.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The key file can't be opened, or others could open it, too.
    #[error(transparent)]
    Distrusted(#[from] TrustError),
    /// No Ed25519 key.
    #[error("{path} holds no Ed25519 key in PEM ({what}); put the right file back from a copy")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Kind of key that was expected.
        what: &'static str,
    },
    /// No random bytes.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// No memory that is locked.
    #[error("no locked memory for a key: {0}; raise the limit on it (ulimit -l)")]
    Memory(#[from] Errno),
    /// The holder of the identity did not sign.
    #[error("the epoch key was not certified: {0}")]
    NotCertified(String),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::Io {
        action,
        path,
        source,
    }
}

fn malformed(path: &Path, what: &'static str) -> KeyError {
    KeyError::Malformed {
        path: path.to_owned(),
        what,
    }
}

/// An Ed25519 key whose seed is in locked memory, wiped on drop.
///
/// What a signature derives from the seed lives on the stack while it is made, and is
/// wiped then.
struct SigningSeed {
    seed: LockedKey,
    public: VerifyingKey,
}

impl SigningSeed {
    fn random() -> Result<Self, KeyError> {
        Self::build(|seed| Ok(getrandom::fill(seed)?))
    }

    fn of(key: &SigningKey) -> Result<Self, KeyError> {
        Self::build(|seed| {
            seed.copy_from_slice(key.as_bytes());
            Ok(())
        })
    }

    fn build(fill: impl FnOnce(&mut [u8; 32]) -> Result<(), KeyError>) -> Result<Self, KeyError> {
        let seed = LockedKey::build(fill)?;
        let public = VerifyingKey::from(&ExpandedSecretKey::from(seed.expose()));
        Ok(Self { seed, public })
    }

    /// The key as the library encodes it, which is wiped on drop.
    fn unlocked(&self) -> SigningKey {
        SigningKey::from_bytes(self.seed.expose())
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        // What `SigningKey` does, but without a copy of the seed outside its page.
        let expanded = ExpandedSecretKey::from(self.seed.expose());
        raw_sign::<Sha512>(&expanded, message, &self.public).to_bytes()
    }
}

/// The host's identity key: certifies each start's epoch key. No `Debug`,
/// `Clone` or `Serialize`; in locked memory, wiped on drop.
pub struct Identity(SigningSeed);

impl Identity {
    /// Makes a new identity: the key as PKCS#8 PEM (RFC 5958, 8410) of mode 0600
    /// at `key`, its public half as SPKI PEM at `public`.
    ///
    /// # Errors
    /// [`KeyError`]; a file that exists is not overwritten, and none is left behind.
    pub fn create(key: &Path, public: &Path) -> Result<Self, KeyError> {
        let identity = Self(SigningSeed::random()?);
        let not_encoded = |path: &Path| malformed(path, "encoding failed");
        let pem = identity.0.unlocked().to_pkcs8_pem(LineEnding::LF);
        write_new(key, 0o600, pem.map_err(|_| not_encoded(key))?.as_bytes())?;
        let pem = identity.0.public.to_public_key_pem(LineEnding::LF);
        let written = pem
            .map_err(|_| not_encoded(public))
            .and_then(|pem| write_new(public, 0o644, pem.as_bytes()));
        // A key beside another key's public half would sign logs that never verify.
        written
            .inspect_err(|_| drop(std::fs::remove_file(key)))
            .map(|()| identity)
    }

    /// Reads an identity key.
    ///
    /// # Errors
    /// [`KeyError`], also when others could read the file.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let pem = read_pem(path, trust::open(path, Rule::PRIVATE_FILE)?)?;
        let key = SigningKey::from_pkcs8_pem(&pem);
        let key = key.map_err(|_| malformed(path, "PKCS#8 private key"))?;
        Ok(Self(SigningSeed::of(&key)?))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicIdentity {
        PublicIdentity(self.0.public)
    }

    #[cfg(test)]
    pub(crate) fn from_seed(seed: u8) -> Self {
        Self(SigningSeed::of(&SigningKey::from_bytes(&[seed; 32])).unwrap())
    }
}

/// Certifies epoch keys: the identity itself, or somebody who is asked.
pub trait Certify {
    /// Short name of the host in records.
    fn host(&self) -> HostId;

    /// Gives the Ed25519 signature over `claim`, for the key of a start.
    ///
    /// # Errors
    /// [`KeyError::NotCertified`].
    fn certify(&self, claim: &EpochClaim) -> Result<[u8; 64], KeyError>;

    /// Gives the Ed25519 signature over `claim`, for the first key of a segment.
    ///
    /// # Errors
    /// [`KeyError::NotCertified`].
    fn certify_segment(&self, claim: &SegmentClaim) -> Result<[u8; 64], KeyError>;
}

impl Certify for Identity {
    fn host(&self) -> HostId {
        self.public().host()
    }

    fn certify(&self, claim: &EpochClaim) -> Result<[u8; 64], KeyError> {
        Ok(self.0.sign(&claim.message(self.host())))
    }

    fn certify_segment(&self, claim: &SegmentClaim) -> Result<[u8; 64], KeyError> {
        Ok(self.0.sign(&claim.message(self.host())))
    }
}

/// The public half of a host's identity: all that is needed to verify its log.
pub struct PublicIdentity(VerifyingKey);

impl PublicIdentity {
    /// Reads a public key (SPKI PEM).
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let file = File::open(path).map_err(io_error("open", path))?;
        let pem = read_pem(path, file)?;
        let key = VerifyingKey::from_public_key_pem(&pem);
        key.map(Self).map_err(|_| malformed(path, "public key"))
    }

    /// Short name of the host in records.
    #[must_use]
    pub fn host(&self) -> HostId {
        HostId::of(&self.0)
    }

    /// SHA-256 of the raw public key in hexadecimal: what two people compare.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(Sha256::digest(self.0.as_bytes()))
    }

    pub(crate) fn certified(&self, claim: &EpochClaim, certificate: &[u8; 64]) -> bool {
        self.signed(&claim.message(self.host()), certificate)
    }

    pub(crate) fn certified_segment(&self, claim: &SegmentClaim, certificate: &[u8; 64]) -> bool {
        self.signed(&claim.message(self.host()), certificate)
    }

    fn signed(&self, message: &[u8], certificate: &[u8; 64]) -> bool {
        let signature = Signature::from_bytes(certificate);
        self.0.verify_strict(message, &signature).is_ok()
    }
}

/// Content of a start's certificate: this epoch key takes over at this point of the
/// chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochClaim {
    /// Number of the epoch.
    pub epoch: u64,
    /// Sequence number of the epoch's first record.
    pub first_seq: u64,
    /// Digest of the record before.
    pub prev: [u8; 32],
    /// Ed25519 public key of the epoch.
    pub key: [u8; 32],
}

impl EpochClaim {
    /// `domain || host id (8) || epoch (8) || first seq (8) || prev (32) || key (32)`,
    /// numbers big-endian.
    fn message(&self, host: HostId) -> Vec<u8> {
        [
            EPOCH_DOMAIN,
            &host.0,
            &self.epoch.to_be_bytes(),
            &self.first_seq.to_be_bytes(),
            &self.prev,
            &self.key,
        ]
        .concat()
    }
}

/// Content of a segment's certificate: this key signs from the segment's first
/// record on. No place in the chain is named, which the record before, signed
/// with the key before, has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentClaim {
    /// Number of the segment.
    pub segment: u32,
    /// Number of the epoch that begins with the segment.
    pub epoch: u64,
    /// Ed25519 public key of the epoch.
    pub key: [u8; 32],
}

impl SegmentClaim {
    /// `domain || host id (8) || segment (4) || epoch (8) || key (32)`, numbers
    /// big-endian.
    fn message(&self, host: HostId) -> Vec<u8> {
        [
            SEGMENT_DOMAIN,
            &host.0,
            &self.segment.to_be_bytes(),
            &self.epoch.to_be_bytes(),
            &self.key,
        ]
        .concat()
    }
}

/// The key of one epoch; lives in locked memory only, and is wiped with its last holder.
#[derive(Clone)]
pub(crate) struct EpochKey(Arc<SigningSeed>);

impl EpochKey {
    pub(crate) fn generate() -> Result<Self, KeyError> {
        Ok(Self(Arc::new(SigningSeed::random()?)))
    }

    pub(crate) fn public(&self) -> [u8; 32] {
        self.0.public.to_bytes()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message)
    }

    #[cfg(test)]
    pub(crate) fn from_seed(seed: u8) -> Self {
        let key = SigningKey::from_bytes(&[seed; 32]);
        Self(Arc::new(SigningSeed::of(&key).unwrap()))
    }
}

/// The public half of an epoch key.
#[derive(Clone, Copy)]
pub(crate) struct EpochPublic {
    key: VerifyingKey,
    weak: bool,
}

impl EpochPublic {
    pub(crate) fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let key = VerifyingKey::from_bytes(bytes).ok()?;
        let weak = key.is_weak();
        Some(Self { key, weak })
    }

    /// True for a key of small order: anybody can sign for it.
    pub(crate) fn is_weak(&self) -> bool {
        self.weak
    }

    pub(crate) fn signed(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let signature = Signature::from_bytes(signature);
        self.key.verify_strict(message, &signature).is_ok()
    }
}

/// Checks that each of `keys`, none of them weak, made the signature in its place over
/// the message in its place: one equation for all of them.
///
/// The result is not always that of [`EpochPublic::signed`] for each. The equation
/// `sum z_i (R_i + h_i A_i - s_i B) = 0`, where `z_i` are 128 bits from a hash over
/// all signatures, keys and messages, holds
///
/// * but for a chance of 2^-128 only if each signature is right up to a point of
///   small order (an eighth of such, or more, pass). To make one for a key that is
///   not weak, the key's secret half is needed: `h_i` is over `R_i`, so nobody can add
///   such a point to a signature that exists.
/// * also where an `R_i` is itself of small order, in any of its encodings. Making one
///   takes the secret half, too, and gives it away. (Other points in a wrong encoding
///   are no use to anybody: nobody knows what to sign for them.)
///
/// So it accepts no message that the key's holder did not sign. It may refuse good
/// signatures of a key with a part of small order: ask for each one by itself then.
pub(crate) fn all_signed(
    keys: &[EpochPublic],
    messages: &[&[u8]],
    signatures: &[[u8; 64]],
) -> bool {
    let keys: Vec<_> = keys.iter().map(|key| key.key).collect();
    let signatures: Vec<_> = signatures.iter().map(Signature::from_bytes).collect();
    verify_batch(messages, &signatures, &keys).is_ok()
}

fn read_pem(path: &Path, file: File) -> Result<Zeroizing<String>, KeyError> {
    // Reserved at once: growing would leave copies of a private key behind.
    let mut pem = Zeroizing::new(String::with_capacity(PEM_BUFFER_BYTES));
    file.take(MAX_KEY_FILE_BYTES + 1)
        .read_to_string(&mut pem)
        .map_err(io_error("read", path))?;
    if pem.len() as u64 > MAX_KEY_FILE_BYTES {
        return Err(malformed(path, "over 4096 bytes"));
    }
    Ok(pem)
}

/// Writes a file that must be new, durable together with its name.
fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), KeyError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(io_error("create", path))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .inspect_err(|_| drop(std::fs::remove_file(path)))
        .map_err(io_error("write", path))?;
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(io_error("sync", directory))
}

#[cfg(test)]
mod tests;

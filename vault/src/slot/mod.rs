//! Key slots: ways to open the root key.
//!
//! Runs in: the worker; jarvisctl for new vaults and exported histories.
//! Touches: the root key, passphrases, key files; no value.
//! Imported by: open/, vault.rs, txn/slots.rs, history.rs.

use std::path::Path;
use std::time::Instant;

use argon2::{Algorithm, Argon2, Params, Version};
use jarvis_sys::{KEY_LEN, LockedKey};
use serde::{Deserialize, Serialize};

use crate::crypto::{self, BriefKey, RecordKind, SealContext};
use crate::error::VaultError;
use crate::secret::SecretBytes;

/// Length of a key file in bytes.
pub const KEY_FILE_LEN: usize = 32;
/// Longest passphrase in bytes.
const MAX_PASSPHRASE_BYTES: usize = 1024;

/// Least memory a slot may ask for, in KiB (OWASP's first choice of 2024).
const MIN_MEMORY_KIB: u32 = 47 * 1024;
/// Most memory a slot may ask for, in KiB: a hostile file must not exhaust the machine.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
/// Least passes a slot may ask for.
const MIN_PASSES: u32 = 1;
/// Most passes a slot may ask for.
const MAX_PASSES: u32 = 32;
/// Least passes that calibration chooses.
const MIN_NEW_PASSES: u32 = 3;
/// Lanes of every slot.
const LANES: u32 = 1;
/// Memory of new slots, in KiB.
const NEW_MEMORY_KIB: u32 = 64 * 1024;
/// Time that one unlock should cost, in milliseconds.
const TARGET_MS: u128 = 300;

/// A credential that opens a slot.
pub enum Credential {
    /// A passphrase, stretched with Argon2id.
    Passphrase(SecretBytes),
    /// The 32 bytes of a key file.
    KeyFile(SecretBytes),
}

impl Credential {
    /// The error when it opened nothing: `tried` if there was a slot of its kind.
    pub(crate) fn refused(&self, path: &Path, tried: bool) -> VaultError {
        let path = path.to_owned();
        match self {
            Self::Passphrase(_) if tried => VaultError::WrongPassphrase { path },
            Self::KeyFile(_) if tried => VaultError::WrongKeyFile { path },
            Self::Passphrase(_) => VaultError::NoSlot {
                path,
                kind: "passphrase",
            },
            Self::KeyFile(_) => VaultError::NoSlot {
                path,
                kind: "key file",
            },
        }
    }
}

/// Most slots a vault has.
pub(crate) const MAX_SLOTS: u8 = 8;

/// A slot in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// Number of the slot, 0 to 7.
    pub number: u8,
    /// `passphrase` or `key file`.
    pub kind: &'static str,
    /// Parameters, for people.
    pub detail: String,
}

/// Kind of a slot with its parameters. Stored by its position: a new one goes last.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) enum SlotKind {
    /// Argon2id (RFC 9106), version 0x13.
    Passphrase {
        memory_kib: u32,
        passes: u32,
        lanes: u32,
    },
    /// HKDF-SHA256 of the file.
    KeyFile,
}

/// A slot as stored: not secret, the wrapped root key is sealed.
#[derive(Serialize, Deserialize)]
pub(crate) struct SlotRecord {
    pub(crate) kind: SlotKind,
    pub(crate) salt: [u8; 16],
    pub(crate) wrapped: Vec<u8>,
}

impl SlotRecord {
    /// Wraps `root` for `credential` in slot `number`.
    pub(crate) fn seal(
        vault: [u8; 16],
        number: u8,
        credential: &Credential,
        root: &[u8; KEY_LEN],
    ) -> Result<Self, VaultError> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt)?;
        let kind = match credential {
            Credential::Passphrase(_) => calibrate()?,
            Credential::KeyFile(_) => SlotKind::KeyFile,
        };
        let key = kind.stretch(number, credential, &salt)?;
        let wrapped = crypto::seal(key.expose(), context(vault, number), root)?;
        Ok(Self {
            kind,
            salt,
            wrapped,
        })
    }

    /// The slot as people see it.
    pub(crate) fn info(&self, number: u8) -> SlotInfo {
        let (kind, detail) = match self.kind {
            SlotKind::Passphrase {
                memory_kib,
                passes,
                lanes,
            } => (
                "passphrase",
                format!("Argon2id, {memory_kib} KiB, {passes} passes, {lanes} lane"),
            ),
            SlotKind::KeyFile => ("key file", "HKDF-SHA256".to_owned()),
        };
        SlotInfo {
            number,
            kind,
            detail,
        }
    }

    /// True if `credential` is of this slot's kind.
    pub(crate) fn fits(&self, credential: &Credential) -> bool {
        matches!(
            (self.kind, credential),
            (SlotKind::Passphrase { .. }, Credential::Passphrase(_))
                | (SlotKind::KeyFile, Credential::KeyFile(_))
        )
    }

    /// The root key of the file at `path` that has this slot only.
    pub(crate) fn unlock(
        self,
        path: &Path,
        id: [u8; 16],
        credential: &Credential,
    ) -> Result<BriefKey, VaultError> {
        let fits = self.fits(credential);
        let root = if fits {
            self.open(id, 0, credential)?
        } else {
            None
        };
        root.ok_or_else(|| credential.refused(path, fits))
    }

    /// The root key, or `None` when the credential is another one's.
    pub(crate) fn open(
        self,
        vault: [u8; 16],
        number: u8,
        credential: &Credential,
    ) -> Result<Option<BriefKey>, VaultError> {
        let key = self.kind.stretch(number, credential, &self.salt)?;
        Ok(crypto::open_key(key.expose(), context(vault, number), self.wrapped).ok())
    }
}

fn context(vault: [u8; 16], number: u8) -> SealContext {
    SealContext {
        vault,
        kind: RecordKind::Slot,
        id: u64::from(number),
        version: 0,
    }
}

impl SlotKind {
    /// The key that wraps the root key. The parameters need no further
    /// binding: other parameters give another key.
    fn stretch(
        self,
        number: u8,
        credential: &Credential,
        salt: &[u8; 16],
    ) -> Result<LockedKey, VaultError> {
        match (self, credential) {
            (
                Self::Passphrase {
                    memory_kib,
                    passes,
                    lanes,
                },
                Credential::Passphrase(passphrase),
            ) => {
                let bounded = (MIN_MEMORY_KIB..=MAX_MEMORY_KIB).contains(&memory_kib)
                    && (MIN_PASSES..=MAX_PASSES).contains(&passes)
                    && lanes == LANES;
                if !bounded {
                    return Err(VaultError::SlotParameters {
                        slot: number,
                        memory_kib,
                        passes,
                        lanes,
                    });
                }
                argon2id(memory_kib, passes, passphrase, salt)
            }
            (_, Credential::KeyFile(bytes)) => {
                check_key_file(bytes)?;
                crypto::derive(bytes.expose(), salt, "jarvis-vault-v1 key file slot")
            }
            (Self::KeyFile, Credential::Passphrase(_)) => Err(VaultError::Keys(
                std::io::Error::other("a passphrase for a key-file slot"),
            )),
        }
    }
}

fn check_key_file(bytes: &SecretBytes) -> Result<(), VaultError> {
    if bytes.len() == KEY_FILE_LEN {
        return Ok(());
    }
    Err(VaultError::KeyFileLength {
        found: bytes.len(),
        expected: KEY_FILE_LEN,
    })
}

fn argon2id(
    memory_kib: u32,
    passes: u32,
    passphrase: &SecretBytes,
    salt: &[u8; 16],
) -> Result<LockedKey, VaultError> {
    if passphrase.is_empty() || passphrase.len() > MAX_PASSPHRASE_BYTES {
        return Err(VaultError::PassphraseLength {
            max: MAX_PASSPHRASE_BYTES,
        });
    }
    let refused = |e: argon2::Error| VaultError::Keys(std::io::Error::other(e.to_string()));
    let params = Params::new(memory_kib, passes, LANES, None).map_err(refused)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    LockedKey::build(|out| {
        argon2
            .hash_password_into(passphrase.expose(), salt, out)
            .map_err(refused)
    })
}

/// Parameters that cost about [`TARGET_MS`] on this machine: the memory is
/// fixed first, then as many passes as fit.
fn calibrate() -> Result<SlotKind, VaultError> {
    let probe = SecretBytes::new(b"calibration".to_vec());
    let start = Instant::now();
    argon2id(NEW_MEMORY_KIB, 1, &probe, &[0; 16])?;
    let one = start.elapsed().as_millis().max(1);
    let passes = u32::try_from(TARGET_MS / one).unwrap_or(MAX_PASSES);
    Ok(SlotKind::Passphrase {
        memory_kib: NEW_MEMORY_KIB,
        passes: passes.clamp(MIN_NEW_PASSES, MAX_PASSES),
        lanes: LANES,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_parameters_are_refused_before_any_work() {
        let passphrase = Credential::Passphrase(SecretBytes::new(b"x".to_vec()));
        for (memory_kib, passes, lanes) in [
            (1, 3, 1),
            (u32::MAX, 3, 1),
            (NEW_MEMORY_KIB, 0, 1),
            (NEW_MEMORY_KIB, u32::MAX, 1),
            (NEW_MEMORY_KIB, 3, 255),
        ] {
            let kind = SlotKind::Passphrase {
                memory_kib,
                passes,
                lanes,
            };
            assert!(matches!(
                kind.stretch(0, &passphrase, &[0; 16]),
                Err(VaultError::SlotParameters { .. })
            ));
        }
    }

    #[test]
    fn calibration_stays_within_floor_and_ceiling() {
        let SlotKind::Passphrase {
            memory_kib, passes, ..
        } = calibrate().unwrap()
        else {
            panic!("calibration is for passphrases");
        };
        assert!((MIN_MEMORY_KIB..=MAX_MEMORY_KIB).contains(&memory_kib));
        assert!((MIN_NEW_PASSES..=MAX_PASSES).contains(&passes));
    }
}

//! A secret's history in a file of its own, for another place and time.
//!
//! The file has a key slot as a vault has, so that the credential is chosen at the
//! export; the vault's keys are not in it. docs/FORMATS.md gives the bytes.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::crypto::{self, BriefKey, RecordKind, SealContext};
use crate::error::VaultError;
use crate::kind::SecretType;
use crate::record::{Node, Secret};
use crate::secret::SecretBytes;
use crate::slot::{Credential, SlotRecord};
use crate::vault::Vault;
use crate::version::{SecretSettings, Version, VersionMark};

/// Format of the file that this release writes, and the latest it reads.
const FORMAT: u16 = 1;
const MAGIC: &[u8; 14] = b"jarvis-history";

/// Most bytes of all values in a history.
pub const MAX_HISTORY: usize = 8 * 1024 * 1024;
/// Longest file that can be a history, in bytes: what is known of versions without
/// value is small.
pub const MAX_HISTORY_FILE: u64 = 2 * MAX_HISTORY as u64;

/// Head of the file, in the clear: a program can tell what it has before it has a key.
#[derive(Serialize, Deserialize)]
struct HistoryHeader {
    magic: [u8; 14],
    format: u16,
    id: [u8; 16],
    slot: SlotRecord,
}

/// Rest of the file, all sealed.
#[derive(Serialize, Deserialize)]
struct SealedHistory {
    metadata: Vec<u8>,
    /// Values in the order of the metadata's versions; none for one without value.
    values: Vec<Option<Vec<u8>>>,
}

/// Everything that a history tells of a secret but its values.
#[derive(Clone, Serialize, Deserialize)]
pub struct HistoryMetadata {
    /// Name of the secret.
    pub name: Box<str>,
    /// Type of the secret.
    pub kind: SecretType,
    /// Versions, the oldest first.
    pub versions: Vec<Version>,
    /// Settings that differed from the configuration.
    pub settings: SecretSettings,
    /// Time of the export, Unix milliseconds.
    pub exported_ms: i64,
}

/// An opened history.
pub struct History {
    metadata: HistoryMetadata,
    values: Vec<Option<Vec<u8>>>,
    path: PathBuf,
    keys: HistoryKeys,
}

/// Key of one history; the vault's keys are not in the file.
struct HistoryKeys {
    id: [u8; 16],
    key: jarvis_sys::LockedKey,
}

impl HistoryKeys {
    fn new(id: [u8; 16], root: &BriefKey) -> Result<Self, VaultError> {
        let key = crypto::derive(root.as_slice(), &id, "jarvis-history-v1")?;
        Ok(Self { id, key })
    }

    fn context(&self, kind: RecordKind, version: u32) -> SealContext {
        SealContext {
            vault: self.id,
            kind,
            id: 0,
            version: u64::from(version),
        }
    }
}

/// True if a version's value is exported: what was revoked never leaves the vault.
fn exportable(version: &Version) -> bool {
    !matches!(version.mark, VersionMark::Revoked | VersionMark::Destroyed)
}

impl Vault {
    /// The history of `node`, sealed so that `credential` opens it, and the
    /// versions whose values are in it.
    ///
    /// # Errors
    /// [`VaultError::TooLarge`] over [`MAX_HISTORY`], what is wrong with the
    /// credential, or a failure of the vault.
    pub fn export(
        &self,
        node: &Node,
        secret: &Secret,
        credential: &Credential,
        now_ms: i64,
    ) -> Result<(Vec<u8>, Vec<Version>), VaultError> {
        let len: usize = secret
            .versions
            .iter()
            .filter(|version| exportable(version))
            .map(|version| version.len as usize)
            .sum();
        if len > MAX_HISTORY {
            return Err(VaultError::TooLarge {
                len,
                max: MAX_HISTORY,
            });
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        let root = crypto::random_key()?;
        let keys = HistoryKeys::new(id, &root)?;
        let (mut values, mut exported) = (Vec::new(), Vec::new());
        for version in &secret.versions {
            let value = if exportable(version) {
                self.value(node, version.number)?
            } else {
                None
            };
            let sealed = value.map(|value| {
                exported.push(version.clone());
                let context = keys.context(RecordKind::Value, version.number);
                crypto::seal(keys.key.expose(), context, value.expose())
            });
            values.push(sealed.transpose()?);
        }
        let metadata = self.encoded(&HistoryMetadata {
            name: node.path.clone(),
            kind: secret.kind.clone(),
            versions: secret.versions.clone(),
            settings: secret.settings.clone(),
            exported_ms: now_ms,
        })?;
        let context = keys.context(RecordKind::Node, 0);
        let metadata = SecretBytes::new(metadata);
        let metadata = crypto::seal(keys.key.expose(), context, metadata.expose())?;
        let header = HistoryHeader {
            magic: *MAGIC,
            format: FORMAT,
            id,
            slot: SlotRecord::seal(id, 0, credential, &root)?,
        };
        let bytes = self.encoded(&(header, SealedHistory { metadata, values }))?;
        Ok((bytes, exported))
    }

    fn encoded<T: Serialize>(&self, record: &T) -> Result<Vec<u8>, VaultError> {
        postcard::to_allocvec(record).map_err(|error| self.core.damaged(error.to_string()))
    }
}

impl History {
    /// Opens the file's `bytes`; `path` is for errors.
    ///
    /// # Errors
    /// [`VaultError::NotAHistory`], [`VaultError::Newer`],
    /// [`VaultError::WrongPassphrase`], [`VaultError::WrongKeyFile`],
    /// [`VaultError::NoSlot`], [`VaultError::SlotParameters`],
    /// [`VaultError::Damaged`].
    pub fn open(path: &Path, bytes: &[u8], credential: &Credential) -> Result<Self, VaultError> {
        let not_a_history = || VaultError::NotAHistory {
            path: path.to_owned(),
        };
        let (magic, rest) = bytes
            .split_at_checked(MAGIC.len())
            .ok_or_else(not_a_history)?;
        if magic != MAGIC {
            return Err(not_a_history());
        }
        let (found, _): (u16, _) = postcard::take_from_bytes(rest).map_err(|_| not_a_history())?;
        match found {
            FORMAT => {}
            0 => return Err(not_a_history()),
            _ => {
                return Err(VaultError::Newer {
                    path: path.to_owned(),
                    found,
                    supported: FORMAT,
                });
            }
        }
        let damaged = |what: &str| VaultError::damaged(path, what);
        let cut = || damaged("it cannot be decoded");
        let ((header, sealed), rest): ((HistoryHeader, SealedHistory), _) =
            postcard::take_from_bytes(bytes).map_err(|_| cut())?;
        if !rest.is_empty() {
            return Err(damaged("something follows it"));
        }
        let root = header.slot.unlock(path, header.id, credential)?;
        let keys = HistoryKeys::new(header.id, &root)?;
        let context = keys.context(RecordKind::Node, 0);
        let metadata = crypto::open(keys.key.expose(), context, sealed.metadata)
            .map_err(|_| damaged("its story does not authenticate"))?;
        let metadata: HistoryMetadata =
            postcard::from_bytes(metadata.expose()).map_err(|_| cut())?;
        if metadata.versions.len() != sealed.values.len() {
            return Err(damaged("values are missing"));
        }
        Ok(Self {
            metadata,
            values: sealed.values,
            path: path.to_owned(),
            keys,
        })
    }

    /// Everything but the values.
    #[must_use]
    pub fn metadata(&self) -> &HistoryMetadata {
        &self.metadata
    }

    /// True if the value of version `number` is in it.
    #[must_use]
    pub fn has(&self, number: u32) -> bool {
        self.sealed(number).is_some()
    }

    /// The value of version `number`.
    ///
    /// # Errors
    /// [`VaultError::NoSuchVersion`] when it is not in it,
    /// [`VaultError::Damaged`].
    pub fn value(&self, number: u32) -> Result<SecretBytes, VaultError> {
        let sealed = self
            .sealed(number)
            .ok_or_else(|| VaultError::NoSuchVersion {
                name: self.metadata.name.to_string(),
                version: number,
            })?;
        let context = self.keys.context(RecordKind::Value, number);
        crypto::open(self.keys.key.expose(), context, sealed.to_vec())
            .map_err(|_| VaultError::damaged(&self.path, "a value does not authenticate"))
    }

    fn sealed(&self, number: u32) -> Option<&[u8]> {
        let versions = self.metadata.versions.iter().zip(&self.values);
        let mut found = versions.filter(|(version, _)| version.number == number);
        found.next()?.1.as_deref()
    }
}

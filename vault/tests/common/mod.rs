//! A vault in a temporary directory.
#![allow(dead_code, missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use jarvis_vault::{
    Credential, LockedVault, NewVersion, SecretBytes, SecretName, Vault, VaultError, WriteOutcome,
};
use tempfile::TempDir;

pub const NOW: i64 = 1_800_000_000_000;
pub const DAY: i64 = 86_400_000;

pub fn key(fill: u8) -> Credential {
    Credential::KeyFile(SecretBytes::new(vec![fill; 32]))
}

pub fn passphrase(text: &str) -> Credential {
    Credential::Passphrase(SecretBytes::new(text.as_bytes().to_vec()))
}

pub fn name(text: &str) -> SecretName {
    SecretName::parse(text).unwrap()
}

pub fn new_version() -> NewVersion<'static> {
    NewVersion {
        life_ms: 90 * DAY,
        keep: 10,
        ..NewVersion::by(7, NOW)
    }
}

pub struct VaultHome {
    pub dir: TempDir,
}

impl VaultHome {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        Self { dir }
    }

    pub fn with_key(fill: u8) -> Self {
        let home = Self::new();
        jarvis_vault::create(&home.path(), &key(fill), NOW).unwrap();
        home
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("vault.redb")
    }

    pub fn try_open(&self, credential: &Credential) -> Result<Vault, VaultError> {
        let locked = LockedVault::open(&self.path())?;
        let probe = locked.unlock(credential)?;
        locked.start(probe)
    }

    pub fn open(&self) -> Vault {
        self.try_open(&key(1)).unwrap()
    }
}

pub fn set(vault: &Vault, path: &str, value: &[u8]) -> WriteOutcome {
    try_set(vault, path, value, &new_version()).unwrap()
}

pub fn try_set(
    vault: &Vault,
    path: &str,
    value: &[u8],
    new: &NewVersion<'_>,
) -> Result<WriteOutcome, VaultError> {
    vault.write(|txn| txn.set(&name(path), value, new))
}

pub fn current(vault: &Vault, path: &str) -> Option<Vec<u8>> {
    let node = vault.find(&name(path)).unwrap()?;
    let version = node.live_secret()?.current()?.number;
    let value = vault.value(&node, version).unwrap()?;
    Some(value.expose().to_vec())
}

//! Creating, opening and unlocking a vault file.
//!
//! Runs in: the worker; jarvisctl creates.
//! Touches: the vault's file, the root key and all keys below it; no value.
//! Imported by: lib.rs alone.
//!
//! The file is locked, then looked at through an overlay in memory that takes all
//! writes (store/overlay.rs), unlocked, and compared with the audit log by the caller
//! ([`Probe::seq`]). Only [`LockedVault::start`] opens it for writing: a refusal of
//! any kind leaves it byte for byte as it was. [`LockedVault::reopen`] leaves the
//! look out, for a file that a worker had open until it died.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jarvis_sys::trust::{self, Rule};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::crypto::{self, BriefKey, RecordKind, SealContext};
use crate::error::VaultError;
use crate::keys::{VaultCore, VaultKeys};
use crate::record::{self, NodeId, VaultState, key};
use crate::slot::{Credential, MAX_SLOTS, SlotRecord};
use crate::store::file::{VaultFile, VaultPlace};
use crate::store::redb::RedbStore;
use crate::store::{Batch, RoomClaim, Store, StoreError};
use crate::vault::Vault;
use crate::witness::Witness;

/// Format of the vault that this release writes, and the latest it reads.
const FORMAT: u16 = 1;
const MAGIC: &[u8; 12] = b"jarvis-vault";
/// The one tenant so far.
const TENANT: u64 = 0;
/// Ids below are for what the file system itself makes up.
const FIRST_ID: NodeId = 1024;

/// First record of the file, in the clear: a program can tell what it has before it
/// has a key.
#[derive(Serialize, Deserialize)]
struct VaultHeader {
    magic: [u8; 12],
    format: u16,
    vault: [u8; 16],
    created_ms: i64,
}

/// Makes a vault at `path` (mode 0600) with one key slot; its directory must
/// exist and be 0700 or narrower.
///
/// # Errors
/// [`VaultError::Exists`], [`VaultError::Distrusted`], or a failure of the file
/// system; a failed creation leaves no file.
pub fn create(path: &Path, credential: &Credential, now_ms: i64) -> Result<(), VaultError> {
    check_directory(path)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => VaultError::Exists {
                path: path.to_owned(),
            },
            _ => io_error("create", path, source),
        })?;
    fill(path, file, credential, now_ms).inspect_err(|_| {
        // The error that is reported says more than one of this clean-up would.
        std::fs::remove_file(path).ok();
    })
}

fn fill(path: &Path, file: File, credential: &Credential, now_ms: i64) -> Result<(), VaultError> {
    lock(path, &file)?;
    let mut vault = [0; 16];
    getrandom::fill(&mut vault)?;
    let root = crypto::random_key()?;
    let batch = first_batch(vault, &root, credential, now_ms)?;
    let file = VaultFile::new(file, path.into(), None)?;
    let store = RedbStore::open(file, key::STATE, false)?;
    store.commit(&batch, RoomClaim::Ordinary)?;
    sync_directory(path)
}

fn first_batch(
    vault: [u8; 16],
    root: &BriefKey,
    credential: &Credential,
    now_ms: i64,
) -> Result<Batch, VaultError> {
    let header = VaultHeader {
        magic: *MAGIC,
        format: FORMAT,
        vault,
        created_ms: now_ms,
    };
    let tenant = crypto::random_key()?;
    let wrapped = crypto::seal(
        tenant_wrap(vault, root)?.expose(),
        tenant_context(vault),
        tenant.as_slice(),
    )?;
    let keys = derive_keys(vault, root, &tenant)?;
    let state = VaultState {
        seq: 0,
        next_id: FIRST_ID,
        revocations: 0,
        secrets: 0,
        witness: Witness::default(),
    };
    let sealed = crypto::seal(
        keys.state.expose(),
        keys.context(RecordKind::State, 0, 0),
        &encode(&state)?,
    )?;
    let record = SlotRecord::seal(vault, 0, credential, root)?;
    Ok(vec![
        (key::FORMAT.to_vec(), Some(encode(&header)?)),
        (key::slot(0), Some(encode(&record)?)),
        (key::tenant(TENANT), Some(wrapped)),
        (key::STATE.to_vec(), Some(sealed)),
    ])
}

/// A vault file that is ours alone (locked) and recognised, but not unlocked.
/// Nothing has been written to it.
pub struct LockedVault {
    place: VaultPlace,
    vault: [u8; 16],
    view: RedbStore,
    /// The file, if the view is a look at it from outside, not the file opened.
    probed: Option<File>,
}

/// A successful unlock, before anything is written.
pub struct Probe {
    keys: VaultKeys,
    state: VaultState,
    slot: Option<u8>,
}

impl Probe {
    /// Commits so far, to be compared with the audit log.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.state.seq
    }

    /// The vault's memory of the audit log and of the time.
    #[must_use]
    pub fn witness(&self) -> Witness {
        self.state.witness
    }
}

impl LockedVault {
    /// Takes the file's lock, checks modes, every checksum and the format.
    ///
    /// # Errors
    /// [`VaultError::InUse`], [`VaultError::Distrusted`], [`VaultError::NotAVault`],
    /// [`VaultError::Newer`], [`VaultError::Damaged`]; the file stays as it is.
    pub fn open(place: impl Into<VaultPlace>) -> Result<Self, VaultError> {
        Self::open_as(place.into(), true)
    }

    /// Opens, as [`Self::open`] does, a file that was open a moment ago in a process
    /// that died: checksums are not verified again, which would take as long as the
    /// vault is large. What can't be written, as its disk fails, is read.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn reopen(place: impl Into<VaultPlace>) -> Result<Self, VaultError> {
        Self::open_as(place.into(), false)
    }

    fn open_as(place: VaultPlace, probing: bool) -> Result<Self, VaultError> {
        let path = place.path.clone();
        check_directory(&path)?;
        let open = |write| OpenOptions::new().read(true).write(write).open(&path);
        let (file, read_only) = match open(true) {
            Err(error) if !probing && error.kind() != io::ErrorKind::NotFound => {
                (open(false), Some(error))
            }
            result => (result, None),
        };
        let file = file.map_err(|source| io_error("open", &path, source))?;
        trust::check(&path, &file, Rule::PRIVATE_FILE)?;
        lock(&path, &file)?;
        if !has_magic(&file).map_err(|source| io_error("read", &path, source))? {
            return Err(VaultError::NotAVault { path });
        }
        let probed = probing.then(|| duplicate(&path, &file)).transpose()?;
        let file = VaultFile::new(file, place.clone(), read_only.as_ref())?;
        let view = if probing {
            RedbStore::probe(file, key::STATE)
        } else {
            RedbStore::open(file, key::STATE, true)
        };
        let view = view.map_err(|e| open_error(&path, e))?;
        let header = read_header(&path, &view)?;
        Ok(Self {
            place,
            vault: header.vault,
            view,
            probed,
        })
    }

    /// Opens the root key with `credential` and all that hangs below it.
    ///
    /// # Errors
    /// [`VaultError::WrongPassphrase`], [`VaultError::WrongKeyFile`],
    /// [`VaultError::NoSlot`], [`VaultError::SlotParameters`],
    /// [`VaultError::Damaged`]; the file stays as it is.
    pub fn unlock(&self, credential: &Credential) -> Result<Probe, VaultError> {
        let (slot, root) = self.open_slots(credential)?;
        self.resume(&root, Some(slot))
    }

    /// Opens what hangs below the root key that a predecessor handed over, with the number of
    /// the slot it had it from.
    ///
    /// # Errors
    /// [`VaultError::Damaged`], also for another vault's key.
    pub fn resume(
        &self,
        root: &[u8; jarvis_sys::KEY_LEN],
        slot: Option<u8>,
    ) -> Result<Probe, VaultError> {
        let root = BriefKey::new(*root);
        let wrapped = self.required(&key::tenant(TENANT), "the tenant's key is missing")?;
        let tenant = crypto::open_key(
            tenant_wrap(self.vault, &root)?.expose(),
            tenant_context(self.vault),
            wrapped,
        )
        .map_err(|_| self.damaged("the tenant's key does not authenticate"))?;
        let keys = derive_keys(self.vault, &root, &tenant)?;
        let sealed = self.required(key::STATE, "the state is missing")?;
        let context = keys.context(RecordKind::State, 0, 0);
        let state = crypto::open(keys.state.expose(), context, sealed)
            .map_err(|_| self.damaged("the state does not authenticate"))?;
        let state = record::decode(state.expose())
            .map_err(|_| self.damaged("the state cannot be decoded"))?;
        Ok(Probe { keys, state, slot })
    }

    /// Opens the file for good; from here on it is written.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn start(self, probe: Probe) -> Result<Vault, VaultError> {
        let place = self.place;
        let store = match self.probed {
            None => self.view,
            Some(file) => {
                drop(self.view);
                let file = VaultFile::new(file, place.clone(), None)?;
                RedbStore::open(file, key::STATE, false).map_err(|e| open_error(&place.shown, e))?
            }
        };
        let core = VaultCore {
            path: place.shown,
            store: Box::new(store),
            keys: probe.keys,
            slot: probe.slot,
        };
        Ok(Vault::new(core, probe.state))
    }

    /// The first slot that `credential` opens, and the root key in it.
    fn open_slots(&self, credential: &Credential) -> Result<(u8, BriefKey), VaultError> {
        let mut tried = false;
        for number in 0..MAX_SLOTS {
            let Some(bytes) = self.view.get(&key::slot(number))? else {
                continue;
            };
            let record: SlotRecord =
                record::decode(&bytes).map_err(|_| self.damaged("a key slot cannot be decoded"))?;
            if record.fits(credential) {
                tried = true;
                if let Some(root) = record.open(self.vault, number, credential)? {
                    return Ok((number, root));
                }
            }
        }
        Err(credential.refused(&self.place.path, tried))
    }

    fn required(&self, key: &[u8], missing: &'static str) -> Result<Vec<u8>, VaultError> {
        self.view.get(key)?.ok_or_else(|| self.damaged(missing))
    }

    fn damaged(&self, what: &str) -> VaultError {
        VaultError::damaged(&self.place.path, what)
    }
}

/// True if the file begins as redb's do: cheap, and it tells a foreign file from a
/// damaged one.
fn has_magic(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) => Ok(&magic == b"redb"),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn read_header(path: &Path, view: &RedbStore) -> Result<VaultHeader, VaultError> {
    let not_a_vault = || VaultError::NotAVault {
        path: path.to_owned(),
    };
    let bytes = view.get(key::FORMAT)?.ok_or_else(not_a_vault)?;
    let header: VaultHeader = record::decode(&bytes).map_err(|_| not_a_vault())?;
    if &header.magic != MAGIC {
        return Err(not_a_vault());
    }
    if header.format > FORMAT {
        return Err(VaultError::Newer {
            path: path.to_owned(),
            found: header.format,
            supported: FORMAT,
        });
    }
    Ok(header)
}

fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, VaultError> {
    record::encode(record).map_err(|e| VaultError::Keys(io::Error::other(e.to_string())))
}

fn tenant_wrap(vault: [u8; 16], root: &BriefKey) -> Result<jarvis_sys::LockedKey, VaultError> {
    crypto::derive(root.as_slice(), &vault, "jarvis-vault-v1 tenant wrap")
}

fn tenant_context(vault: [u8; 16]) -> SealContext {
    SealContext {
        vault,
        kind: RecordKind::TenantKey,
        id: TENANT,
        version: 0,
    }
}

fn derive_keys(
    vault: [u8; 16],
    root: &BriefKey,
    tenant: &BriefKey,
) -> Result<VaultKeys, VaultError> {
    let below = |info| crypto::derive(tenant.as_slice(), &vault, info);
    Ok(VaultKeys {
        vault,
        root: crypto::lock(root)?,
        state: crypto::derive(root.as_slice(), &vault, "jarvis-vault-v1 state")?,
        names: below("jarvis-vault-v1 names")?,
        meta: below("jarvis-vault-v1 meta")?,
        wrap: below("jarvis-vault-v1 wrap")?,
    })
}

fn lock(path: &Path, file: &File) -> Result<(), VaultError> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
        if errno == rustix::io::Errno::WOULDBLOCK {
            VaultError::InUse {
                path: path.to_owned(),
            }
        } else {
            io_error("lock", path, errno.into())
        }
    })
}

fn duplicate(path: &Path, file: &File) -> Result<File, VaultError> {
    file.try_clone()
        .map_err(|source| io_error("duplicate", path, source))
}

fn check_directory(path: &Path) -> Result<(), VaultError> {
    let directory = directory_of(path);
    trust::open_end(directory, Rule::PRIVATE_DIRECTORY)?;
    Ok(())
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_directory(path: &Path) -> Result<(), VaultError> {
    let directory = directory_of(path);
    File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(|source| io_error("sync", directory, source))
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> VaultError {
    VaultError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

fn open_error(path: &Path, error: StoreError) -> VaultError {
    match error {
        StoreError::Damaged(what) => VaultError::damaged(path, what),
        other => VaultError::Store(other),
    }
}

#[cfg(test)]
mod tests;

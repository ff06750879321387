//! The keys of an unlocked vault, and the records that open with them.
//!
//! What [`crate::Vault`] reads with and [`crate::Txn`] writes with is here, so
//! that neither needs the other.

use std::ops::ControlFlow;
use std::path::PathBuf;

use jarvis_sys::LockedKey;
use serde::Serialize;

use crate::crypto::{self, BriefKey, RecordKind, SealContext};
use crate::error::VaultError;
use crate::record::{self, Node, NodeId, Secret, VaultState, key};
use crate::revocation::Revocation;
use crate::secret::SecretBytes;
use crate::store::Store;

/// The keys derived at unlock, each for one purpose.
pub(crate) struct VaultKeys {
    /// The vault's id, bound into every context.
    pub(crate) vault: [u8; 16],
    /// The root key; goes into new key slots.
    pub(crate) root: LockedKey,
    /// The key that seals [`record::VaultState`].
    pub(crate) state: LockedKey,
    /// The key that hashes names.
    pub(crate) names: LockedKey,
    /// The key that seals nodes, revocations, the outbox and the journal.
    pub(crate) meta: LockedKey,
    /// The key that wraps data keys.
    pub(crate) wrap: LockedKey,
}

impl VaultKeys {
    /// The place of record `id` of `kind`.
    pub(crate) fn context(&self, kind: RecordKind, id: u64, version: u64) -> SealContext {
        SealContext {
            vault: self.vault,
            kind,
            id,
            version,
        }
    }

    /// The place of the answer to `request` of `mount`. A nonce is random: its first
    /// half tells mounts apart well enough, the entry's key has all of it.
    pub(crate) fn journal_context(&self, mount: &[u8; 16], request: u64) -> SealContext {
        let half = mount.first_chunk().copied().unwrap_or_default();
        self.context(RecordKind::Journal, request, u64::from_be_bytes(half))
    }

    /// The store's key of entry `segment` in directory `parent`.
    pub(crate) fn entry(&self, parent: NodeId, segment: &str) -> Vec<u8> {
        key::entry(parent, crypto::name_hash(&self.names, parent, segment))
    }

    /// Seals metadata for `context`.
    pub(crate) fn seal_meta(
        &self,
        context: SealContext,
        plain: &[u8],
    ) -> Result<Vec<u8>, VaultError> {
        crypto::seal(self.meta.expose(), context, plain)
    }
}

/// A record's key in the store, and its bytes there.
pub(crate) type StoredRecord = (Vec<u8>, Vec<u8>);

/// The parts of an unlocked vault that reading and writing share.
pub(crate) struct VaultCore {
    /// The vault's file, for errors.
    pub(crate) path: PathBuf,
    /// Ciphertext, and nothing else.
    pub(crate) store: Box<dyn Store>,
    /// The keys, in locked memory.
    pub(crate) keys: VaultKeys,
    /// The slot whose credential opened them, where that is known.
    pub(crate) slot: Option<u8>,
}

impl VaultCore {
    /// The error for a record that is not what was sealed.
    pub(crate) fn damaged(&self, what: impl Into<String>) -> VaultError {
        VaultError::damaged(&self.path, what)
    }

    /// The bytes of `record`, to be sealed.
    pub(crate) fn encode<T: Serialize>(&self, record: &T) -> Result<Vec<u8>, VaultError> {
        record::encode(record).map_err(|e| self.damaged(e.to_string()))
    }

    /// All records whose keys start with `prefix`, in order; no read transaction
    /// stays open while they are looked at.
    pub(crate) fn records(&self, prefix: &[u8]) -> Result<Vec<StoredRecord>, VaultError> {
        let mut records = Vec::new();
        self.store.scan(prefix, prefix, &mut |key, value| {
            records.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        Ok(records)
    }

    /// Opens metadata; `what` names it when it does not authenticate.
    pub(crate) fn open_meta(
        &self,
        context: SealContext,
        sealed: Vec<u8>,
        what: &str,
    ) -> Result<SecretBytes, VaultError> {
        crypto::open(self.keys.meta.expose(), context, sealed).map_err(|_| self.damaged(what))
    }

    /// Opens node `id`.
    pub(crate) fn open_node(&self, id: NodeId, sealed: Vec<u8>) -> Result<Node, VaultError> {
        let context = self.keys.context(RecordKind::Node, id, 0);
        let plain = self.open_meta(context, sealed, "a node does not authenticate")?;
        let node: Node =
            record::decode(plain.expose()).map_err(|_| self.damaged("a node cannot be decoded"))?;
        if node.id == id {
            Ok(node)
        } else {
            Err(self.damaged("a node with another id"))
        }
    }

    /// Opens revocation `id`.
    pub(crate) fn open_revocation(
        &self,
        id: u64,
        sealed: Vec<u8>,
    ) -> Result<Revocation, VaultError> {
        let context = self.keys.context(RecordKind::Revocation, id, 0);
        let plain = self.open_meta(context, sealed, "a revocation does not authenticate")?;
        record::decode(plain.expose()).map_err(|_| self.damaged("a revocation cannot be decoded"))
    }

    /// Seals the counters.
    pub(crate) fn seal_state(&self, state: &VaultState) -> Result<Vec<u8>, VaultError> {
        let plain = self.encode(state)?;
        let context = self.keys.context(RecordKind::State, 0, 0);
        crypto::seal(self.keys.state.expose(), context, &plain)
    }

    /// Seals `value` as version `number` of secret `id`.
    pub(crate) fn seal_value(
        &self,
        id: NodeId,
        secret: &Secret,
        number: u32,
        value: &[u8],
    ) -> Result<Vec<u8>, VaultError> {
        let data_key = self.open_data_key(id, secret)?;
        let context = self.keys.context(RecordKind::Value, id, u64::from(number));
        crypto::seal(&data_key, context, value)
    }

    /// Opens the value of version `number` of secret `id`.
    pub(crate) fn open_value(
        &self,
        id: NodeId,
        secret: &Secret,
        number: u32,
        sealed: Vec<u8>,
    ) -> Result<SecretBytes, VaultError> {
        let data_key = self.open_data_key(id, secret)?;
        let context = self.keys.context(RecordKind::Value, id, u64::from(number));
        crypto::open(&data_key, context, sealed).map_err(|_| self.damaged("a value"))
    }

    fn open_data_key(&self, id: NodeId, secret: &Secret) -> Result<BriefKey, VaultError> {
        let context = self.keys.context(RecordKind::DataKey, id, 0);
        crypto::open_key(self.keys.wrap.expose(), context, secret.data_key.clone())
            .map_err(|_| self.damaged("a data key does not authenticate"))
    }
}

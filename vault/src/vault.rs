//! An unlocked vault: reading, and the one writer.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jarvis_sys::LockedKey;
use parking_lot::Mutex;

use crate::cache::Cache;
use crate::crypto::{self, BriefKey, Context, Kind};
use crate::error::VaultError;
use crate::name::SecretName;
use crate::record::{self, Body, Node, NodeId, Secret, State, key};
use crate::secret::SecretBytes;
use crate::slot::{SLOTS, SlotInfo, SlotRecord};
use crate::store::Store;
use crate::txn::Txn;

/// The root directory's id.
pub const ROOT: NodeId = 1;

/// The keys derived at unlock, each for one purpose.
pub(crate) struct Keys {
    pub(crate) vault: [u8; 16],
    /// Goes into new key slots.
    pub(crate) root: LockedKey,
    /// Seals [`State`].
    pub(crate) state: LockedKey,
    /// Hashes names.
    pub(crate) names: LockedKey,
    /// Seals nodes and the outbox.
    pub(crate) meta: LockedKey,
    /// Wraps data keys.
    pub(crate) wrap: LockedKey,
}

impl Keys {
    pub(crate) fn context(&self, kind: Kind, id: u64, version: u64) -> Context {
        Context {
            vault: self.vault,
            kind,
            id,
            version,
        }
    }
}

/// Figures for status and health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Commits so far.
    pub seq: u64,
    /// Secrets that are not deleted.
    pub secrets: u64,
}

/// A commit's note that [`Vault::recorded`] has not yet confirmed.
pub struct Pending {
    /// The commit.
    pub seq: u64,
    /// What the committer wrote with [`Txn::note`].
    pub note: Vec<u8>,
}

/// An answer that was committed together with what it tells of.
pub struct Journalled {
    /// The mount's nonce.
    pub mount: [u8; 16],
    /// The request's number.
    pub request: u64,
    /// What [`Txn::journal`] was given.
    pub answer: Vec<u8>,
}

/// An open, unlocked vault. Reads run in parallel with the one writer.
pub struct Vault {
    pub(crate) path: PathBuf,
    pub(crate) store: Box<dyn Store>,
    pub(crate) keys: Keys,
    cache: Cache,
    writer: Mutex<State>,
    seq: AtomicU64,
    secrets: AtomicU64,
    recorded: AtomicU64,
}

impl Vault {
    pub(crate) fn new(path: &Path, store: Box<dyn Store>, keys: Keys, state: State) -> Self {
        Self {
            path: path.to_owned(),
            store,
            keys,
            cache: Cache::default(),
            writer: Mutex::new(state),
            seq: AtomicU64::new(state.seq),
            secrets: AtomicU64::new(state.secrets),
            recorded: AtomicU64::new(0),
        }
    }

    /// Commits and live secrets as of the last commit.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            seq: self.seq.load(Ordering::Acquire),
            secrets: self.secrets.load(Ordering::Acquire),
        }
    }

    /// The node `id`, also a deleted secret; `None` for an id without record
    /// (never used, or purged) and for [`ROOT`], which has no record.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] or a store error.
    pub fn node(&self, id: NodeId) -> Result<Option<Arc<Node>>, VaultError> {
        let generation = self.cache.generation();
        let node = self.peek(id)?;
        if let Some(node) = &node {
            self.cache.insert(node, generation);
        }
        Ok(node)
    }

    /// As [`Vault::node`], but a walk over everything does not push out of the
    /// cache what is in use.
    fn peek(&self, id: NodeId) -> Result<Option<Arc<Node>>, VaultError> {
        if let Some(node) = self.cache.get(id) {
            return Ok(Some(node));
        }
        let Some(sealed) = self.store.get(&key::node(id))? else {
            return Ok(None);
        };
        let node = open_node(&self.keys, id, sealed).map_err(|e| self.damaged(e))?;
        Ok(Some(Arc::new(node)))
    }

    /// The live entry `segment` of directory `parent`.
    ///
    /// # Errors
    /// As [`Vault::node`].
    pub fn lookup(&self, parent: NodeId, segment: &str) -> Result<Option<Arc<Node>>, VaultError> {
        let hash = crypto::name_hash(&self.keys.names, parent, segment);
        let Some(id) = self.store.get(&key::entry(parent, hash))? else {
            return Ok(None);
        };
        let Some(id) = key::trailing_id(&id) else {
            return Err(self.damaged("a directory entry"));
        };
        let Some(node) = self.node(id)? else {
            // Purged by the writer between the two reads.
            return Ok(None);
        };
        // The entry itself is not sealed; the node it leads to says where it belongs.
        if node.parent != parent || node.segment() != segment {
            return Err(self.damaged("a directory entry that leads elsewhere"));
        }
        Ok(Some(node))
    }

    /// The live node called `name`.
    ///
    /// # Errors
    /// As [`Vault::node`].
    pub fn find(&self, name: &SecretName) -> Result<Option<Arc<Node>>, VaultError> {
        name.follow(
            ROOT,
            |node: &Arc<Node>| node.id,
            |parent, segment| self.lookup(parent, segment),
        )
    }

    /// Visits the entries of directory `parent` with ids above `after`, in the
    /// order of ids, until `visit` breaks.
    ///
    /// # Errors
    /// As [`Vault::node`].
    pub fn children(
        &self,
        parent: NodeId,
        after: NodeId,
        visit: impl FnMut(&Node) -> ControlFlow<()>,
    ) -> Result<(), VaultError> {
        self.scan_children((parent, after), |id| self.node(id), visit)
    }

    fn scan_children(
        &self,
        (parent, after): (NodeId, NodeId),
        load: impl Fn(NodeId) -> Result<Option<Arc<Node>>, VaultError>,
        mut visit: impl FnMut(&Node) -> ControlFlow<()>,
    ) -> Result<(), VaultError> {
        let mut failure = None;
        let from = key::child(parent, after.saturating_add(1));
        self.store
            .scan(&key::children(parent), &from, &mut |entry, _| {
                let Some(id) = key::trailing_id(entry) else {
                    return ControlFlow::Continue(());
                };
                match load(id) {
                    Ok(Some(node)) => visit(&node),
                    Ok(None) => ControlFlow::Continue(()),
                    Err(error) => {
                        failure = Some(error);
                        ControlFlow::Break(())
                    }
                }
            })?;
        failure.map_or(Ok(()), Err)
    }

    /// Visits every live secret beneath directory `parent`, depth first.
    ///
    /// # Errors
    /// As [`Vault::node`].
    pub fn walk(
        &self,
        parent: NodeId,
        visit: &mut dyn FnMut(&Node, &Secret),
    ) -> Result<(), VaultError> {
        // Collected first: no read transaction stays open while descending.
        let mut directories = Vec::new();
        let load = |id| self.peek(id);
        self.scan_children((parent, 0), load, |node| {
            match &node.body {
                Body::Directory { live: 0 } => {}
                Body::Directory { .. } => directories.push(node.id),
                Body::Secret(_) => {
                    if let Some(secret) = node.live_secret() {
                        visit(node, secret);
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        directories
            .into_iter()
            .try_for_each(|directory| self.walk(directory, visit))
    }

    /// The key slots in use.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] or a store error.
    pub fn slots(&self) -> Result<Vec<SlotInfo>, VaultError> {
        let mut slots = Vec::new();
        for number in 0..SLOTS {
            if let Some(bytes) = self.store.get(&key::slot(number))? {
                let record: SlotRecord = record::decode(&bytes)
                    .map_err(|_| self.damaged("a key slot cannot be decoded"))?;
                slots.push(record.info(number));
            }
        }
        Ok(slots)
    }

    /// Visits the secrets that are deleted and can be restored or purged.
    ///
    /// # Errors
    /// As [`Vault::node`].
    pub fn deleted(&self, mut visit: impl FnMut(&Node)) -> Result<(), VaultError> {
        let mut ids = Vec::new();
        self.store.scan(key::DELETED, key::DELETED, &mut |k, _| {
            ids.extend(key::trailing_id(k));
            ControlFlow::Continue(())
        })?;
        for id in ids {
            if let Some(node) = self.node(id)? {
                visit(&node);
            }
        }
        Ok(())
    }

    /// Decrypts `version` of `node`; `None` when that version was pruned.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] or a store error.
    pub fn value(&self, node: &Node, version: u32) -> Result<Option<SecretBytes>, VaultError> {
        let Body::Secret(secret) = &node.body else {
            return Err(VaultError::IsDirectory(node.path.to_string()));
        };
        let Some(sealed) = self.store.get(&key::value(node.id, version))? else {
            return Ok(None);
        };
        self.open_value(node.id, secret, version, sealed).map(Some)
    }

    pub(crate) fn open_value(
        &self,
        id: NodeId,
        secret: &Secret,
        version: u32,
        sealed: Vec<u8>,
    ) -> Result<SecretBytes, VaultError> {
        let data_key = open_data_key(&self.keys, id, secret).map_err(|e| self.damaged(e))?;
        let context = self.keys.context(Kind::Value, id, u64::from(version));
        crypto::open(&data_key, context, sealed).map_err(|_| self.damaged("a value"))
    }

    /// Runs `change` and commits what it did, all or nothing. Writers take
    /// turns; readers go on.
    ///
    /// # Errors
    /// What `change` returned, or a store error; then nothing has changed.
    pub fn write<T, E: From<VaultError>>(
        &self,
        change: impl FnOnce(&mut Txn<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut state = self.writer.lock();
        let mut txn = Txn::new(self, *state);
        let result = change(&mut txn)?;
        let changed = txn.commit(self.recorded.load(Ordering::Acquire))?;
        *state = changed.state;
        self.cache.invalidate(changed.nodes.into_iter());
        self.seq.store(state.seq, Ordering::Release);
        self.secrets.store(state.secrets, Ordering::Release);
        Ok(result)
    }

    /// The notes of commits that were not confirmed before the vault was
    /// closed, oldest first.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] or a store error.
    pub fn pending(&self, recorded: u64) -> Result<Vec<Pending>, VaultError> {
        let mut sealed = Vec::new();
        self.store.scan(key::OUTBOX, key::OUTBOX, &mut |k, v| {
            sealed.push((k.to_vec(), v.to_vec()));
            ControlFlow::Continue(())
        })?;
        let mut pending = Vec::new();
        for (k, bytes) in sealed {
            let (seq, index) = outbox_position(&k).ok_or_else(|| self.damaged("an outbox key"))?;
            if seq > recorded {
                let context = self.keys.context(Kind::Outbox, seq, u64::from(index));
                let note = crypto::open(self.keys.meta.expose(), context, bytes)
                    .map_err(|_| self.damaged("an outbox entry"))?;
                pending.push(Pending {
                    seq,
                    note: note.expose().to_vec(),
                });
            }
        }
        self.recorded.fetch_max(recorded, Ordering::AcqRel);
        Ok(pending)
    }

    /// Every answer kept with [`Txn::journal`], by mount and request.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] or a store error.
    pub fn journal(&self) -> Result<Vec<Journalled>, VaultError> {
        let mut sealed = Vec::new();
        self.store.scan(key::JOURNAL, key::JOURNAL, &mut |k, v| {
            sealed.push((k.to_vec(), v.to_vec()));
            ControlFlow::Continue(())
        })?;
        let entries = sealed.into_iter().map(|(k, bytes)| {
            let mount = k.get(1..17).and_then(|m| m.try_into().ok());
            let (Some(mount), Some(request)) = (mount, key::trailing_id(&k)) else {
                return Err(self.damaged("a journal key"));
            };
            let context = journal_context(&self.keys, &mount, request);
            let answer = crypto::open(self.keys.meta.expose(), context, bytes)
                .map_err(|_| self.damaged("a journal entry"))?;
            Ok(Journalled {
                mount,
                request,
                answer: answer.expose().to_vec(),
            })
        });
        entries.collect()
    }

    /// The root key, for a successor that opens the vault with
    /// [`crate::LockedVault::resume`].
    #[must_use]
    pub fn root_key(&self) -> &[u8; jarvis_sys::KEY_LEN] {
        self.keys.root.expose()
    }

    /// Confirms that every note up to commit `seq` is recorded elsewhere; the
    /// next commit removes them.
    pub fn recorded(&self, seq: u64) {
        self.recorded.fetch_max(seq, Ordering::AcqRel);
    }

    pub(crate) fn damaged(&self, what: impl Into<String>) -> VaultError {
        VaultError::Damaged {
            path: self.path.clone(),
            what: what.into(),
        }
    }
}

pub(crate) fn open_node(keys: &Keys, id: NodeId, sealed: Vec<u8>) -> Result<Node, &'static str> {
    let plain = crypto::open(keys.meta.expose(), keys.context(Kind::Node, id, 0), sealed)
        .map_err(|_| "a node does not authenticate")?;
    let node: Node = record::decode(plain.expose()).map_err(|_| "a node cannot be decoded")?;
    if node.id == id {
        Ok(node)
    } else {
        Err("a node with another id")
    }
}

/// A nonce is random: its first half tells mounts apart well enough, the key
/// of the entry has all of it.
pub(crate) fn journal_context(keys: &Keys, mount: &[u8; 16], request: u64) -> Context {
    let half = mount.first_chunk().copied().unwrap_or_default();
    keys.context(Kind::Journal, request, u64::from_be_bytes(half))
}

pub(crate) fn open_data_key(
    keys: &Keys,
    id: NodeId,
    secret: &Secret,
) -> Result<BriefKey, &'static str> {
    let context = keys.context(Kind::DataKey, id, 0);
    crypto::open_key(keys.wrap.expose(), context, secret.data_key.clone())
        .map_err(|_| "a data key does not authenticate")
}

pub(crate) fn outbox_position(k: &[u8]) -> Option<(u64, u16)> {
    let seq = k.get(1..9)?.try_into().ok()?;
    let index = k.get(9..11)?.try_into().ok()?;
    Some((u64::from_be_bytes(seq), u16::from_be_bytes(index)))
}

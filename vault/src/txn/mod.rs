//! One change of the vault, from its first read to its commit.
//!
//! Runs in: the worker.
//! Touches: plaintext of values on their way to be sealed, data keys, the store.
//! Imported by: vault.rs, which makes a [`Txn`] under the writer's lock.
//!
//! A change gathers writes in memory and reads through them; the store sees one
//! batch, applied all or not at all. The notes of the change (outbox.rs) are in the
//! same batch, so that there is no commit that the audit log can miss for good.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::crypto::RecordKind;
use crate::error::VaultError;
use crate::keys::VaultCore;
use crate::name::SecretName;
use crate::record::{Node, NodeId, ROOT, VaultState, key};
use crate::secret::SecretBytes;
use crate::store::{Batch, RoomClaim};
use crate::witness::Witness;

pub(crate) mod deletion;
mod directories;
mod lifecycle;
mod outbox;
pub(crate) mod revocation;
mod slots;
mod times;
pub(crate) mod versions;

/// Outcome of a change for one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOutcome {
    /// Id of the secret.
    pub id: NodeId,
    /// Number of its newest version.
    pub version: u32,
    /// Key id of its newest version.
    pub kid: String,
    /// True if there was no such secret before, or a deleted one.
    pub created: bool,
    /// True if a deleted secret goes on: its history is this one's.
    pub continued: bool,
}

/// A change in the making: reads see its own writes.
pub struct Txn<'v> {
    core: &'v VaultCore,
    /// Counters as they will be after the commit.
    state: VaultState,
    /// Keys with their new values; `None` removes one.
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Nodes that were written or removed.
    nodes: Vec<NodeId>,
    /// Notes so far.
    notes: u16,
    /// Room on the disk that the commit may take.
    claim: RoomClaim,
    /// Changes that follow from others.
    derived: Vec<(SecretName, WriteOutcome)>,
    /// Deleted secrets that are kept, once they were counted.
    deleted: Option<usize>,
}

/// A change that is durable.
pub(crate) struct CommittedChange {
    /// Counters after it.
    pub(crate) state: VaultState,
    /// Nodes that it wrote or removed.
    pub(crate) nodes: Vec<NodeId>,
}

impl<'v> Txn<'v> {
    /// A change that follows the commit `state` is of.
    pub(crate) fn new(core: &'v VaultCore, mut state: VaultState) -> Self {
        state.seq += 1;
        Self {
            core,
            state,
            writes: BTreeMap::new(),
            nodes: Vec::new(),
            notes: 0,
            claim: RoomClaim::Ordinary,
            derived: Vec::new(),
            deleted: None,
        }
    }

    /// The sequence number this commit will have.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.state.seq
    }

    /// A new id. Ids are inode numbers and never used again: a purged secret's may
    /// still be in an application's hands.
    fn allocate(&mut self) -> NodeId {
        let id = self.state.next_id;
        self.state.next_id += 1;
        id
    }

    /// Seals and stores `node`.
    fn save(&mut self, node: &Node) -> Result<(), VaultError> {
        let keys = &self.core.keys;
        let plain = SecretBytes::new(self.core.encode(node)?);
        let sealed = keys.seal_meta(keys.context(RecordKind::Node, node.id, 0), plain.expose())?;
        self.put(key::node(node.id), sealed);
        self.nodes.push(node.id);
        Ok(())
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.insert(key, Some(value));
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }

    /// The stored bytes of `key`, this change's own included.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, VaultError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => Ok(self.core.store.get(key)?),
        }
    }

    /// Ids of the records whose keys begin with `table`, this change's own included.
    fn ids(&self, table: &[u8]) -> Result<BTreeSet<NodeId>, VaultError> {
        let mut ids = BTreeSet::new();
        self.core.store.scan(table, table, &mut |key, _| {
            ids.extend(key::trailing_id(key));
            ControlFlow::Continue(())
        })?;
        // The store shows what was before this change: apply its own writes.
        let written = self.writes.range(table.to_vec()..);
        for (key, value) in written.take_while(|(key, _)| key.starts_with(table)) {
            let id = key::trailing_id(key).unwrap_or_default();
            if value.is_some() {
                ids.insert(id);
            } else {
                ids.remove(&id);
            }
        }
        Ok(ids)
    }

    fn node(&self, id: NodeId) -> Result<Option<Node>, VaultError> {
        match self.get(&key::node(id))? {
            None => Ok(None),
            Some(sealed) => self.core.open_node(id, sealed).map(Some),
        }
    }

    /// The node that the entry `segment` of directory `parent` leads to, also a deleted
    /// secret.
    fn entered(&self, parent: NodeId, segment: &str) -> Result<Option<Node>, VaultError> {
        let Some(id) = self.get(&self.core.keys.entry(parent, segment))? else {
            return Ok(None);
        };
        let node = self.node(key::trailing_id(&id).unwrap_or_default())?;
        // The entry itself is not sealed; a change must not reach another secret by it.
        let astray = |node: &Node| node.parent != parent || node.segment() != segment;
        if node.as_ref().is_some_and(astray) {
            return Err(self.core.damaged("a directory entry that leads elsewhere"));
        }
        Ok(node)
    }

    fn lookup(&self, parent: NodeId, segment: &str) -> Result<Option<Node>, VaultError> {
        let node = self.entered(parent, segment)?;
        Ok(node.filter(|node| node.deleted_ms().is_none()))
    }

    /// The node called `name`, also a deleted secret whose name nothing else has taken.
    fn find_entered(&self, name: &SecretName) -> Result<Option<Node>, VaultError> {
        name.follow(
            ROOT,
            |node: &Node| node.id,
            |parent, segment| self.entered(parent, segment),
        )
    }

    fn find(&self, name: &SecretName) -> Result<Option<Node>, VaultError> {
        let node = self.find_entered(name)?;
        Ok(node.filter(|node| node.deleted_ms().is_none()))
    }

    fn existing(&self, name: &SecretName) -> Result<Node, VaultError> {
        self.find(name)?
            .ok_or_else(|| VaultError::NotFound(name.to_string()))
    }

    /// Commits all writes, the counters and `witness` with them; durable once it returned.
    pub(crate) fn commit(mut self, witness: Witness) -> Result<CommittedChange, VaultError> {
        self.state.witness = witness;
        let sealed = self.core.seal_state(&self.state)?;
        self.put(key::STATE.to_vec(), sealed);
        let batch: Batch = self.writes.into_iter().collect();
        self.core.store.commit(&batch, self.claim)?;
        Ok(CommittedChange {
            state: self.state,
            nodes: self.nodes,
        })
    }
}

impl WriteOutcome {
    /// The outcome for `node` as it is now.
    fn of(node: &Node) -> Result<Self, VaultError> {
        let newest = node.secret()?.newest();
        Ok(Self {
            id: node.id,
            version: newest.map_or(0, |v| v.number),
            kid: newest.map(|v| v.kid.clone()).unwrap_or_default(),
            created: false,
            continued: false,
        })
    }
}

//! An unlocked vault: reading, and the one writer.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::cache::NodeCache;
use crate::crypto::RecordKind;
use crate::error::VaultError;
use crate::keys::{StoredRecord, VaultCore};
use crate::name::SecretName;
use crate::record::{self, Body, Node, NodeId, ROOT, Secret, VaultState, key};
use crate::revocation::Revocation;
use crate::secret::SecretBytes;
use crate::slot::{MAX_SLOTS, SlotInfo, SlotRecord};
use crate::store::{RoomClaim, StoreHealth};
use crate::txn::Txn;
use crate::witness::{ClockWitness, LogWitness, Witness};

/// Figures of a vault for status and health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VaultCounts {
    /// Commits so far.
    pub seq: u64,
    /// Secrets that are not deleted.
    pub secrets: u64,
}

/// A note of a commit that [`Vault::confirm_recorded`] has not yet confirmed.
pub struct PendingNote {
    /// Number of the commit.
    pub seq: u64,
    /// Bytes that the committer wrote with [`Txn::note`].
    pub note: Vec<u8>,
}

/// An answer that was committed together with what it tells of.
pub struct JournalEntry {
    /// Nonce of the mount.
    pub mount: [u8; 16],
    /// Number of the request.
    pub request: u64,
    /// Answer that [`Txn::journal`] was given.
    pub answer: Vec<u8>,
}

/// An open, unlocked vault. Reads run in parallel with the one writer.
///
/// A reader takes no snapshot over several records: a node it holds may be
/// superseded, and a value of it destroyed, by a commit in between.
pub struct Vault {
    pub(crate) core: VaultCore,
    cache: NodeCache,
    writer: Mutex<VaultState>,
    seq: AtomicU64,
    secrets: AtomicU64,
    /// The last commit that the audit log is known to have; older notes go with the
    /// next commit.
    recorded_seq: AtomicU64,
    /// Notes of the audit log and of the time that the next commit stores.
    witness: Mutex<Witness>,
}

impl Vault {
    pub(crate) fn new(core: VaultCore, state: VaultState) -> Self {
        Self {
            core,
            cache: NodeCache::default(),
            witness: Mutex::new(state.witness),
            writer: Mutex::new(state),
            seq: AtomicU64::new(state.seq),
            secrets: AtomicU64::new(state.secrets),
            recorded_seq: AtomicU64::new(0),
        }
    }

    /// Commits and live secrets as of the last commit.
    #[must_use]
    pub fn counts(&self) -> VaultCounts {
        VaultCounts {
            seq: self.seq.load(Ordering::Acquire),
            secrets: self.secrets.load(Ordering::Acquire),
        }
    }

    /// Health of the file below, as it was found last.
    #[must_use]
    pub fn health(&self) -> StoreHealth {
        self.core.store.health()
    }

    /// Looks whether the file can be read and changed, and goes back to work with it once
    /// what kept it from that is over.
    #[must_use]
    pub fn check(&self) -> StoreHealth {
        self.core.store.check()
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

    /// The node `id`, not put into the cache: a walk over everything must not push
    /// out what is in use.
    fn peek(&self, id: NodeId) -> Result<Option<Arc<Node>>, VaultError> {
        if let Some(node) = self.cache.get(id) {
            return Ok(Some(node));
        }
        let Some(sealed) = self.core.store.get(&key::node(id))? else {
            return Ok(None);
        };
        self.core.open_node(id, sealed).map(Arc::new).map(Some)
    }

    /// The live entry `segment` of directory `parent`.
    ///
    /// # Errors
    /// As [`Vault::node`].
    pub fn lookup(&self, parent: NodeId, segment: &str) -> Result<Option<Arc<Node>>, VaultError> {
        let entry = self.core.keys.entry(parent, segment);
        let Some(id) = self.core.store.get(&entry)? else {
            return Ok(None);
        };
        let Some(id) = key::trailing_id(&id) else {
            return Err(self.core.damaged("a directory entry"));
        };
        let Some(node) = self.node(id)? else {
            // Purged by the writer between the two reads.
            return Ok(None);
        };
        // The entry itself is not sealed; the node it leads to says where it belongs.
        if node.parent != parent || node.segment() != segment {
            return Err(self.core.damaged("a directory entry that leads elsewhere"));
        }
        // A deleted secret keeps its entry, so that a new value goes on with it.
        Ok(Some(node).filter(|node| node.deleted_ms().is_none()))
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
    /// order of ids, until `visit` breaks. None is put into the cache.
    ///
    /// # Errors
    /// As [`Vault::node`].
    pub fn children(
        &self,
        parent: NodeId,
        after: NodeId,
        mut visit: impl FnMut(&Node) -> ControlFlow<()>,
    ) -> Result<(), VaultError> {
        let mut failure = None;
        let from = key::child(parent, after.saturating_add(1));
        let mut entry = |entry: &[u8], _: &[u8]| {
            let Some(id) = key::trailing_id(entry) else {
                return ControlFlow::Continue(());
            };
            match self.peek(id) {
                Ok(Some(node)) => visit(&node),
                Ok(None) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        };
        let children = key::children(parent);
        self.core.store.scan(&children, &from, &mut entry)?;
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
        self.children(parent, 0, |node| {
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

    /// The key slot that the vault was unlocked with, where that is known.
    #[must_use]
    pub fn slot(&self) -> Option<u8> {
        self.core.slot
    }

    /// The key slots in use.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] or a store error.
    pub fn slots(&self) -> Result<Vec<SlotInfo>, VaultError> {
        let mut slots = Vec::new();
        for number in 0..MAX_SLOTS {
            if let Some(bytes) = self.core.store.get(&key::slot(number))? {
                let record: SlotRecord = record::decode(&bytes)
                    .map_err(|_| self.core.damaged("a key slot cannot be decoded"))?;
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
        for (entry, _) in self.core.records(key::DELETED)? {
            let id = key::trailing_id(&entry).unwrap_or_default();
            // Purged by the writer since the look at the entries: no node.
            if let Some(node) = self.peek(id)? {
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
        let secret = node.secret()?;
        let Some(sealed) = self.core.store.get(&key::value(node.id, version))? else {
            return Ok(None);
        };
        let value = self.core.open_value(node.id, secret, version, sealed);
        value.map(Some)
    }

    /// Runs `change` and commits what it did, all or nothing. Writers take
    /// turns; readers go on.
    ///
    /// # Errors
    /// The error of `change`, or a store error; then nothing has changed.
    pub fn write<T, E: From<VaultError>>(
        &self,
        change: impl FnOnce(&mut Txn<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        // Held until the commit is durable: commits become visible in the order of
        // their numbers, by which the audit log tells how far it knows the vault.
        let mut state = self.writer.lock();
        let mut txn = Txn::new(&self.core, *state);
        let result = change(&mut txn)?;
        txn.drop_notes(self.recorded_seq.load(Ordering::Acquire))?;
        let witness = *self.witness.lock();
        let changed = txn.commit(witness)?;
        *state = changed.state;
        // After the commit: a reader that still saw the old node has the generation
        // before, so it cannot put it back.
        self.cache.invalidate(changed.nodes.into_iter());
        self.seq.store(state.seq, Ordering::Release);
        self.secrets.store(state.secrets, Ordering::Release);
        Ok(result)
    }

    /// Takes note that the audit log has `log`, for the next commit to store, unless a
    /// later record is known.
    pub fn note_log(&self, log: LogWitness) {
        let mut witness = self.witness.lock();
        if witness.log.is_none_or(|known| known.seq <= log.seq) {
            witness.log = Some(log);
        }
    }

    /// Forgets what was known of the audit log, which is gone.
    pub fn forget_log(&self) {
        self.witness.lock().log = None;
    }

    /// Takes note of the time, for the next commit to store.
    pub fn note_clock(&self, clock: ClockWitness) {
        self.witness.lock().clock = Some(clock);
    }

    /// Stores what was noted and no commit has stored yet. That is no commit of its own:
    /// the audit log need not know of it.
    ///
    /// # Errors
    /// A store error.
    pub fn store_witness(&self) -> Result<(), VaultError> {
        let mut state = self.writer.lock();
        let witness = *self.witness.lock();
        if witness == state.witness {
            return Ok(());
        }
        let noted = VaultState { witness, ..*state };
        let sealed = self.core.seal_state(&noted)?;
        let batch = vec![(key::STATE.to_vec(), Some(sealed))];
        self.core.store.commit(&batch, RoomClaim::Reserve)?;
        *state = noted;
        Ok(())
    }

    /// The notes of commits after `recorded`, the last one that the audit log has;
    /// oldest first.
    ///
    /// Change and note are one commit, and the audit record follows it: whatever
    /// comes between (a crash, a full disk), the note is still here, and the record
    /// is made from it. A commit that the log has only in part is recorded again as a
    /// whole.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] or a store error.
    pub fn pending_notes(&self, recorded: u64) -> Result<Vec<PendingNote>, VaultError> {
        let core = &self.core;
        let mut pending = Vec::new();
        for (entry, sealed) in core.records(key::OUTBOX)? {
            let (seq, index) =
                key::outbox_position(&entry).ok_or_else(|| core.damaged("an outbox key"))?;
            if seq > recorded {
                let context = core.keys.context(RecordKind::Outbox, seq, u64::from(index));
                let note = core.open_meta(context, sealed, "an outbox entry")?;
                pending.push(PendingNote {
                    seq,
                    note: note.expose().to_vec(),
                });
            }
        }
        self.recorded_seq.fetch_max(recorded, Ordering::AcqRel);
        Ok(pending)
    }

    /// Every answer kept with [`Txn::journal`], by mount and request.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] or a store error.
    pub fn journal(&self) -> Result<Vec<JournalEntry>, VaultError> {
        let core = &self.core;
        let open = |(entry, sealed): StoredRecord| {
            let (mount, request) =
                key::journal_position(&entry).ok_or_else(|| core.damaged("a journal key"))?;
            let context = core.keys.journal_context(&mount, request);
            let answer = core.open_meta(context, sealed, "a journal entry")?;
            Ok(JournalEntry {
                mount,
                request,
                answer: answer.expose().to_vec(),
            })
        };
        core.records(key::JOURNAL)?.into_iter().map(open).collect()
    }

    /// Revocation `id`.
    ///
    /// # Errors
    /// [`VaultError::NoSuchRevocation`], [`VaultError::Damaged`] or a store error.
    pub fn revocation(&self, id: u64) -> Result<Revocation, VaultError> {
        match self.core.store.get(&key::revocation(id))? {
            None => Err(VaultError::NoSuchRevocation(id)),
            Some(sealed) => self.core.open_revocation(id, sealed),
        }
    }

    /// Visits the revocations that are kept with numbers above `after`, oldest first, until
    /// `visit` breaks.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] or a store error.
    pub fn revocations(
        &self,
        after: u64,
        mut visit: impl FnMut(&Revocation) -> ControlFlow<()>,
    ) -> Result<(), VaultError> {
        let from = key::revocation(after.saturating_add(1));
        self.scan_ids(key::REVOCATION, &from, |id, sealed| {
            Ok(visit(&self.core.open_revocation(id, sealed.to_vec())?))
        })
    }

    /// Visits the nodes with ids above `after`, deleted secrets too, in the order of ids,
    /// until `visit` breaks. None is put into the cache.
    ///
    /// # Errors
    /// As [`Vault::node`].
    pub fn nodes(
        &self,
        after: NodeId,
        mut visit: impl FnMut(&Node) -> ControlFlow<()>,
    ) -> Result<(), VaultError> {
        let from = key::node(after.saturating_add(1));
        self.scan_ids(key::NODE, &from, |id, sealed| {
            Ok(visit(&self.core.open_node(id, sealed.to_vec())?))
        })
    }

    /// Visits the records of a table from key `from` on, until `visit` breaks or fails.
    fn scan_ids(
        &self,
        table: &[u8],
        from: &[u8],
        mut visit: impl FnMut(u64, &[u8]) -> Result<ControlFlow<()>, VaultError>,
    ) -> Result<(), VaultError> {
        let mut failure = None;
        let mut record = |entry: &[u8], sealed: &[u8]| {
            let id = key::trailing_id(entry).unwrap_or_default();
            visit(id, sealed).unwrap_or_else(|error| {
                failure = Some(error);
                ControlFlow::Break(())
            })
        };
        self.core.store.scan(table, from, &mut record)?;
        failure.map_or(Ok(()), Err)
    }

    /// Number of deleted secrets that are kept.
    ///
    /// # Errors
    /// A store error.
    pub fn deleted_count(&self) -> Result<usize, VaultError> {
        let mut count = 0;
        self.core
            .store
            .scan(key::DELETED, key::DELETED, &mut |_, _| {
                count += 1;
                ControlFlow::Continue(())
            })?;
        Ok(count)
    }

    /// The root key, for a successor that opens the vault with
    /// [`crate::LockedVault::resume`].
    #[must_use]
    pub fn root_key(&self) -> &[u8; jarvis_sys::KEY_LEN] {
        self.core.keys.root.expose()
    }

    /// Confirms that every note up to commit `seq` is recorded elsewhere, durably; the
    /// next commit removes them. Lost in a crash, the confirmation is made again from
    /// the audit log ([`Vault::pending_notes`]).
    pub fn confirm_recorded(&self, seq: u64) {
        self.recorded_seq.fetch_max(seq, Ordering::AcqRel);
    }
}

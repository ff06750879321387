//! One change of the vault, from its first read to its commit.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::crypto::{self, Kind};
use crate::error::VaultError;
use crate::keys::VaultCore;
use crate::kid;
use crate::kind::SecretType;
use crate::name::SecretName;
use crate::record::{Body, Deleted, Node, NodeId, ROOT, Secret, State, key};
use crate::secret::{MAX_VALUE, SecretBytes};
use crate::slot::{Credential, SLOTS, SlotRecord};
use crate::store::Batch;
use crate::version::{MAX_DESTROYED, Mark, Settings, Version};

mod lifecycle;
mod revocation;

pub use lifecycle::Which;
pub use revocation::Request;

/// What a `set` demands of the version it replaces.
#[derive(Clone, Copy, Debug)]
pub enum IfKid<'a> {
    /// Nothing.
    Any,
    /// There must be no such secret.
    Absent,
    /// The current version must have this key id.
    Current(&'a str),
}

/// A new version of a secret.
pub struct Put<'a> {
    /// The type; `None` keeps it (opaque for a new secret).
    pub kind: Option<&'a SecretType>,
    /// What must be current.
    pub if_kid: IfKid<'a>,
    /// Whether cached reads are allowed; `None` keeps it (no for a new secret).
    pub cached: Option<bool>,
    /// Who writes.
    pub by_uid: u32,
    /// Unix milliseconds.
    pub now_ms: i64,
    /// Life of the version in milliseconds, unless the secret has its own.
    pub life_ms: i64,
    /// Versions whose values are kept, at least 1, unless the secret has its own.
    pub keep: usize,
    /// Why, in the writer's words.
    pub why: Option<&'a str>,
    /// Whether a version is still needed by an open handle.
    pub pinned: &'a dyn Fn(NodeId, u32) -> bool,
}

/// What became of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The secret's id.
    pub id: NodeId,
    /// Its current version.
    pub version: u32,
    /// Its current key id.
    pub kid: String,
    /// Whether the secret is new.
    pub created: bool,
}

/// A change in the making: reads see its own writes.
pub struct Txn<'v> {
    core: &'v VaultCore,
    state: State,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    nodes: Vec<NodeId>,
    notes: u16,
    also: Vec<(SecretName, Outcome)>,
}

pub(crate) struct Changed {
    pub(crate) state: State,
    pub(crate) nodes: Vec<NodeId>,
}

impl<'v> Txn<'v> {
    pub(crate) fn new(core: &'v VaultCore, mut state: State) -> Self {
        state.seq += 1;
        Self {
            core,
            state,
            writes: BTreeMap::new(),
            nodes: Vec::new(),
            notes: 0,
            also: Vec::new(),
        }
    }

    /// The sequence number this commit will have.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.state.seq
    }

    /// Keeps `note` with the commit until [`crate::Vault::recorded`] confirms it.
    ///
    /// # Errors
    /// [`VaultError::Keys`] when random bytes can't be had.
    pub fn note(&mut self, note: &[u8]) -> Result<(), VaultError> {
        let keys = &self.core.keys;
        let context = keys.context(Kind::Outbox, self.state.seq, u64::from(self.notes));
        let sealed = keys.seal_meta(context, note)?;
        self.put(key::outbox(self.state.seq, self.notes), sealed);
        self.notes += 1;
        Ok(())
    }

    /// Keeps `answer` to request `request` of mount `mount` with the commit: a
    /// repeat of the request finds it ([`crate::Vault::journal`]).
    ///
    /// # Errors
    /// [`VaultError::Keys`] when random bytes can't be had.
    pub fn journal(
        &mut self,
        mount: &[u8; 16],
        request: u64,
        answer: &[u8],
    ) -> Result<(), VaultError> {
        let keys = &self.core.keys;
        let sealed = keys.seal_meta(keys.journal_context(mount, request), answer)?;
        self.put(key::journal(mount, request), sealed);
        Ok(())
    }

    /// Drops an entry of the journal.
    pub fn forget(&mut self, mount: &[u8; 16], request: u64) {
        self.remove(key::journal(mount, request));
    }

    /// Stores `value` as the new current version of `name`, creating the
    /// secret and its directories when needed.
    ///
    /// # Errors
    /// [`VaultError::TooLarge`], [`VaultError::Conflict`],
    /// [`VaultError::IsDirectory`], [`VaultError::NotDirectory`], or a failure of
    /// the vault.
    pub fn set(
        &mut self,
        name: &SecretName,
        value: &[u8],
        put: &Put<'_>,
    ) -> Result<Outcome, VaultError> {
        if value.len() > MAX_VALUE {
            return Err(VaultError::TooLarge {
                len: value.len(),
                max: MAX_VALUE,
            });
        }
        let existing = self.find(name)?;
        let current = match &existing {
            None => None,
            Some(node) => secret_of(node)?.current().map(|v| v.kid.clone()),
        };
        check_if_kid(name, put.if_kid, current)?;
        let created = existing.is_none();
        let node = match existing {
            Some(node) => node,
            None => self.create(name, put)?,
        };
        self.add_version(node, value, put, created)
    }

    /// Generates and stores a new version.
    ///
    /// # Errors
    /// [`VaultError::NotFound`], [`VaultError::NoGenerator`] for a type without a
    /// generator, or what [`Txn::set`] returns.
    pub fn rotate(&mut self, name: &SecretName, put: &Put<'_>) -> Result<Outcome, VaultError> {
        let node = self.existing(name)?;
        let kind = put.kind.unwrap_or(&secret_of(&node)?.kind);
        let old = self.last_value(&node)?;
        let value = generated(name, kind, old.as_ref())?;
        self.set(name, value.expose(), put)
    }

    /// Generates the value of a secret that may be new.
    ///
    /// # Errors
    /// As [`Txn::rotate`], except that the secret need not exist.
    pub fn generate(
        &mut self,
        name: &SecretName,
        kind: &SecretType,
        put: &Put<'_>,
    ) -> Result<Outcome, VaultError> {
        let put = Put {
            kind: Some(kind),
            ..*put
        };
        let value = generated(name, kind, None)?;
        self.set(name, value.expose(), &put)
    }

    /// Secrets that were changed along with those that were asked for: public
    /// parts of key pairs. Told once.
    pub fn also(&mut self) -> Vec<(SecretName, Outcome)> {
        std::mem::take(&mut self.also)
    }

    /// Stores the public part of `value`, the new value of `name`, if it has one.
    fn publish(
        &mut self,
        name: &SecretName,
        kind: &SecretType,
        value: &[u8],
        put: &Put<'_>,
    ) -> Result<(), VaultError> {
        let Some(public) = kind.public_part(value)? else {
            return Ok(());
        };
        let name = SecretName::parse(&format!("{name}.pub"))?;
        if let Some(node) = self.find(&name)?
            && secret_of(&node)?.kind != SecretType::PublicKey
        {
            return Err(VaultError::Occupied(name.to_string()));
        }
        let put = Put {
            kind: Some(&SecretType::PublicKey),
            if_kid: IfKid::Any,
            ..*put
        };
        let outcome = self.set(&name, public.expose(), &put)?;
        self.also.push((name, outcome));
        Ok(())
    }

    /// Takes `name` out of the tree; it can be restored under its id.
    ///
    /// # Errors
    /// [`VaultError::NotFound`], [`VaultError::IsDirectory`], or a failure of the vault.
    pub fn delete(
        &mut self,
        name: &SecretName,
        by_uid: u32,
        now_ms: i64,
    ) -> Result<Outcome, VaultError> {
        let mut node = self.existing(name)?;
        let outcome = outcome(&node)?;
        secret_mut(&mut node)?.deleted = Some(Deleted {
            at_ms: now_ms,
            by_uid,
        });
        self.unlink(&node);
        self.put(key::deleted(node.id), Vec::new());
        self.count(node.parent, false)?;
        self.save(&node)?;
        Ok(outcome)
    }

    /// Puts the latest deleted `name` back into the tree.
    ///
    /// # Errors
    /// [`VaultError::Occupied`], [`VaultError::NotFound`] (also when it was
    /// deleted before `not_before_ms`), or a failure of the vault.
    pub fn restore(
        &mut self,
        name: &SecretName,
        not_before_ms: i64,
    ) -> Result<Outcome, VaultError> {
        if self.find(name)?.is_some() {
            return Err(VaultError::Occupied(name.to_string()));
        }
        let mut candidates = self.deleted_nodes(|node| &*node.path == name.as_str())?;
        candidates.retain(|node| deleted_at(node).is_some_and(|at| at >= not_before_ms));
        let mut node = candidates
            .into_iter()
            .max_by_key(|node| (deleted_at(node), node.id))
            .ok_or_else(|| VaultError::NotFound(name.to_string()))?;
        secret_mut(&mut node)?.deleted = None;
        self.remove(key::deleted(node.id));
        self.link(&node);
        self.count(node.parent, true)?;
        self.save(&node)?;
        outcome(&node)
    }

    /// Destroys every deleted secret called `name`: data key and all versions.
    ///
    /// # Errors
    /// [`VaultError::NotFound`] when none is deleted, or a failure of the vault.
    pub fn purge(&mut self, name: &SecretName) -> Result<Vec<NodeId>, VaultError> {
        let doomed = self.deleted_nodes(|node| &*node.path == name.as_str())?;
        if doomed.is_empty() {
            return Err(VaultError::NotFound(name.to_string()));
        }
        Ok(self.destroy(&doomed))
    }

    /// Destroys what was deleted before `before_ms`; gives names and ids.
    ///
    /// # Errors
    /// A failure of the vault.
    pub fn purge_expired(&mut self, before_ms: i64) -> Result<Vec<(Box<str>, NodeId)>, VaultError> {
        let doomed =
            self.deleted_nodes(|node| deleted_at(node).is_some_and(|at| at < before_ms))?;
        self.destroy(&doomed);
        Ok(doomed.into_iter().map(|n| (n.path, n.id)).collect())
    }

    /// Adds a key slot that `credential` opens, and gives its number.
    ///
    /// # Errors
    /// [`VaultError::NoFreeSlot`], or what is wrong with the credential.
    pub fn add_slot(&mut self, credential: &Credential) -> Result<u8, VaultError> {
        let mut free = None;
        for number in (0..SLOTS).rev() {
            if self.get(&key::slot(number))?.is_none() {
                free = Some(number);
            }
        }
        let number = free.ok_or(VaultError::NoFreeSlot)?;
        let keys = &self.core.keys;
        let record = SlotRecord::seal(keys.vault, number, credential, keys.root.expose())?;
        self.put(key::slot(number), self.core.encode(&record)?);
        Ok(number)
    }

    /// Removes a key slot; never the last one.
    ///
    /// # Errors
    /// [`VaultError::NoSuchSlot`], [`VaultError::LastSlot`].
    pub fn remove_slot(&mut self, number: u8) -> Result<(), VaultError> {
        let mut others = false;
        for other in (0..SLOTS).filter(|&other| other != number) {
            others |= self.get(&key::slot(other))?.is_some();
        }
        if self.get(&key::slot(number))?.is_none() {
            return Err(VaultError::NoSuchSlot(number));
        }
        if !others {
            return Err(VaultError::LastSlot(number));
        }
        self.remove(key::slot(number));
        Ok(())
    }

    fn create(&mut self, name: &SecretName, put: &Put<'_>) -> Result<Node, VaultError> {
        let parent = self.make_directories(name, put.now_ms)?;
        let id = self.allocate();
        let data_key = crypto::random_key()?;
        let keys = &self.core.keys;
        let context = keys.context(Kind::DataKey, id, 0);
        let node = Node {
            id,
            parent,
            path: name.as_str().into(),
            created_ms: put.now_ms,
            body: Body::Secret(Box::new(Secret {
                kind: put.kind.cloned().unwrap_or(SecretType::Opaque),
                data_key: crypto::seal(keys.wrap.expose(), context, data_key.as_slice())?,
                versions: Vec::new(),
                pending: None,
                settings: Settings::default(),
                deleted: None,
                cached: false,
            })),
        };
        self.link(&node);
        self.count(parent, true)?;
        Ok(node)
    }

    /// The directory `name` belongs in, made when missing.
    fn make_directories(&mut self, name: &SecretName, now_ms: i64) -> Result<NodeId, VaultError> {
        let mut parent = ROOT;
        let mut path = String::new();
        let mut segments = name.segments();
        segments.next_back();
        for segment in segments {
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(segment);
            parent = match self.lookup(parent, segment)? {
                Some(node) if matches!(node.body, Body::Directory { .. }) => node.id,
                Some(node) => return Err(VaultError::NotDirectory(node.path.into())),
                None => self.make_directory(parent, &path, now_ms)?,
            };
        }
        Ok(parent)
    }

    fn make_directory(
        &mut self,
        parent: NodeId,
        path: &str,
        now_ms: i64,
    ) -> Result<NodeId, VaultError> {
        let node = Node {
            id: self.allocate(),
            parent,
            path: path.into(),
            created_ms: now_ms,
            body: Body::Directory { live: 0 },
        };
        self.link(&node);
        self.save(&node)?;
        Ok(node.id)
    }

    fn add_version(
        &mut self,
        mut node: Node,
        value: &[u8],
        put: &Put<'_>,
        created: bool,
    ) -> Result<Outcome, VaultError> {
        let (id, path) = (node.id, node.path.clone());
        let segment = node.segment().to_owned();
        let secret = secret_mut(&mut node)?;
        if secret.pending.is_some() {
            return Err(VaultError::RotationPending(path.into()));
        }
        if let Some(kind) = put.kind {
            secret.kind = kind.clone();
        }
        let kind = secret.kind.clone();
        secret.cached = put.cached.unwrap_or(secret.cached);
        let next = Next::of(secret, &segment, put.now_ms);
        let sealed = self.core.seal_value(id, secret, next.number, value)?;
        self.put(key::value(id, next.number), sealed);
        let version = next.version(value.len(), self.state.seq, put);
        self.push_version(&mut node, version, put)?;
        let outcome = outcome(&node)?;
        self.publish(&SecretName::parse(&path)?, &kind, value, put)?;
        Ok(Outcome { created, ..outcome })
    }

    /// Makes `version`, whose value is stored, the current one.
    fn push_version(
        &mut self,
        node: &mut Node,
        mut version: Version,
        put: &Put<'_>,
    ) -> Result<(), VaultError> {
        let id = node.id;
        let secret = secret_mut(node)?;
        if let Some(last) = secret.versions.last_mut() {
            last.superseded_ms.get_or_insert(version.created_ms);
        }
        let life = secret.settings.life_ms.unwrap_or(put.life_ms);
        version.expires_ms = version.created_ms.saturating_add(life);
        secret.versions.push(version);
        let keep = secret.settings.keep.map_or(put.keep, |keep| keep as usize);
        let pruned = prune(secret, keep, |version| (put.pinned)(id, version));
        for version in pruned {
            self.remove(key::value(id, version));
        }
        self.save(node)
    }

    fn destroy(&mut self, doomed: &[Node]) -> Vec<NodeId> {
        for node in doomed {
            if let Body::Secret(secret) = &node.body {
                for version in &secret.versions {
                    self.remove(key::value(node.id, version.number));
                }
                if let Some(pending) = &secret.pending {
                    self.remove(key::value(node.id, pending.number));
                }
            }
            self.remove(key::node(node.id));
            self.remove(key::deleted(node.id));
            self.nodes.push(node.id);
        }
        doomed.iter().map(|node| node.id).collect()
    }

    fn deleted_nodes(&self, wanted: impl Fn(&Node) -> bool) -> Result<Vec<Node>, VaultError> {
        let mut ids = Vec::new();
        for (k, _) in self.core.records(key::DELETED)? {
            ids.extend(key::trailing_id(&k));
        }
        // The store shows what was before this change.
        let written = self.writes.range(key::DELETED.to_vec()..);
        for (k, value) in written.take_while(|(k, _)| k.starts_with(key::DELETED)) {
            let id = key::trailing_id(k).unwrap_or_default();
            ids.retain(|&known| known != id);
            ids.extend(value.as_ref().map(|_| id));
        }
        let mut nodes = Vec::new();
        for id in ids {
            nodes.extend(self.node(id)?.filter(&wanted));
        }
        Ok(nodes)
    }

    /// Adds or takes one live secret in `directory` and all above it.
    fn count(&mut self, directory: NodeId, more: bool) -> Result<(), VaultError> {
        let step = |count: u64| {
            if more {
                count + 1
            } else {
                count.saturating_sub(1)
            }
        };
        self.state.secrets = step(self.state.secrets);
        let mut id = directory;
        while id != ROOT {
            let missing = || self.core.damaged("a directory is missing");
            let mut node = self.node(id)?.ok_or_else(missing)?;
            if let Body::Directory { live } = &mut node.body {
                *live = step(*live);
            }
            self.save(&node)?;
            id = node.parent;
        }
        Ok(())
    }

    fn link(&mut self, node: &Node) {
        let entry = self.core.keys.entry(node.parent, node.segment());
        self.put(entry, node.id.to_be_bytes().to_vec());
        self.put(key::child(node.parent, node.id), Vec::new());
    }

    fn unlink(&mut self, node: &Node) {
        let entry = self.core.keys.entry(node.parent, node.segment());
        self.remove(entry);
        self.remove(key::child(node.parent, node.id));
    }

    fn allocate(&mut self) -> NodeId {
        let id = self.state.next_id;
        self.state.next_id += 1;
        id
    }

    fn save(&mut self, node: &Node) -> Result<(), VaultError> {
        let keys = &self.core.keys;
        let plain = SecretBytes::new(self.core.encode(node)?);
        let sealed = keys.seal_meta(keys.context(Kind::Node, node.id, 0), plain.expose())?;
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

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, VaultError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => Ok(self.core.store.get(key)?),
        }
    }

    fn node(&self, id: NodeId) -> Result<Option<Node>, VaultError> {
        match self.get(&key::node(id))? {
            None => Ok(None),
            Some(sealed) => self.core.open_node(id, sealed).map(Some),
        }
    }

    fn lookup(&self, parent: NodeId, segment: &str) -> Result<Option<Node>, VaultError> {
        match self.get(&self.core.keys.entry(parent, segment))? {
            None => Ok(None),
            Some(id) => self.node(key::trailing_id(&id).unwrap_or_default()),
        }
    }

    fn find(&self, name: &SecretName) -> Result<Option<Node>, VaultError> {
        name.follow(
            ROOT,
            |node: &Node| node.id,
            |parent, segment| self.lookup(parent, segment),
        )
    }

    fn existing(&self, name: &SecretName) -> Result<Node, VaultError> {
        self.find(name)?
            .ok_or_else(|| VaultError::NotFound(name.to_string()))
    }

    pub(crate) fn commit(mut self, recorded: u64) -> Result<Changed, VaultError> {
        self.forget_notes(recorded)?;
        let keys = &self.core.keys;
        let state = self.core.encode(&self.state)?;
        let context = keys.context(Kind::State, 0, 0);
        let sealed = crypto::seal(keys.state.expose(), context, &state)?;
        self.put(key::STATE.to_vec(), sealed);
        let batch: Batch = self.writes.into_iter().collect();
        self.core.store.commit(&batch)?;
        Ok(Changed {
            state: self.state,
            nodes: self.nodes,
        })
    }

    fn forget_notes(&mut self, recorded: u64) -> Result<(), VaultError> {
        let mut done = Vec::new();
        self.core.store.scan(
            key::OUTBOX,
            key::OUTBOX,
            &mut |k, _| match key::outbox_position(k) {
                Some((seq, _)) if seq > recorded => ControlFlow::Break(()),
                _ => {
                    done.push(k.to_vec());
                    ControlFlow::Continue(())
                }
            },
        )?;
        for k in done {
            self.remove(k);
        }
        Ok(())
    }
}

fn check_if_kid(
    name: &SecretName,
    if_kid: IfKid<'_>,
    current: Option<String>,
) -> Result<(), VaultError> {
    let expected = match if_kid {
        IfKid::Any => return Ok(()),
        IfKid::Absent => None,
        IfKid::Current(kid) => Some(kid),
    };
    if current.as_deref() == expected {
        return Ok(());
    }
    Err(VaultError::Conflict {
        name: name.to_string(),
        expected: expected.unwrap_or("none").to_owned(),
        found: current.unwrap_or_else(|| "none".to_owned()),
    })
}

/// What the next version of a secret is called.
struct Next {
    number: u32,
    kid: String,
    created_ms: i64,
}

impl Next {
    fn of(secret: &Secret, segment: &str, now_ms: i64) -> Self {
        let last = secret.versions.last();
        // A clock set back must not make a key id twice.
        let created_ms = last.map_or(now_ms, |v| v.created_ms.max(now_ms));
        Self {
            number: last.map_or(1, |v| v.number.saturating_add(1)),
            kid: kid::next(segment, created_ms, last.map(|v| v.kid.as_str())),
            created_ms,
        }
    }

    fn version(self, len: usize, seq: u64, put: &Put<'_>) -> Version {
        Version {
            number: self.number,
            kid: self.kid,
            created_ms: self.created_ms,
            expires_ms: i64::MAX,
            len: u32::try_from(len).unwrap_or(u32::MAX),
            by_uid: put.by_uid,
            seq,
            why: put.why.map(Into::into),
            superseded_ms: None,
            mark: Mark::None,
            warned: 0,
        }
    }
}

/// Marks superseded versions beyond `keep` as destroyed, the oldest first, and
/// gives their numbers. What is remembered of destroyed ones is bounded, too.
fn prune(secret: &mut Secret, keep: usize, pinned: impl Fn(u32) -> bool) -> Vec<u32> {
    let with_value = secret.versions.iter().filter(|v| v.has_value()).count();
    let excess = with_value.saturating_sub(keep.max(1));
    let candidates = secret.versions.iter().filter(|v| v.has_value());
    let candidates = candidates.take(excess).map(|v| v.number);
    let pruned: Vec<u32> = candidates.filter(|&number| !pinned(number)).collect();
    for version in &mut secret.versions {
        if pruned.contains(&version.number) {
            version.mark = Mark::Destroyed;
        }
    }
    let destroyed = secret.versions.iter().filter(|v| !v.has_value()).count();
    let mut forgotten = destroyed.saturating_sub(MAX_DESTROYED);
    secret.versions.retain(|version| {
        let forget = forgotten > 0 && !version.has_value();
        forgotten -= usize::from(forget);
        !forget
    });
    pruned
}

fn generated(
    name: &SecretName,
    kind: &SecretType,
    old: Option<&SecretBytes>,
) -> Result<SecretBytes, VaultError> {
    kind.generate(old.map(SecretBytes::expose))?
        .ok_or_else(|| VaultError::NoGenerator(name.to_string()))
}

fn outcome(node: &Node) -> Result<Outcome, VaultError> {
    let newest = secret_of(node)?.newest();
    Ok(Outcome {
        id: node.id,
        version: newest.map_or(0, |v| v.number),
        kid: newest.map(|v| v.kid.clone()).unwrap_or_default(),
        created: false,
    })
}

fn deleted_at(node: &Node) -> Option<i64> {
    match &node.body {
        Body::Secret(secret) => secret.deleted.map(|d| d.at_ms),
        Body::Directory { .. } => None,
    }
}

fn secret_of(node: &Node) -> Result<&Secret, VaultError> {
    match &node.body {
        Body::Secret(secret) => Ok(secret),
        Body::Directory { .. } => Err(VaultError::IsDirectory(node.path.to_string())),
    }
}

fn secret_mut(node: &mut Node) -> Result<&mut Secret, VaultError> {
    match &mut node.body {
        Body::Secret(secret) => Ok(secret),
        Body::Directory { .. } => Err(VaultError::IsDirectory(node.path.to_string())),
    }
}

//! Deleted secrets: taken out of the tree, put back, continued, destroyed.

use super::{Txn, WriteOutcome};
use crate::error::VaultError;
use crate::name::SecretName;
use crate::record::{Body, Node, NodeId, SoftDeletion, key};
use crate::version::VersionMark;

/// Most deleted secrets that are kept: to look for one of them all are looked at.
pub const MAX_DELETED: usize = 8_192;

impl Txn<'_> {
    /// Takes `name` out of the tree; it can be restored under its id.
    ///
    /// # Errors
    /// [`VaultError::NotFound`], [`VaultError::IsDirectory`], [`VaultError::TooManyDeleted`],
    /// or a failure of the vault.
    pub fn delete(
        &mut self,
        name: &SecretName,
        by_uid: u32,
        now_ms: i64,
    ) -> Result<WriteOutcome, VaultError> {
        let mut node = self.existing(name)?;
        let outcome = WriteOutcome::of(&node)?;
        let kept = match self.deleted {
            Some(kept) => kept,
            None => self.ids(key::DELETED)?.len(),
        };
        if kept >= MAX_DELETED {
            return Err(VaultError::TooManyDeleted(MAX_DELETED));
        }
        self.deleted = Some(kept + 1);
        node.secret_mut()?.deleted = Some(SoftDeletion {
            at_ms: now_ms,
            by_uid,
        });
        self.unlist(&node);
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
    ) -> Result<WriteOutcome, VaultError> {
        if self.find(name)?.is_some() {
            return Err(VaultError::Occupied(name.to_string()));
        }
        let mut candidates = self.deleted_nodes(|node| &*node.path == name.as_str())?;
        candidates.retain(|node| node.deleted_ms().is_some_and(|at| at >= not_before_ms));
        let mut node = candidates
            .into_iter()
            .max_by_key(|node| (node.deleted_ms(), node.id))
            .ok_or_else(|| VaultError::NotFound(name.to_string()))?;
        self.put_back(&mut node)?;
        self.save(&node)?;
        WriteOutcome::of(&node)
    }

    /// Puts the deleted `node` back into the tree for a new version of it, which its
    /// caller adds and saves. The values it had were taken away on purpose: none is in
    /// grace any more, and only a rollback makes one of them current again.
    pub(super) fn continue_deleted(&mut self, node: &mut Node) -> Result<(), VaultError> {
        for version in &mut node.secret_mut()?.versions {
            if version.mark == VersionMark::None {
                version.mark = VersionMark::Deprecated;
            }
        }
        self.put_back(node)
    }

    fn put_back(&mut self, node: &mut Node) -> Result<(), VaultError> {
        node.secret_mut()?.deleted = None;
        self.deleted = None;
        self.remove(key::deleted(node.id));
        self.link(node);
        self.count(node.parent, true)
    }

    /// Destroys every deleted secret called `name`: data key and all versions. Where there
    /// is none, removes the directory called so.
    ///
    /// # Errors
    /// [`VaultError::NotFound`], [`VaultError::NotDeleted`], [`VaultError::NotEmpty`], or a failure
    /// of the vault.
    pub fn purge(&mut self, name: &SecretName) -> Result<Vec<NodeId>, VaultError> {
        let doomed = self.deleted_nodes(|node| &*node.path == name.as_str())?;
        if doomed.is_empty() {
            let directory = self.existing(name)?;
            return match directory.body {
                Body::Directory { .. } => Ok(vec![self.remove_directory(&directory)?]),
                Body::Secret(_) => Err(VaultError::NotDeleted(name.to_string())),
            };
        }
        self.destroy(&doomed)?;
        Ok(doomed.iter().map(|node| node.id).collect())
    }

    /// Destroys what was deleted before `before_ms`; gives names and ids.
    ///
    /// # Errors
    /// A failure of the vault.
    pub fn purge_expired(&mut self, before_ms: i64) -> Result<Vec<(Box<str>, NodeId)>, VaultError> {
        let doomed =
            self.deleted_nodes(|node| node.deleted_ms().is_some_and(|at| at < before_ms))?;
        self.destroy(&doomed)?;
        Ok(doomed.into_iter().map(|n| (n.path, n.id)).collect())
    }

    /// Removes nodes and values. With a node goes the sealed data key, without which
    /// no copy of its values can be opened.
    fn destroy(&mut self, doomed: &[Node]) -> Result<(), VaultError> {
        self.deleted = None;
        for node in doomed {
            if let Body::Secret(secret) = &node.body {
                for version in &secret.versions {
                    self.remove(key::value(node.id, version.number));
                }
                if let Some(pending) = &secret.pending {
                    self.remove(key::value(node.id, pending.number));
                }
            }
            self.remove_entry(node)?;
            self.remove(key::node(node.id));
            self.remove(key::deleted(node.id));
            self.nodes.push(node.id);
        }
        Ok(())
    }

    /// The deleted secrets that are `wanted`.
    pub(super) fn deleted_nodes(
        &self,
        wanted: impl Fn(&Node) -> bool,
    ) -> Result<Vec<Node>, VaultError> {
        let mut nodes = Vec::new();
        for id in self.ids(key::DELETED)? {
            nodes.extend(self.node(id)?.filter(&wanted));
        }
        Ok(nodes)
    }
}

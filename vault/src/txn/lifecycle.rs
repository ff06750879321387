//! Versions after they were made: rolled back to, deprecated, pruned, rotated with a hook.

use super::versions::{NewVersion, NextVersion, generated, prune};
use super::{Txn, WriteOutcome};
use crate::error::VaultError;
use crate::name::SecretName;
use crate::record::{Node, NodeId, Secret, key};
use crate::version::{PendingVersion, SecretSettings, Version, VersionMark};

impl Txn<'_> {
    /// Makes the value of an older version the current one, as a new version.
    ///
    /// # Errors
    /// [`VaultError::NoSuchVersion`]; [`VaultError::Unusable`] for a revoked or
    /// destroyed one; what [`Txn::set`] returns.
    pub fn rollback(
        &mut self,
        name: &SecretName,
        number: u32,
        new: &NewVersion<'_>,
    ) -> Result<WriteOutcome, VaultError> {
        let node = self.existing(name)?;
        usable(&node, number)?;
        let value = self.stored(&node, number)?;
        self.set(name, value.expose(), new)
    }

    /// True if a hook must bring a new value of `name` to where it is checked.
    ///
    /// # Errors
    /// [`VaultError::NotFound`], or a failure of the vault.
    pub fn has_hook(&self, name: &SecretName) -> Result<bool, VaultError> {
        let node = self.existing(name)?;
        Ok(node.secret()?.settings.hook.is_some())
    }

    /// The name of secret `id`.
    ///
    /// # Errors
    /// A failure of the vault.
    pub fn name_of(&self, id: NodeId) -> Result<Option<String>, VaultError> {
        Ok(self.node(id)?.map(|node| node.path.into()))
    }

    /// Ends the grace of a superseded version.
    ///
    /// # Errors
    /// [`VaultError::NoSuchVersion`]; [`VaultError::Unusable`] for the current
    /// one, or one that is revoked or destroyed.
    pub fn deprecate(
        &mut self,
        name: &SecretName,
        number: u32,
    ) -> Result<WriteOutcome, VaultError> {
        let mut node = self.existing(name)?;
        let version = usable(&node, number)?;
        if version.superseded_ms.is_none() {
            return Err(VaultError::Unusable {
                name: name.to_string(),
                version: number,
                state: "current: rotate it first",
            });
        }
        let (number, kid) = (version.number, version.kid.clone());
        version_mut(&mut node, number)?.mark = VersionMark::Deprecated;
        self.save(&node)?;
        Ok(WriteOutcome {
            version: number,
            kid,
            ..WriteOutcome::of(&node)?
        })
    }

    /// Destroys the values of all but the last `keep` versions; gives the
    /// numbers of those destroyed.
    ///
    /// # Errors
    /// [`VaultError::NotFound`], or a failure of the vault.
    pub fn prune(
        &mut self,
        name: &SecretName,
        keep: usize,
        pinned: impl Fn(NodeId, u32) -> bool,
    ) -> Result<(WriteOutcome, Vec<u32>), VaultError> {
        let mut node = self.existing(name)?;
        let id = node.id;
        let pruned = prune(node.secret_mut()?, keep, |version| pinned(id, version));
        for &version in &pruned {
            self.remove(key::value(id, version));
        }
        self.save(&node)?;
        Ok((WriteOutcome::of(&node)?, pruned))
    }

    /// Changes a secret's own settings.
    ///
    /// # Errors
    /// [`VaultError::NotFound`], or a failure of the vault.
    pub fn configure(
        &mut self,
        name: &SecretName,
        change: impl FnOnce(&mut SecretSettings),
    ) -> Result<WriteOutcome, VaultError> {
        let mut node = self.existing(name)?;
        let secret = node.secret_mut()?;
        change(&mut secret.settings);
        let is_scheduled = secret.settings.rotate_every_ms.is_some();
        if is_scheduled && !secret.kind.has_generator() {
            return Err(VaultError::NoSchedule(name.to_string()));
        }
        self.save(&node)?;
        WriteOutcome::of(&node)
    }

    /// Notes that `warnings` were given about the end of a version's life;
    /// `None` when that is no news, or the version is not current any more.
    ///
    /// # Errors
    /// A failure of the vault.
    pub fn warned(
        &mut self,
        id: NodeId,
        number: u32,
        warnings: u8,
    ) -> Result<Option<WriteOutcome>, VaultError> {
        let Some(mut node) = self.node(id)? else {
            return Ok(None);
        };
        let current = node.live_secret().and_then(Secret::current);
        if !current.is_some_and(|v| v.number == number && v.warned < warnings) {
            return Ok(None);
        }
        version_mut(&mut node, number)?.warned = warnings;
        self.save(&node)?;
        WriteOutcome::of(&node).map(Some)
    }

    /// Generates and stores a value that becomes current with [`Txn::finish_rotation`].
    /// Nothing is served of it before: a crash leaves the old version in force and
    /// the rotation waiting.
    ///
    /// # Errors
    /// [`VaultError::RotationPending`], or what [`Txn::rotate`] returns.
    pub fn begin_rotation(
        &mut self,
        name: &SecretName,
        new: &NewVersion<'_>,
    ) -> Result<(WriteOutcome, PendingVersion), VaultError> {
        let mut node = self.existing(name)?;
        let secret = node.secret()?;
        if secret.pending.is_some() {
            return Err(VaultError::RotationPending(name.to_string()));
        }
        let old = self.last_value(&node)?;
        let value = generated(name, &secret.kind, old.as_ref())?;
        let next = NextVersion::of(secret, node.segment(), new.now_ms);
        let sealed = self
            .core
            .seal_value(node.id, secret, next.number, value.expose())?;
        self.put(key::value(node.id, next.number), sealed);
        let pending = PendingVersion {
            number: next.number,
            kid: next.kid,
            len: u32::try_from(value.len()).unwrap_or(u32::MAX),
            since_ms: new.now_ms,
            seq: self.seq(),
            by_uid: new.by_uid,
            why: new.why.map(Into::into),
        };
        node.secret_mut()?.pending = Some(pending.clone());
        self.save(&node)?;
        Ok((WriteOutcome::of(&node)?, pending))
    }

    /// Makes the value of a rotation that was begun the current one.
    ///
    /// # Errors
    /// [`VaultError::NoRotation`] unless version `number` of secret `id` is waiting.
    pub fn finish_rotation(
        &mut self,
        id: NodeId,
        number: u32,
        new: &NewVersion<'_>,
    ) -> Result<WriteOutcome, VaultError> {
        let (mut node, pending) = self.take_pending(id, number)?;
        let created_ms = new.now_ms.max(pending.since_ms);
        let version = Version {
            number,
            kid: pending.kid,
            created_ms,
            expires_ms: i64::MAX,
            len: pending.len,
            by_uid: pending.by_uid,
            seq: self.seq(),
            why: pending.why,
            superseded_ms: None,
            mark: VersionMark::None,
            warned: 0,
        };
        self.push_version(&mut node, version, new)?;
        let kind = node.secret()?.kind.clone();
        let value = self.stored(&node, number)?;
        self.publish(&SecretName::parse(&node.path)?, &kind, value.expose(), new)?;
        WriteOutcome::of(&node)
    }

    /// Forgets the value of a rotation that was begun; the old one stays.
    ///
    /// # Errors
    /// As [`Txn::finish_rotation`].
    pub fn abandon_rotation(
        &mut self,
        id: NodeId,
        number: u32,
    ) -> Result<WriteOutcome, VaultError> {
        let (node, _) = self.take_pending(id, number)?;
        self.remove(key::value(id, number));
        self.save(&node)?;
        WriteOutcome::of(&node)
    }

    /// Secret `id` and its rotation to version `number`, taken out of it.
    fn take_pending(
        &mut self,
        id: NodeId,
        number: u32,
    ) -> Result<(Node, PendingVersion), VaultError> {
        let missing = || VaultError::NoRotation(format!("secret {id}"));
        let mut node = self.node(id)?.ok_or_else(missing)?;
        let taken = node.secret_mut()?.pending.take();
        match taken.filter(|pending| pending.number == number) {
            Some(pending) => Ok((node, pending)),
            None => Err(VaultError::NoRotation(node.path.into())),
        }
    }
}

/// Version `number`, unless it is revoked or destroyed.
fn usable(node: &Node, number: u32) -> Result<&Version, VaultError> {
    let name = || node.path.to_string();
    let version = node.secret()?.version(number);
    let version = version.ok_or_else(|| VaultError::NoSuchVersion {
        name: name(),
        version: number,
    })?;
    let state = match version.mark {
        VersionMark::None | VersionMark::Deprecated => return Ok(version),
        VersionMark::Revoked => "revoked",
        VersionMark::Destroyed => "destroyed",
    };
    Err(VaultError::Unusable {
        name: name(),
        version: number,
        state,
    })
}

/// Version `number`, to be changed.
fn version_mut(node: &mut Node, number: u32) -> Result<&mut Version, VaultError> {
    let name = node.path.to_string();
    let versions = &mut node.secret_mut()?.versions;
    let found = versions.iter_mut().find(|version| version.number == number);
    found.ok_or(VaultError::NoSuchVersion {
        name,
        version: number,
    })
}

//! New versions of secrets.

use super::{Txn, WriteOutcome};
use crate::error::VaultError;
use crate::kid;
use crate::kind::SecretType;
use crate::name::{NameError, SecretName};
use crate::record::{Node, NodeId, Secret, key};
use crate::secret::{MAX_VALUE, SecretBytes};
use crate::version::{MAX_DESTROYED, Version, VersionMark};

/// A demand on the current version, which a new one replaces.
#[derive(Clone, Copy, Debug)]
pub enum KidPrecondition<'a> {
    /// No demand.
    Any,
    /// There must be no such secret; a deleted one counts as none.
    Absent,
    /// The current version must have this key id.
    Current(&'a str),
}

/// A new version of a secret, its value apart.
pub struct NewVersion<'a> {
    /// The secret's type; `None` keeps it, also a deleted one's (opaque for a new secret).
    pub kind: Option<&'a SecretType>,
    /// The demand on the version that is replaced.
    pub if_kid: KidPrecondition<'a>,
    /// Cached reads allowed or not; `None` keeps it (not, for a new secret).
    pub cached: Option<bool>,
    /// The uid of the writer.
    pub by_uid: u32,
    /// The time now, Unix milliseconds.
    pub now_ms: i64,
    /// Life of the version in milliseconds, unless the secret has its own.
    pub life_ms: i64,
    /// Versions whose values are kept, at least 1, unless the secret has its own.
    pub keep: usize,
    /// The earliest deletion that a new value continues, Unix milliseconds: what was
    /// deleted before is as good as purged.
    pub recoverable_since_ms: i64,
    /// The reason, in the writer's words.
    pub why: Option<&'a str>,
    /// True for a version that an open handle still needs: its value must stay.
    pub pinned: &'a dyn Fn(NodeId, u32) -> bool,
}

impl NewVersion<'_> {
    /// A version by `by_uid` that demands nothing, never expires, continues what was
    /// deleted at any time, and lets the values of all older ones be.
    #[must_use]
    pub fn by(by_uid: u32, now_ms: i64) -> Self {
        Self {
            kind: None,
            if_kid: KidPrecondition::Any,
            cached: None,
            by_uid,
            now_ms,
            life_ms: i64::MAX,
            keep: usize::MAX,
            recoverable_since_ms: i64::MIN,
            why: None,
            pinned: &|_, _| false,
        }
    }
}

impl Txn<'_> {
    /// Stores `value` as the new current version of `name`, creating the
    /// secret and its directories when needed. A deleted secret goes on: under its id,
    /// with its versions, settings and type.
    ///
    /// # Errors
    /// [`VaultError::TooLarge`], [`VaultError::Conflict`],
    /// [`VaultError::IsDirectory`], [`VaultError::NotDirectory`], or a failure of
    /// the vault.
    pub fn set(
        &mut self,
        name: &SecretName,
        value: &[u8],
        new: &NewVersion<'_>,
    ) -> Result<WriteOutcome, VaultError> {
        if value.len() > MAX_VALUE {
            return Err(VaultError::TooLarge {
                len: value.len(),
                max: MAX_VALUE,
            });
        }
        let (existing, deleted) = self
            .find_entered(name)?
            .map_or((None, None), |node| match node.deleted_ms() {
                None => (Some(node), None),
                Some(at_ms) => (
                    None,
                    Some(node).filter(|_| at_ms >= new.recoverable_since_ms),
                ),
            });
        let current = match &existing {
            None => None,
            Some(node) => node.secret()?.current().map(|v| v.kid.clone()),
        };
        check_if_kid(name, new.if_kid, current)?;
        let (created, continued) = (existing.is_none(), deleted.is_some());
        let node = match (existing, deleted) {
            (Some(node), _) => node,
            (None, Some(mut node)) => {
                self.continue_deleted(&mut node)?;
                node
            }
            (None, None) => self.create_secret(name, new.kind, new.now_ms)?,
        };
        let outcome = self.add_version(node, value, new)?;
        Ok(WriteOutcome {
            created,
            continued,
            ..outcome
        })
    }

    /// Generates and stores a new version. A deleted secret stays deleted: who may
    /// rotate need not be who may bring it back.
    ///
    /// # Errors
    /// [`VaultError::NotFound`], [`VaultError::NoGenerator`] for a type without a
    /// generator, or what [`Txn::set`] returns.
    pub fn rotate(
        &mut self,
        name: &SecretName,
        new: &NewVersion<'_>,
    ) -> Result<WriteOutcome, VaultError> {
        let node = self.existing(name)?;
        let kind = new.kind.unwrap_or(&node.secret()?.kind);
        let old = self.last_value(&node)?;
        let value = generated(name, kind, old.as_ref())?;
        self.set(name, value.expose(), new)
    }

    /// Generates the value of a secret that may be new.
    ///
    /// # Errors
    /// As [`Txn::rotate`], except that the secret need not exist.
    pub fn generate(
        &mut self,
        name: &SecretName,
        kind: &SecretType,
        new: &NewVersion<'_>,
    ) -> Result<WriteOutcome, VaultError> {
        let new = NewVersion {
            kind: Some(kind),
            ..*new
        };
        let value = generated(name, kind, None)?;
        self.set(name, value.expose(), &new)
    }

    /// Takes the changes of secrets that follow from others: the public parts of
    /// key pairs.
    pub fn derived_changes(&mut self) -> Vec<(SecretName, WriteOutcome)> {
        std::mem::take(&mut self.derived)
    }

    /// The names of the changes that [`Txn::derived_changes`] will take.
    pub fn derived_names(&self) -> impl Iterator<Item = &SecretName> {
        self.derived.iter().map(|(name, _)| name)
    }

    /// The name under which a new value of `name` has its public part, if it has one.
    ///
    /// # Errors
    /// [`VaultError::NotFound`], or a failure of the vault.
    pub fn public_name(&self, name: &SecretName) -> Result<Option<SecretName>, VaultError> {
        let node = self.existing(name)?;
        let has_one = node.secret()?.kind == SecretType::Ed25519;
        Ok(has_one.then(|| beside(name)).transpose()?)
    }

    /// Stores the public part of `value`, the new value of `name`, if it has one.
    pub(super) fn publish(
        &mut self,
        name: &SecretName,
        kind: &SecretType,
        value: &[u8],
        new: &NewVersion<'_>,
    ) -> Result<(), VaultError> {
        let Some(public) = kind.public_part(value)? else {
            return Ok(());
        };
        let name = beside(name)?;
        if let Some(node) = self.find(&name)?
            && node.secret()?.kind != SecretType::PublicKey
        {
            return Err(VaultError::Occupied(name.to_string()));
        }
        let new = NewVersion {
            kind: Some(&SecretType::PublicKey),
            if_kid: KidPrecondition::Any,
            ..*new
        };
        let outcome = self.set(&name, public.expose(), &new)?;
        self.derived.push((name, outcome));
        Ok(())
    }

    /// Seals and stores `value` as the next version of `node`.
    fn add_version(
        &mut self,
        mut node: Node,
        value: &[u8],
        new: &NewVersion<'_>,
    ) -> Result<WriteOutcome, VaultError> {
        let (id, path) = (node.id, node.path.clone());
        let segment = node.segment().to_owned();
        let secret = node.secret_mut()?;
        // The next number is taken: the waiting value is stored under it.
        if secret.pending.is_some() {
            return Err(VaultError::RotationPending(path.into()));
        }
        if let Some(kind) = new.kind {
            secret.kind = kind.clone();
        }
        let kind = secret.kind.clone();
        secret.cached = new.cached.unwrap_or(secret.cached);
        let next = NextVersion::of(secret, &segment, new.now_ms);
        let sealed = self.core.seal_value(id, secret, next.number, value)?;
        self.put(key::value(id, next.number), sealed);
        let version = next.version(value.len(), self.state.seq, new);
        self.push_version(&mut node, version, new)?;
        let outcome = WriteOutcome::of(&node)?;
        self.publish(&SecretName::parse(&path)?, &kind, value, new)?;
        Ok(outcome)
    }

    /// Makes `version`, whose value is stored, the current one.
    pub(super) fn push_version(
        &mut self,
        node: &mut Node,
        mut version: Version,
        new: &NewVersion<'_>,
    ) -> Result<(), VaultError> {
        let id = node.id;
        let secret = node.secret_mut()?;
        if let Some(last) = secret.versions.last_mut() {
            last.superseded_ms.get_or_insert(version.created_ms);
        }
        let life = secret.settings.life_ms.unwrap_or(new.life_ms);
        version.expires_ms = version.created_ms.saturating_add(life);
        secret.versions.push(version);
        let keep = secret.settings.keep.map_or(new.keep, |keep| keep as usize);
        let pruned = prune(secret, keep, |version| (new.pinned)(id, version));
        for version in pruned {
            self.remove(key::value(id, version));
        }
        self.save(node)
    }

    /// The newest value, of a type whose next one depends on it.
    pub(super) fn last_value(&self, node: &Node) -> Result<Option<SecretBytes>, VaultError> {
        let secret = node.secret()?;
        let depends = matches!(secret.kind, SecretType::Json { .. });
        let newest = secret.newest().filter(|v| depends && v.has_value());
        newest.map(|v| self.stored(node, v.number)).transpose()
    }

    /// The value of a version, this transaction's own included.
    pub(super) fn stored(&self, node: &Node, number: u32) -> Result<SecretBytes, VaultError> {
        let secret = node.secret()?;
        let sealed = self.get(&key::value(node.id, number))?;
        let sealed = sealed.ok_or_else(|| self.core.damaged("a value is missing"))?;
        self.core.open_value(node.id, secret, number, sealed)
    }
}

/// The name of the public part of key pair `name`.
fn beside(name: &SecretName) -> Result<SecretName, NameError> {
    SecretName::parse(&format!("{name}.pub"))
}

/// Checks the demand `if_kid` on the current version.
fn check_if_kid(
    name: &SecretName,
    if_kid: KidPrecondition<'_>,
    current: Option<String>,
) -> Result<(), VaultError> {
    let expected = match if_kid {
        KidPrecondition::Any => return Ok(()),
        KidPrecondition::Absent => None,
        KidPrecondition::Current(kid) => Some(kid),
    };
    if current.as_deref() == expected {
        return Ok(());
    }
    let Some(expected) = expected else {
        return Err(VaultError::NotAbsent(name.to_string()));
    };
    Err(VaultError::Conflict {
        name: name.to_string(),
        expected: expected.to_owned(),
        found: current.unwrap_or_else(|| "none".to_owned()),
    })
}

/// Number and key id of a secret's next version.
pub(super) struct NextVersion {
    pub(super) number: u32,
    pub(super) kid: String,
    created_ms: i64,
}

impl NextVersion {
    /// The version after the newest one of `secret`, whose name ends in `segment`.
    pub(super) fn of(secret: &Secret, segment: &str, now_ms: i64) -> Self {
        let last = secret.versions.last();
        // A clock set back must not make a key id twice.
        let created_ms = last.map_or(now_ms, |v| v.created_ms.max(now_ms));
        Self {
            number: last.map_or(1, |v| v.number.saturating_add(1)),
            kid: kid::next(segment, created_ms, last.map(|v| v.kid.as_str())),
            created_ms,
        }
    }

    fn version(self, len: usize, seq: u64, new: &NewVersion<'_>) -> Version {
        Version {
            number: self.number,
            kid: self.kid,
            created_ms: self.created_ms,
            expires_ms: i64::MAX,
            len: u32::try_from(len).unwrap_or(u32::MAX),
            by_uid: new.by_uid,
            seq,
            why: new.why.map(Into::into),
            superseded_ms: None,
            mark: VersionMark::None,
            warned: 0,
        }
    }
}

/// Marks superseded versions beyond `keep` as destroyed, the oldest first, and
/// gives their numbers; the caller removes the values in the same commit. What is
/// remembered of destroyed ones is bounded, too.
///
/// A pinned version is passed over: an open handle reads its value again from the
/// vault. The first prune after the handle is closed takes it. The newest version
/// is never taken, for at least one is kept.
pub(super) fn prune(secret: &mut Secret, keep: usize, pinned: impl Fn(u32) -> bool) -> Vec<u32> {
    let with_value = secret.versions.iter().filter(|v| v.has_value()).count();
    let excess = with_value.saturating_sub(keep.max(1));
    let candidates = secret.versions.iter().filter(|v| v.has_value());
    let candidates = candidates.take(excess).map(|v| v.number);
    let pruned: Vec<u32> = candidates.filter(|&number| !pinned(number)).collect();
    for version in &mut secret.versions {
        if pruned.contains(&version.number) {
            version.mark = VersionMark::Destroyed;
        }
    }
    // Forgotten from the front: the numbers that stay have gaps, but only go up.
    let destroyed = secret.versions.iter().filter(|v| !v.has_value()).count();
    let mut forgotten = destroyed.saturating_sub(MAX_DESTROYED);
    secret.versions.retain(|version| {
        let forget = forgotten > 0 && !version.has_value();
        forgotten -= usize::from(forget);
        !forget
    });
    pruned
}

/// A fresh value of type `kind` after `old`.
pub(super) fn generated(
    name: &SecretName,
    kind: &SecretType,
    old: Option<&SecretBytes>,
) -> Result<SecretBytes, VaultError> {
    kind.generate(old.map(SecretBytes::expose))?
        .ok_or_else(|| VaultError::NoGenerator(name.to_string()))
}

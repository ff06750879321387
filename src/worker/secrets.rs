//! Secrets as they are stored: the only owner of the vault for reading.
//!
//! Runs in: the worker.
//! Touches: the vault, PLAINTEXT (sealed off as [`Unrecorded`] until its record is written).
//! Imported by: authorization, commit, gate, control, scheduler, status, tree, maintenance.

use std::ops::ControlFlow;
use std::sync::Arc;

use jarvis_fs::FsError;
use jarvis_vault::{
    Body, Credential, NameError, Node, Revocation, Secret, SecretBytes, SecretName, SlotInfo,
    StoreError, StoreHealth, Vault, VaultError, Version, VersionState,
};

use crate::common::clock::now_ms;
use crate::worker::audit::Recorded;
use crate::worker::metrics::Metrics;
use crate::worker::settings::Settings;

/// Plaintext of one secret that no record tells of yet. The one way to it is the token
/// that the audit trail gives for a record about the same secret.
pub(crate) struct Unrecorded<T> {
    secret: u64,
    plaintext: T,
}

impl<T> Unrecorded<T> {
    /// Releases the plaintext.
    ///
    /// # Errors
    /// [`FsError::Io`] when the record is about another secret.
    pub(crate) fn open(self, recorded: &Recorded) -> Result<T, FsError> {
        if recorded.secret() == self.secret {
            Ok(self.plaintext)
        } else {
            tracing::error!("a record of another secret opens nothing");
            Err(FsError::Io)
        }
    }
}

/// A version that an export contains.
pub(crate) struct ExportedVersion {
    pub(crate) number: u32,
    pub(crate) kid: String,
}

/// Reasons that keep the vault from its work, in few words.
#[derive(Default, PartialEq)]
pub(crate) struct VaultTrouble {
    /// Why secrets can't be read.
    pub(crate) reads: Option<String>,
    /// Why changes are refused.
    pub(crate) changes: Option<String>,
}

/// The vault as it is read.
pub(crate) struct Secrets {
    vault: Arc<Vault>,
    metrics: Arc<Metrics>,
    settings: Arc<Settings>,
}

impl Secrets {
    pub(crate) fn new(vault: Arc<Vault>, metrics: Arc<Metrics>, settings: Arc<Settings>) -> Self {
        Self {
            vault,
            metrics,
            settings,
        }
    }

    /// Counts and logs a failure below; the caller of a file operation gets EIO.
    pub(crate) fn vault_failed(&self, error: &VaultError) -> FsError {
        self.metrics.secrets.vault_errors.inc();
        if matches!(error, VaultError::Damaged { .. }) {
            self.metrics.secrets.crypto_errors.inc();
        }
        tracing::error!(%error, "vault");
        FsError::Io
    }

    /// Trouble with the vault, as it was found last.
    pub(crate) fn vault_trouble(&self) -> VaultTrouble {
        trouble(&self.vault.health())
    }

    /// Looks whether the vault can be read and changed, has it go on with its work once it
    /// can, and logs what is new since the `last` look.
    pub(crate) fn watch_vault(&self, last: &mut StoreHealth) {
        let found = self.vault.check();
        if found.failures > last.failures
            && let Some(error) = &found.last_failure
        {
            tracing::error!(%error, "a read of the vault failed, its file was opened anew");
        }
        let (before, now) = (trouble(last), trouble(&found));
        if let Err(error) = found.writable.as_ref()
            && before.changes != now.changes
        {
            tracing::error!(%error, "the vault takes no changes");
        }
        if let Err(error) = found.readable.as_ref()
            && before.reads != now.reads
        {
            tracing::error!(%error, "the vault cannot be read");
        }
        if before != VaultTrouble::default() && now == VaultTrouble::default() {
            tracing::warn!("the vault is read and changed again");
        }
        *last = found;
    }

    /// The node with inode number `id`.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::Io`].
    pub(crate) fn node(&self, id: u64) -> Result<Arc<Node>, FsError> {
        match self.vault.node(id) {
            Ok(Some(node)) => Ok(node),
            Ok(None) => Err(FsError::NotFound),
            Err(error) => Err(self.vault_failed(&error)),
        }
    }

    /// The path of the node with inode number `id`, as far as it can be told.
    pub(crate) fn name_of(&self, id: u64) -> Option<Box<str>> {
        self.node(id).ok().map(|node| node.path.clone())
    }

    /// The entry `name` of directory `parent`.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::Io`].
    pub(crate) fn lookup(&self, parent: u64, name: &str) -> Result<Arc<Node>, FsError> {
        match self.vault.lookup(parent, name) {
            Ok(Some(node)) => Ok(node),
            Ok(None) => Err(FsError::NotFound),
            Err(error) => Err(self.vault_failed(&error)),
        }
    }

    /// The live secret called `name`.
    ///
    /// # Errors
    /// [`VaultError::NotFound`] and failures of the vault.
    pub(crate) fn find(&self, name: &SecretName) -> Result<Arc<Node>, VaultError> {
        let node = self.vault.find(name)?;
        let node = node.filter(|node| node.live_secret().is_some());
        node.ok_or_else(|| VaultError::NotFound(name.to_string()))
    }

    /// Shows the entries of directory `id` after inode `after`, until `visit` breaks.
    ///
    /// # Errors
    /// [`FsError::Io`].
    pub(crate) fn children(
        &self,
        id: u64,
        after: u64,
        visit: impl FnMut(&Node) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        let listing = self.vault.children(id, after, visit);
        listing.map_err(|error| self.vault_failed(&error))
    }

    /// Shows every live secret.
    ///
    /// # Errors
    /// Failures of the vault.
    pub(crate) fn walk(&self, visit: &mut dyn FnMut(&Node, &Secret)) -> Result<(), VaultError> {
        self.vault.walk(jarvis_vault::ROOT, visit)
    }

    /// Shows every deleted secret that is not purged.
    ///
    /// # Errors
    /// Failures of the vault.
    pub(crate) fn deleted(&self, visit: impl FnMut(&Node)) -> Result<(), VaultError> {
        self.vault.deleted(visit)
    }

    /// Whether a secret was deleted before `before_ms`.
    ///
    /// # Errors
    /// Failures of the vault.
    pub(crate) fn any_deleted_before(&self, before_ms: i64) -> Result<bool, VaultError> {
        let mut any = false;
        self.deleted(|node| any |= node.deleted_ms().is_some_and(|at| at < before_ms))?;
        Ok(any)
    }

    /// Secrets, deleted ones too, of which something was made after `now_ms`.
    ///
    /// # Errors
    /// Failures of the vault.
    pub(crate) fn made_after(&self, now_ms: i64) -> Result<Vec<u64>, VaultError> {
        let mut found = Vec::new();
        self.walk(&mut |node, secret| {
            found.extend(secret.is_of_the_future(now_ms).then_some(node.id));
        })?;
        self.deleted(|node| match &node.body {
            Body::Secret(secret) if secret.is_of_the_future(now_ms) => found.push(node.id),
            _ => {}
        })?;
        Ok(found)
    }

    /// Number of live secrets, and of the last commit.
    pub(crate) fn counts(&self) -> jarvis_vault::VaultCounts {
        self.vault.counts()
    }

    /// The key slots.
    ///
    /// # Errors
    /// Failures of the vault.
    pub(crate) fn slots(&self) -> Result<Vec<SlotInfo>, VaultError> {
        self.vault.slots()
    }

    /// Revocation number `id`.
    ///
    /// # Errors
    /// [`VaultError::NoSuchRevocation`] and failures of the vault.
    pub(crate) fn revocation(&self, id: u64) -> Result<Revocation, VaultError> {
        self.vault.revocation(id)
    }

    /// Shows the revocations after number `after`, until `visit` breaks.
    ///
    /// # Errors
    /// Failures of the vault.
    pub(crate) fn revocations(
        &self,
        after: u64,
        visit: impl FnMut(&Revocation) -> ControlFlow<()>,
    ) -> Result<(), VaultError> {
        self.vault.revocations(after, visit)
    }

    /// Shows every node with an id above `after`, until `visit` breaks.
    ///
    /// # Errors
    /// Failures of the vault.
    pub(crate) fn nodes(
        &self,
        after: u64,
        visit: impl FnMut(&Node) -> ControlFlow<()>,
    ) -> Result<(), VaultError> {
        self.vault.nodes(after, visit)
    }

    /// Number of deleted secrets that are kept, as far as it can be told.
    pub(crate) fn deleted_count(&self) -> usize {
        self.vault.deleted_count().unwrap_or_default()
    }

    /// State of `version` of `secret` now.
    pub(crate) fn state_of(&self, secret: &Secret, version: &Version) -> VersionState {
        let grace = secret.settings.grace_ms;
        version.state(now_ms(), grace.unwrap_or(self.settings.versions.grace_ms))
    }

    /// The value of a version, revoked or not, deleted or not; `None` once it is
    /// destroyed.
    ///
    /// # Errors
    /// Failures of the vault.
    pub(crate) fn value(
        &self,
        node: &Node,
        version: u32,
    ) -> Result<Option<Unrecorded<SecretBytes>>, VaultError> {
        let value = self.vault.value(node, version)?;
        Ok(value.map(|plaintext| Unrecorded {
            secret: node.id,
            plaintext,
        }))
    }

    /// Everything kept of the secret called `name`, sealed for who has `credential`.
    ///
    /// # Errors
    /// [`VaultError::NotFound`], refusals of the credential, failures of the vault.
    pub(crate) fn export(
        &self,
        node: &Node,
        credential: &Credential,
    ) -> Result<(Unrecorded<Vec<u8>>, Vec<ExportedVersion>), VaultError> {
        let secret = node.live_secret();
        let secret = secret.ok_or_else(|| VaultError::NotFound(node.path.to_string()))?;
        let (sealed, versions) = self.vault.export(node, secret, credential, now_ms())?;
        let versions = versions.into_iter().map(|version| ExportedVersion {
            number: version.number,
            kid: version.kid.clone(),
        });
        let sealed = Unrecorded {
            secret: node.id,
            plaintext: sealed,
        };
        Ok((sealed, versions.collect()))
    }

    /// Decrypts a version (the current one unless a number is `wanted`) and lets
    /// `release` decide over it; a version pruned in between is looked up again.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::Revoked`], [`FsError::Expired`],
    /// [`FsError::Io`], and those of `release`.
    pub(crate) fn with_version<T>(
        &self,
        id: u64,
        wanted: Option<u32>,
        release: impl FnOnce(&Node, &Version, Unrecorded<SecretBytes>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        for _ in 0..3 {
            let node = self.node(id)?;
            let secret = node.live_secret().ok_or(FsError::NotFound)?;
            let current = self.servable(secret, wanted)?;
            match self.value(&node, current.number) {
                Ok(Some(value)) => {
                    self.metrics.secrets.decryptions.inc();
                    return release(&node, current, value);
                }
                Ok(None) => {}
                Err(error) => return Err(self.vault_failed(&error)),
            }
        }
        Err(FsError::Io)
    }

    /// The version that an open gets now.
    fn servable<'s>(
        &self,
        secret: &'s Secret,
        wanted: Option<u32>,
    ) -> Result<&'s Version, FsError> {
        let version = match wanted {
            Some(number) => secret.version(number),
            None => secret.newest(),
        };
        let version = version.ok_or(FsError::NotFound)?;
        let over = version.expires_ms <= now_ms() && secret.settings.refuse_expired;
        match self.state_of(secret, version) {
            VersionState::Revoked => Err(FsError::Revoked),
            VersionState::Current | VersionState::Grace if over => Err(FsError::Expired),
            VersionState::Current | VersionState::Grace => Ok(version),
            VersionState::Retired | VersionState::Deprecated | VersionState::Destroyed => {
                Err(FsError::NotFound)
            }
        }
    }
}

fn trouble(health: &StoreHealth) -> VaultTrouble {
    let brief = |result: &Result<(), StoreError>| result.as_ref().err().map(StoreError::brief);
    VaultTrouble {
        reads: brief(&health.readable),
        changes: brief(&health.writable),
    }
}

/// Errno and code of what a caller can do something about; `None` for failures.
pub(crate) fn refusal(error: &VaultError) -> Option<(FsError, &'static str)> {
    match error {
        VaultError::Name(
            NameError::Long(_) | NameError::LongSegment(..) | NameError::TooDeep(_),
        ) => Some((FsError::NameTooLong, "name_too_long")),
        VaultError::Name(_)
        | VaultError::Option { .. }
        | VaultError::Value(_)
        | VaultError::KeyFileLength { .. }
        | VaultError::PassphraseLength { .. } => Some((FsError::Invalid, "invalid")),
        VaultError::NotFound(_)
        | VaultError::NoSuchSlot(_)
        | VaultError::NoSuchVersion { .. }
        | VaultError::NoSuchRevocation(_) => Some((FsError::NotFound, "not_found")),
        VaultError::TooManyConsumers { .. } => Some((FsError::NotSupported, "too_many_consumers")),
        VaultError::TooManyDeleted(_) => Some((FsError::NotSupported, "too_many_deleted")),
        VaultError::TooManyRevocations { .. } => {
            Some((FsError::NotSupported, "too_many_revocations"))
        }
        VaultError::Unusable { .. } => Some((FsError::NotSupported, "unusable")),
        VaultError::RotationPending(_) => Some((FsError::Busy, "rotation_pending")),
        VaultError::NoRotation(_) => Some((FsError::Conflict, "no_rotation")),
        VaultError::WrongStatus { .. } => Some((FsError::Conflict, "wrong_status")),
        VaultError::SamePerson(_) => Some((FsError::Denied, "same_person")),
        VaultError::LastSlot(_) => Some((FsError::NotSupported, "last_slot")),
        VaultError::SlotInUse(_) => Some((FsError::NotSupported, "slot_in_use")),
        VaultError::NoFreeSlot => Some((FsError::NotSupported, "no_free_slot")),
        VaultError::IsDirectory(_) => Some((FsError::IsDirectory, "is_directory")),
        VaultError::NotDirectory(_) => Some((FsError::NotDirectory, "not_directory")),
        VaultError::TooLarge { .. } => Some((FsError::TooLong, "too_long")),
        VaultError::Conflict { .. } | VaultError::NotAbsent(_) => {
            Some((FsError::Conflict, "conflict"))
        }
        VaultError::NoGenerator(_) => Some((FsError::NotSupported, "no_generator")),
        VaultError::NotDeleted(_) => Some((FsError::Conflict, "not_deleted")),
        VaultError::NoSchedule(_) => Some((FsError::NotSupported, "no_generator")),
        VaultError::NotEmpty(_) => Some((FsError::Exists, "not_empty")),
        VaultError::Occupied(_) => Some((FsError::Exists, "exists")),
        VaultError::NotAVault { .. }
        | VaultError::NotAHistory { .. }
        | VaultError::Newer { .. }
        | VaultError::Damaged { .. }
        | VaultError::WrongPassphrase { .. }
        | VaultError::WrongKeyFile { .. }
        | VaultError::NoSlot { .. }
        | VaultError::SlotParameters { .. }
        | VaultError::InUse { .. }
        | VaultError::Distrusted(_)
        | VaultError::Exists { .. }
        | VaultError::Io { .. }
        | VaultError::Store(_)
        | VaultError::Keys(_) => None,
    }
}

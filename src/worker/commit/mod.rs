//! Changes of the vault: its only owner for writing.
//!
//! A commit carries a *note* of itself (an outbox entry, sealed like everything); then the
//! audit record is written and synced, and the next commit drops the note. After a crash
//! between the two, or a full disk, the notes are recorded first, marked `recovered`; until
//! then nothing is released. So no change is without its record, and none is recorded that
//! did not happen. A log that takes no records takes no changes either, but revocations: they
//! are the safe direction, so they take effect at once and their records are owed.
//!
//! Exactly once: the answer to a change is committed with it, under the mount's nonce and the
//! request's number ([`Journal`]). A request that comes again finds its answer there. A read
//! that comes again finds its handle in the table: it was recorded.
//!
//! Control requests run in one thread of their own, so that no serving thread waits for a disk.
//!
//! Runs in: the worker.
//! Touches: the vault, PLAINTEXT on its way in.
//! Imported by: gate (for what is owed), control, scheduler, tree, maintenance.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use jarvis_audit::{Durability, Event, Outcome, RecordMark};
use jarvis_fs::{FsError, HandleTable};
use jarvis_vault::{NewVersion, StoreError, Txn, Vault, VaultError};
use parking_lot::{Mutex, MutexGuard};

use crate::common::clock::{now_ms, settled_ms};
use crate::config::EventKind;
use crate::ipc::runner as notification;
use crate::worker::audit::AuditTrail;
use crate::worker::audit::outage::RecordError;
use crate::worker::metrics::Metrics;
use crate::worker::runner_client::RunnerClient;
use crate::worker::secrets::{Secrets, refusal};
use crate::worker::settings::Settings;

pub(crate) mod change;
mod journal;
mod operations;
mod remembered;
mod times;
mod wake;

use change::{Change, ChangeKind};
pub(crate) use journal::Journal;
pub(crate) use operations::{rotate, with_derived};
pub(crate) use wake::SchedulerWake;

/// Reason why a change was not made, or is not yet recorded. Its text is for the
/// caller.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    /// The vault's refusal, about which who asked can do something.
    #[error(transparent)]
    Refused(#[from] VaultError),
    /// The vault failed; it is logged and counted.
    #[error("the vault failed; see the daemon's log")]
    VaultFailed,
    /// The vault's file takes no change; it is logged and counted.
    #[error("{0}")]
    VaultUnwritable(StoreError),
    /// The change's note could not be written down, so nothing was changed.
    #[error("the change could not be noted, so nothing was changed: {0}")]
    Note(#[from] serde_json::Error),
    /// The change is made; its record is owed.
    #[error("the change is made, but its audit record cannot be written yet; see the daemon's log")]
    NotRecorded,
    /// Refusal of the policy about a name that the change would write too; nothing was changed.
    #[error("the policy does not allow all of the change")]
    NotAllowed,
    /// The request took too long; nothing was changed.
    #[error("the request takes too long, so nothing was changed: divide it into smaller ones")]
    TooSlow,
    /// Nothing was changed.
    #[error("the audit log takes no records, so nothing was changed: {0}")]
    AuditUnavailable(String),
}

impl CommitError {
    /// The refusal of a change while `audit` takes no records.
    pub(crate) fn unavailable(audit: &AuditTrail) -> Self {
        let why = audit.fault();
        Self::AuditUnavailable(why.unwrap_or_else(|| "see the daemon's log".into()))
    }
}

/// Whether a change may wait for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Without a record no change.
    Ordinary,
    /// A revocation: it takes effect also while its record is owed.
    Revocation,
}

/// Tells whether an open handle needs a version (inode number, version number).
type Pins = Box<dyn Fn(u64, u32) -> bool + Send + Sync>;

/// The vault as it is written.
pub(crate) struct Committer {
    vault: Arc<Vault>,
    secrets: Arc<Secrets>,
    audit: Arc<AuditTrail>,
    runner: Arc<RunnerClient>,
    metrics: Arc<Metrics>,
    settings: Arc<Settings>,
    pins: Pins,
    journal: Journal,
    /// Locked from a commit to its record: a later commit's record confirms all
    /// earlier ones, so they must be written in their order.
    changing: Mutex<()>,
    /// The outbox may hold notes of commits that have no record: nothing is released
    /// before they have. Set at first, for the worker before may have died between.
    outbox_pending: AtomicBool,
    /// Grows with every commit that revokes: each READ compares it with what its handle
    /// saw last.
    revocation_epoch: AtomicU64,
    wake: SchedulerWake,
}

/// The parts of a worker that a [`Committer`] works with.
pub(crate) struct CommitParts {
    pub(crate) vault: Arc<Vault>,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) audit: Arc<AuditTrail>,
    pub(crate) runner: Arc<RunnerClient>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) handles: Arc<HandleTable>,
    pub(crate) journal: Journal,
}

impl Committer {
    pub(crate) fn new(parts: CommitParts) -> Self {
        let handles = parts.handles;
        Self {
            vault: parts.vault,
            secrets: parts.secrets,
            audit: parts.audit,
            runner: parts.runner,
            metrics: parts.metrics,
            settings: parts.settings,
            pins: Box::new(move |ino, version| handles.pins(ino, version)),
            journal: parts.journal,
            changing: Mutex::new(()),
            outbox_pending: AtomicBool::new(true),
            revocation_epoch: AtomicU64::new(0),
            wake: SchedulerWake::default(),
        }
    }

    /// Answers that were committed together with their effects.
    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Wakes the scheduler, and lets it wait.
    pub(crate) fn wake(&self) -> &SchedulerWake {
        &self.wake
    }

    /// Grows with every revocation.
    pub(crate) fn revocation_epoch(&self) -> u64 {
        self.revocation_epoch.load(Ordering::Acquire)
    }

    /// Beginning of the recovery window, Unix milliseconds of settled time: what was deleted
    /// before is destroyed, and can neither be restored nor continued.
    pub(crate) fn recoverable_since_ms(&self) -> i64 {
        settled_ms().saturating_sub(self.settings.versions.recovery_ms)
    }

    /// A new version by `by_uid` as the configuration wants it.
    pub(crate) fn version_defaults(&self, by_uid: u32) -> NewVersion<'_> {
        NewVersion {
            life_ms: self.settings.versions.life_ms,
            keep: self.settings.versions.keep,
            recoverable_since_ms: self.recoverable_since_ms(),
            pinned: &*self.pins,
            ..NewVersion::by(by_uid, now_ms())
        }
    }

    /// Commits what `change` did with a note of it, then records it. Without the
    /// record the caller gets an error although the change is made: the note
    /// brings the record later, and nothing is released before.
    ///
    /// # Errors
    /// [`CommitError`].
    pub(crate) fn commit(
        &self,
        change: impl FnOnce(&mut Txn<'_>) -> Result<Vec<Change>, VaultError>,
    ) -> Result<(), CommitError> {
        self.commit_as(Urgency::Ordinary, |txn| Ok(change(txn)?))
    }

    /// Like [`Self::commit`], of a change that may be urgent.
    ///
    /// # Errors
    /// [`CommitError`].
    pub(crate) fn commit_as(
        &self,
        urgency: Urgency,
        change: impl FnOnce(&mut Txn<'_>) -> Result<Vec<Change>, CommitError>,
    ) -> Result<(), CommitError> {
        let turn = self.changing.lock();
        let flushed = self.flush_outbox_locked(&turn, urgency);
        if urgency == Urgency::Ordinary {
            flushed.map_err(|_| CommitError::unavailable(&self.audit))?;
            let ready = self.audit.demand_records();
            ready.map_err(CommitError::AuditUnavailable)?;
        }
        let written = self.vault.write(|txn| -> Result<_, CommitError> {
            let changes = change(txn)?;
            for change in &changes {
                // A change without its note would be one without its record.
                txn.note(&serde_json::to_vec(change)?)?;
            }
            Ok((txn.seq(), changes))
        });
        let (seq, changes) = written.map_err(|error| self.classified(error))?;
        // Before anybody is told that it is done: whoever reads after that must
        // find that the handle's version is revoked.
        if changes.iter().any(|change| change.fences) {
            self.revocation_epoch.fetch_add(1, Ordering::AcqRel);
        }
        self.journal.committed();
        for change in &changes {
            self.count(change);
            self.announce(change);
        }
        let recorded = match flushed {
            Ok(()) => self.record_changes(seq, &changes, urgency),
            // What is owed already comes first.
            Err(error) => Err(error),
        };
        // After the record: a hook gets its values against it.
        for change in &changes {
            match (change.begins, change.id) {
                (Some(_), Some(id)) => self.wake.begun(id),
                _ if matches!(change.action, ChangeKind::Configure) => self.wake.look(),
                _ => {}
            }
        }
        recorded.map_err(|_| CommitError::NotRecorded)
    }

    /// Tells failures of the vault from refusals: a failure is for the log and the
    /// counters, and its text (records) for nobody else; that its file takes no change, and
    /// what to do about it, is for who wanted one.
    fn classified(&self, error: CommitError) -> CommitError {
        match error {
            CommitError::Refused(error) if refusal(&error).is_none() => {
                self.secrets.vault_failed(&error);
                match error {
                    VaultError::Store(
                        error @ (StoreError::Unwritable { .. }
                        | StoreError::Displaced { .. }
                        | StoreError::InDoubt { .. }),
                    ) => CommitError::VaultUnwritable(error),
                    _ => CommitError::VaultFailed,
                }
            }
            error => error,
        }
    }

    /// Destroys what was deleted longer ago than the recovery window.
    ///
    /// # Errors
    /// [`CommitError`].
    pub(crate) fn purge_expired(&self) -> Result<(), CommitError> {
        let before = self.recoverable_since_ms();
        let look = self.secrets.any_deleted_before(before);
        if !look.map_err(|error| self.classified(error.into()))? {
            return Ok(());
        }
        self.commit(|txn| {
            let purged = txn.purge_expired(before)?;
            let change =
                |(name, id): &(Box<str>, u64)| Change::purged(name, *id, "recovery window over");
            Ok(purged.iter().map(change).collect())
        })
    }

    fn count(&self, change: &Change) {
        if change.failed {
            return;
        }
        match change.action {
            ChangeKind::Create => {
                self.metrics.secrets.encryptions.inc();
                self.metrics.secrets.created.inc();
            }
            ChangeKind::Rotate => {
                self.metrics.secrets.encryptions.inc();
                self.metrics.secrets.rotated.inc();
            }
            ChangeKind::Update => self.metrics.secrets.encryptions.inc(),
            ChangeKind::Delete
            | ChangeKind::Restore
            | ChangeKind::Purge
            | ChangeKind::Key
            | ChangeKind::Configure
            | ChangeKind::Revoke
            | ChangeKind::Approve
            | ChangeKind::Expiry => {}
        }
    }

    /// Notifies whoever wants to know of `change`.
    fn announce(&self, change: &Change) {
        let kind = match change.action {
            ChangeKind::Rotate if change.failed => EventKind::RotationFailed,
            ChangeKind::Rotate => EventKind::Rotation,
            ChangeKind::Expiry => EventKind::Expiry,
            ChangeKind::Revoke if change.fences => EventKind::Revocation,
            ChangeKind::Revoke if change.wanted => EventKind::ApprovalWanted,
            _ => return,
        };
        let mut event = notification::Event::about(kind, change.name.as_deref());
        if let (Some(version), Some(kid)) = (change.version, &change.kid) {
            event = event.version(version, kid);
        }
        if let Some(actor) = &change.actor {
            event = event.actor(actor.uid);
        }
        if let Some(reason) = &change.reason {
            event = event.reason(reason);
        }
        self.runner.notify(event);
    }

    /// Records the changes of commit `seq`, or remembers that they are owed.
    fn record_changes(
        &self,
        seq: u64,
        changes: &[Change],
        urgency: Urgency,
    ) -> Result<(), FsError> {
        match self.append_changes(seq, changes, (false, urgency)) {
            Ok(mark) => {
                self.confirm(seq, mark);
                Ok(())
            }
            Err(_) => {
                self.outbox_pending.store(true, Ordering::Release);
                Err(FsError::Io)
            }
        }
    }

    /// Records `changes`; gives the last record, if there is one.
    fn append_changes(
        &self,
        seq: u64,
        changes: &[Change],
        (late, urgency): (bool, Urgency),
    ) -> Result<Option<RecordMark>, RecordError> {
        let mut mark = None;
        for (index, change) in changes.iter().enumerate() {
            // Only the last record claims the commit: a crash before it makes
            // the whole commit's records come again, marked as recovered.
            let last = index + 1 == changes.len();
            let vault_seq = if last { seq } else { seq.saturating_sub(1) };
            let event = change.event(vault_seq, late);
            let urgent = urgency == Urgency::Revocation;
            mark = Some(self.audit.append_change(&event, urgent)?);
        }
        Ok(mark)
    }

    /// Writes the records of commits that have none: after a crash between the
    /// two, or once a failing audit log works again. Until then nothing is
    /// released.
    ///
    /// # Errors
    /// [`FsError::Io`] when a record still cannot be written.
    pub(crate) fn flush_outbox(&self) -> Result<(), FsError> {
        if !self.outbox_pending.load(Ordering::Acquire) {
            return Ok(());
        }
        let turn = self.changing.lock();
        self.flush_outbox_locked(&turn, Urgency::Ordinary)
    }

    /// Like [`Self::flush_outbox`], for who makes a change: no other commit stands
    /// without its record meanwhile.
    fn flush_outbox_locked(
        &self,
        _turn: &MutexGuard<'_, ()>,
        urgency: Urgency,
    ) -> Result<(), FsError> {
        if !self.outbox_pending.load(Ordering::Acquire) {
            return Ok(());
        }
        let pending = self.vault.pending_notes(self.audit.recorded_seq());
        let pending = pending.map_err(|error| self.secrets.vault_failed(&error))?;
        for commit in pending.chunk_by(|a, b| a.seq == b.seq) {
            let Some(seq) = commit.first().map(|pending| pending.seq) else {
                continue;
            };
            let changes = commit
                .iter()
                .map(|pending| serde_json::from_slice(&pending.note));
            // A note that is not understood is a record that can't be written: confirming
            // the commit would lose it for good.
            let changes: Vec<Change> = changes.collect::<Result<_, _>>().map_err(|error| {
                tracing::error!(
                    seq,
                    %error,
                    "the note of a commit is not understood: nothing is released until the \
                     version that wrote it has recorded it"
                );
                FsError::Io
            })?;
            let appended = self.append_changes(seq, &changes, (true, urgency));
            let mark = appended.map_err(|_| FsError::Io)?;
            self.confirm(seq, mark);
        }
        self.outbox_pending.store(false, Ordering::Release);
        Ok(())
    }

    /// Records that a rotation failed before anything was committed, counts it, and
    /// notifies.
    pub(crate) fn rotation_failed(&self, name: Option<&str>, id: u64, why: &str) {
        self.count_failed_rotation(name, why);
        let event = Event {
            result: Outcome::Failed,
            name,
            id: Some(id),
            reason: Some(why),
            ..self.audit.event(jarvis_audit::Action::Rotate, None)
        };
        self.audit.append(&event, Durability::Sync).ok();
        let notice = notification::Event::about(EventKind::RotationFailed, name);
        self.runner.notify(notice.reason(why));
    }

    /// Counts and logs that a secret has no new value.
    pub(crate) fn count_failed_rotation(&self, name: Option<&str>, why: &str) {
        self.metrics.secrets.rotation_failures.inc();
        tracing::error!(name, why, "rotation failed");
    }
}

#[cfg(test)]
mod tests;

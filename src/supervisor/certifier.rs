//! Certificates for the keys that sign the audit log, in the host's name.

use jarvis_audit::{Certify, EpochClaim, HostId, Identity, KeyError, KnownHead, SegmentClaim};

use super::checkpoints::CheckpointWriter;
use super::error::SupervisorError;
use crate::config::AuditConfig;
use crate::ipc::Signature;
use crate::ipc::worker::{AcceptedLosses, KeptRecord};

/// Holder of the host's identity, which no worker has.
pub(super) struct Certifier {
    identity: Identity,
    /// Keeps what workers note of the log, to find out later whether it was cut.
    checkpoints: Option<CheckpointWriter>,
    /// The log's end as its last writer left it.
    log_end: Option<KnownHead>,
}

impl Certifier {
    /// Opens the identity, and starts to keep checkpoints where `config` wants them.
    ///
    /// # Errors
    /// [`SupervisorError::Identity`], [`SupervisorError::Checkpoints`],
    /// [`SupervisorError::KeptCheckpoint`].
    pub(super) fn open(config: &AuditConfig) -> Result<Self, SupervisorError> {
        let identity = Identity::open(&config.identity)?;
        let host = identity.host().to_string();
        let start = |directory| CheckpointWriter::start(directory, &host);
        let checkpoints = config.checkpoints.clone().map(start).transpose()?;
        Ok(Self::new(identity, checkpoints))
    }

    /// Composes a certifier.
    pub(super) fn new(identity: Identity, checkpoints: Option<CheckpointWriter>) -> Self {
        Self {
            identity,
            checkpoints,
            log_end: None,
        }
    }

    /// Notes the log's end as it was `left` by a writer that is dead: one that lives can write
    /// what it likes there.
    pub(super) fn note_log_end(&mut self, left: Option<KnownHead>) {
        self.log_end = left;
    }

    /// Whether a log may go on as `claim` says: where its last writer left it, unless a loss
    /// is among those `accepted`.
    pub(super) fn may_go_on(&self, claim: &EpochClaim, accepted: AcceptedLosses) -> bool {
        let found = claim.first_seq.saturating_sub(1);
        let allows = |left: KnownHead| left.allows(found, &claim.prev);
        accepted.lost_log || self.log_end.is_none_or(allows)
    }

    /// Name of the host in records.
    pub(super) fn host(&self) -> HostId {
        self.identity.host()
    }

    /// The last record of the log that a checkpoint tells of.
    pub(super) fn kept_record(&self) -> Option<KeptRecord> {
        self.checkpoints.as_ref().and_then(CheckpointWriter::latest)
    }

    /// Whether a log that goes on as `claim` says has what checkpoints tell of; once
    /// its loss is among those `accepted`, they begin anew.
    ///
    /// # Errors
    /// [`SupervisorError::LostLog`]: whatever the worker says, records are gone.
    pub(super) fn check_start(
        &mut self,
        claim: &EpochClaim,
        accepted: AcceptedLosses,
    ) -> Result<(), SupervisorError> {
        let Some(kept) = &mut self.checkpoints else {
            return Ok(());
        };
        match kept.check(claim) {
            Err(why) if accepted.lost_log => {
                tracing::warn!(%why, "accepted by the operator");
                kept.forget();
                Ok(())
            }
            checked => Ok(checked?),
        }
    }

    /// Signs that the key of `claim` takes over where a worker starts.
    ///
    /// # Errors
    /// [`KeyError`].
    pub(super) fn certify_start(&self, claim: &EpochClaim) -> Result<Signature, KeyError> {
        Ok(Signature(self.identity.certify(claim)?))
    }

    /// Signs that the key of `claim` takes over with a segment.
    ///
    /// # Errors
    /// [`KeyError`].
    pub(super) fn certify_segment(&self, claim: &SegmentClaim) -> Result<Signature, KeyError> {
        Ok(Signature(self.identity.certify_segment(claim)?))
    }

    /// Keeps a checkpoint that a worker noted.
    pub(super) fn keep_checkpoint(&mut self, note: &str) {
        let host = self.identity.host().to_string();
        if let Some(Err(why)) = self.checkpoints.as_mut().map(|kept| kept.keep(note, &host)) {
            tracing::error!(%why, "checkpoint not kept");
        }
    }

    /// Waits until the last checkpoint is written, not for ever.
    pub(super) fn finish(self) {
        if let Some(checkpoints) = self.checkpoints {
            checkpoints.finish();
        }
    }
}

/// Last certificate of a worker's life.
///
/// Whoever has a certified key can sign records that verifiers believe, from the place
/// that the certificate names on. So a worker gets keys for what is yet to be
/// written, and none for a place that is behind it: with that, a hijacked worker could
/// write another history in the place of the true one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Certified {
    /// No key is certified yet.
    Nothing,
    /// The key that the worker starts with, in this epoch.
    Start {
        /// The epoch.
        epoch: u64,
        /// The highest segment that can be the next to begin, where that is known.
        next: Option<u32>,
    },
    /// The first key of a segment.
    Segment {
        /// The segment.
        number: u32,
        /// The epoch that begins with it.
        epoch: u64,
    },
}

impl Certified {
    /// Whether the key of a start may be certified: once, as with two keys for one
    /// start a hijacked worker could sign two histories of what follows.
    pub(super) fn allows_start(self) -> bool {
        self == Self::Nothing
    }

    /// Whether the first key of a segment may be certified.
    pub(super) fn allows(self, claim: &SegmentClaim) -> bool {
        match self {
            // Before its start a worker has read no log that could have an end.
            Self::Nothing => false,
            // An epoch up to the start's would be for records that are written. A segment that
            // is far ahead would be for whoever puts one there when the log has come so far.
            Self::Start { epoch, next } => {
                claim.epoch > epoch && next.is_none_or(|next| claim.segment <= next)
            }
            // The last one may be asked for again, as making its file can fail. An
            // earlier one would open a segment to forgery that is closed.
            Self::Segment { number, epoch } => {
                let near = number..=number.saturating_add(1);
                near.contains(&claim.segment) && claim.epoch >= epoch
            }
        }
    }
}

//! Revocations: requested, decided, carried out.

use super::{Txn, WriteOutcome};
use crate::crypto::RecordKind;
use crate::error::VaultError;
use crate::name::SecretName;
use crate::record::key;
use crate::revocation::{ActedBy, Revocation, RevocationReason, RevocationStatus, Severity};
use crate::store::RoomClaim;
use crate::version::VersionMark;

/// Most revocations that are kept: of those that are over, the oldest are forgotten.
pub const MAX_REVOCATIONS: usize = 2048;
/// Most that wait to be decided or executed.
pub const MAX_OPEN_REVOCATIONS: usize = 512;
/// Most of one requester that wait.
pub const MAX_OPEN_OF_ONE: usize = 64;
/// Most that one request forgets.
const FORGOTTEN_AT_ONCE: usize = 16;

/// Request for a revocation.
#[derive(Clone, Copy)]
pub struct RevocationRequest<'a> {
    /// Reason for it.
    pub reason: RevocationReason,
    /// Urgency of it.
    pub severity: Severity,
    /// Note in the requester's words.
    pub note: Option<&'a str>,
    /// Requester, and the time.
    pub by: ActedBy,
    /// Time for which it can be approved and executed, in milliseconds.
    pub life_ms: i64,
    /// True if the same change executes it: nothing that others asked for stands in its way.
    pub immediate: bool,
}

impl Txn<'_> {
    /// Asks for `name` to be taken out of service; somebody else must agree.
    ///
    /// # Errors
    /// [`VaultError::NotFound`], [`VaultError::TooManyRevocations`] unless it is immediate, or
    /// a failure of the vault.
    pub fn request_revocation(
        &mut self,
        name: &SecretName,
        request: &RevocationRequest<'_>,
    ) -> Result<Revocation, VaultError> {
        let node = self.existing(name)?;
        node.secret()?;
        self.make_room(request)?;
        self.state.revocations += 1;
        let revocation = Revocation {
            id: self.state.revocations,
            secret: node.id,
            name: node.path,
            reason: request.reason,
            severity: request.severity,
            note: request.note.map(Into::into),
            status: RevocationStatus::Requested,
            requested: request.by,
            decided: None,
            executed: None,
            immediate: false,
            expires_ms: request.by.at_ms.saturating_add(request.life_ms),
        };
        self.save_revocation(&revocation)?;
        Ok(revocation)
    }

    /// Refuses a request when too many wait; forgets the oldest that are over when too many
    /// are kept.
    fn make_room(&mut self, request: &RevocationRequest<'_>) -> Result<(), VaultError> {
        let ids = self.ids(key::REVOCATION)?;
        let mut surplus = (ids.len() + 1).saturating_sub(MAX_REVOCATIONS);
        surplus = surplus.min(FORGOTTEN_AT_ONCE);
        let (mut open, mut own) = (0, 0);
        for id in ids {
            if request.immediate && surplus == 0 {
                break;
            }
            let kept = self.revocation(id)?;
            if kept.is_open(request.by.at_ms) {
                open += 1;
                own += usize::from(kept.requested.uid == request.by.uid);
            } else if surplus > 0 {
                surplus -= 1;
                self.remove(key::revocation(id));
            }
        }
        let limits = [
            (own, MAX_OPEN_OF_ONE, Some(request.by.uid)),
            (open, MAX_OPEN_REVOCATIONS, None),
        ];
        match limits.into_iter().find(|(found, max, _)| found >= max) {
            Some((_, max, uid)) if !request.immediate => {
                Err(VaultError::TooManyRevocations { max, uid })
            }
            _ => Ok(()),
        }
    }

    /// Agrees to a request, or refuses it.
    ///
    /// # Errors
    /// [`VaultError::NoSuchRevocation`], [`VaultError::WrongStatus`],
    /// [`VaultError::SamePerson`] when the requester agrees.
    pub fn decide_revocation(
        &mut self,
        id: u64,
        approve: bool,
        by: ActedBy,
    ) -> Result<Revocation, VaultError> {
        let mut revocation = self.revocation(id)?;
        check_status(&revocation, RevocationStatus::Requested, by.at_ms)?;
        // The requester may withdraw, but not agree.
        if approve && revocation.requested.uid == by.uid {
            return Err(VaultError::SamePerson(id));
        }
        revocation.status = if approve {
            RevocationStatus::Approved
        } else {
            RevocationStatus::Rejected
        };
        revocation.decided = Some(by);
        self.claim = RoomClaim::Reserve;
        self.save_revocation(&revocation)?;
        Ok(revocation)
    }

    /// Takes every version of the secret out of service, those that can only be
    /// restored included. With `immediate`, no approval is needed.
    ///
    /// # Errors
    /// [`VaultError::NoSuchRevocation`], [`VaultError::WrongStatus`],
    /// [`VaultError::NotFound`] when the secret was purged.
    pub fn execute_revocation(
        &mut self,
        id: u64,
        by: ActedBy,
        immediate: bool,
    ) -> Result<(Revocation, WriteOutcome), VaultError> {
        let mut revocation = self.revocation(id)?;
        let needed = if immediate {
            RevocationStatus::Requested
        } else {
            RevocationStatus::Approved
        };
        check_status(&revocation, needed, by.at_ms)?;
        let gone = || VaultError::NotFound(revocation.name.to_string());
        let mut node = self.node(revocation.secret)?.ok_or_else(gone)?;
        // Destroyed versions stay so: their values are gone, which says more.
        for version in &mut node.secret_mut()?.versions {
            if version.has_value() {
                version.mark = VersionMark::Revoked;
            }
        }
        self.save(&node)?;
        self.claim = RoomClaim::Reserve;
        revocation.status = RevocationStatus::Executed;
        revocation.executed = Some(by);
        revocation.immediate = immediate;
        self.save_revocation(&revocation)?;
        Ok((revocation, WriteOutcome::of(&node)?))
    }

    pub(super) fn revocation(&self, id: u64) -> Result<Revocation, VaultError> {
        match self.get(&key::revocation(id))? {
            None => Err(VaultError::NoSuchRevocation(id)),
            Some(sealed) => self.core.open_revocation(id, sealed),
        }
    }

    pub(super) fn save_revocation(&mut self, revocation: &Revocation) -> Result<(), VaultError> {
        let keys = &self.core.keys;
        let plain = self.core.encode(revocation)?;
        let context = keys.context(RecordKind::Revocation, revocation.id, 0);
        let sealed = keys.seal_meta(context, &plain)?;
        self.put(key::revocation(revocation.id), sealed);
        Ok(())
    }
}

/// Checks that `revocation` is `wanted` and not expired.
fn check_status(
    revocation: &Revocation,
    wanted: RevocationStatus,
    now_ms: i64,
) -> Result<(), VaultError> {
    let word = |status| match status {
        RevocationStatus::Requested => "requested",
        RevocationStatus::Approved => "approved",
        RevocationStatus::Rejected => "rejected",
        RevocationStatus::Executed => "executed",
    };
    let expired = revocation.is_expired(now_ms);
    if !expired && revocation.status == wanted {
        return Ok(());
    }
    let found = if expired {
        "expired"
    } else {
        word(revocation.status)
    };
    Err(VaultError::WrongStatus {
        id: revocation.id,
        found,
        wanted: word(wanted),
    })
}

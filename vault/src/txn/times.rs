//! Times that turned out to be in the future: they were taken from a clock that was ahead.

use super::{Txn, WriteOutcome};
use crate::error::VaultError;
use crate::record::{Body, NodeId, Secret};
use crate::revocation::Revocation;

/// Whether `at_ms` is after `now_ms`; a clock that is a little off is none of this.
fn is_future(at_ms: i64, now_ms: i64) -> bool {
    at_ms > now_ms.saturating_add(1000)
}

/// Brings `at_ms` to `now_ms` if it is after it.
fn pull_back(at_ms: &mut i64, now_ms: i64) {
    *at_ms = now_ms.min(*at_ms);
}

impl Secret {
    /// True if something of it was made after `now_ms`, which can't be.
    #[must_use]
    pub fn is_of_the_future(&self, now_ms: i64) -> bool {
        let versions = self
            .versions
            .iter()
            .flat_map(|v| [Some(v.created_ms), v.superseded_ms]);
        let pending = self.pending.as_ref().map(|pending| pending.since_ms);
        let deleted = self.deleted.map(|deleted| deleted.at_ms);
        let mut times = versions.chain([pending, deleted]).flatten();
        times.any(|at| is_future(at, now_ms))
    }

    /// Makes what was made in the future made `now_ms`; lives keep their lengths.
    fn pull_back(&mut self, now_ms: i64) {
        for version in &mut self.versions {
            let early = version.created_ms.saturating_sub(now_ms).max(0);
            if version.expires_ms < i64::MAX {
                version.expires_ms = version.expires_ms.saturating_sub(early);
            }
            pull_back(&mut version.created_ms, now_ms);
            if let Some(at) = &mut version.superseded_ms {
                pull_back(at, now_ms);
            }
        }
        if let Some(pending) = &mut self.pending {
            pull_back(&mut pending.since_ms, now_ms);
        }
        if let Some(deleted) = &mut self.deleted {
            pull_back(&mut deleted.at_ms, now_ms);
        }
    }
}

impl Revocation {
    /// True if it was asked for after `now_ms`, which can't be.
    #[must_use]
    pub fn is_of_the_future(&self, now_ms: i64) -> bool {
        is_future(self.requested.at_ms, now_ms)
    }
}

impl Txn<'_> {
    /// Makes what was made of secret `id` in the future made `now_ms`; gives its path and
    /// newest version, unless nothing was.
    ///
    /// # Errors
    /// A failure of the vault.
    pub fn correct_times(
        &mut self,
        id: NodeId,
        now_ms: i64,
    ) -> Result<Option<(Box<str>, WriteOutcome)>, VaultError> {
        let Some(mut node) = self.node(id)? else {
            return Ok(None);
        };
        match &mut node.body {
            Body::Secret(secret) if secret.is_of_the_future(now_ms) => secret.pull_back(now_ms),
            _ => return Ok(None),
        }
        pull_back(&mut node.created_ms, now_ms);
        self.save(&node)?;
        let outcome = WriteOutcome::of(&node)?;
        Ok(Some((node.path, outcome)))
    }

    /// Makes revocation `id`, if it was asked for in the future, asked for `now_ms`; gives
    /// it then.
    ///
    /// # Errors
    /// [`VaultError::NoSuchRevocation`], or a failure of the vault.
    pub fn correct_revocation(
        &mut self,
        id: u64,
        now_ms: i64,
    ) -> Result<Option<Revocation>, VaultError> {
        let mut revocation = self.revocation(id)?;
        if !revocation.is_of_the_future(now_ms) {
            return Ok(None);
        }
        let early = revocation.requested.at_ms.saturating_sub(now_ms);
        revocation.expires_ms = revocation.expires_ms.saturating_sub(early);
        pull_back(&mut revocation.requested.at_ms, now_ms);
        let later = [&mut revocation.decided, &mut revocation.executed];
        for act in later.into_iter().flatten() {
            pull_back(&mut act.at_ms, now_ms);
        }
        self.save_revocation(&revocation)?;
        Ok(Some(revocation))
    }
}

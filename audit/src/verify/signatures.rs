//! Signatures that are to be checked, many at once.

use super::failure::VerifyFailure;
use crate::keys::{EpochPublic, all_signed};
use crate::line::{self, RecordDigest};

/// Claim that a record's signature is that of a key, which is not a weak one.
pub(super) struct SignatureClaim {
    /// Failure of the record if the claim does not hold.
    pub(super) otherwise: VerifyFailure,
    pub(super) digest: RecordDigest,
    pub(super) signature: [u8; 64],
    pub(super) key: EpochPublic,
}

impl SignatureClaim {
    fn holds(&self) -> bool {
        self.key
            .signed(&line::message(&self.digest), &self.signature)
    }
}

/// Checks each of `claims` by itself.
///
/// # Errors
/// The failure of the first one that does not hold.
pub(super) fn check_each(claims: &[SignatureClaim]) -> Result<(), VerifyFailure> {
    match claims.iter().find(|claim| !claim.holds()) {
        Some(bad) => Err(bad.otherwise.clone()),
        None => Ok(()),
    }
}

/// Checks all of `claims` at once, and only if that fails each by itself: to name
/// the bad one, or to find that all are good after all ([`all_signed`]).
///
/// # Errors
/// As [`check_each`].
pub(super) fn check_all(claims: &[SignatureClaim]) -> Result<(), VerifyFailure> {
    let keys: Vec<_> = claims.iter().map(|claim| claim.key).collect();
    let signatures: Vec<_> = claims.iter().map(|claim| claim.signature).collect();
    let messages: Vec<_> = claims.iter().map(|c| line::message(&c.digest)).collect();
    let messages: Vec<_> = messages.iter().map(<[u8; _]>::as_slice).collect();
    if all_signed(&keys, &messages, &signatures) {
        return Ok(());
    }
    check_each(claims)
}

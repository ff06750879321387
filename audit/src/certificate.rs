//! Keys that records bring, and the identity's certificates for them.

use crate::keys::{EpochClaim, PublicIdentity, SegmentClaim};
use crate::line::decode;
use crate::record::{Record, SegmentOpen, StartDetails};

/// Why a key that a record brings is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The record's key is none.
    #[error("its key is none")]
    Key,
    /// The digest of the record before, which the certificate is about, is none.
    #[error("its digest is none")]
    Digest,
    /// The record's certificate is no signature.
    #[error("its certificate is none")]
    Certificate,
    /// The certificate is not the identity's, or is about something else.
    #[error("the identity did not certify its key")]
    NotCertified,
}

/// The Ed25519 public key in `start`, which the identity certified for the place of
/// `record` in the chain.
pub(crate) fn start_key(
    identity: &PublicIdentity,
    record: &Record,
    start: &StartDetails,
) -> Result<[u8; 32], CertificateError> {
    let key = decode(&start.epoch_key).ok_or(CertificateError::Key)?;
    let mut prev = [0; 32];
    hex::decode_to_slice(&record.prev, &mut prev).map_err(|_| CertificateError::Digest)?;
    let certificate = decode(&start.cert).ok_or(CertificateError::Certificate)?;
    let claim = EpochClaim {
        epoch: record.epoch,
        first_seq: record.seq,
        prev,
        key,
    };
    if !identity.certified(&claim, &certificate) {
        return Err(CertificateError::NotCertified);
    }
    Ok(key)
}

/// The Ed25519 public key in `open`, which the identity certified for that segment and
/// the epoch of `record`.
pub(crate) fn segment_key(
    identity: &PublicIdentity,
    record: &Record,
    open: &SegmentOpen,
) -> Result<[u8; 32], CertificateError> {
    let key = decode(&open.epoch_key).ok_or(CertificateError::Key)?;
    let certificate = decode(&open.cert).ok_or(CertificateError::Certificate)?;
    let claim = SegmentClaim {
        segment: open.segment,
        epoch: record.epoch,
        key,
    };
    if !identity.certified_segment(&claim, &certificate) {
        return Err(CertificateError::NotCertified);
    }
    Ok(key)
}

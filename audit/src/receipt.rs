//! One record with all that is needed to verify it alone.
//!
//! A receipt is lines of the log as they are: the last record before it whose epoch
//! key the identity certified (a start, or the first of a segment), every epoch record
//! from there to the record, and the record; if that has no signature, also those after it
//! up to the next one that has. It proves that the host wrote the record, not what stands
//! around it.

use std::io;
use std::path::Path;

use crate::certificate::{CertificateError, segment_key, start_key};
use crate::event::Action;
use crate::keys::{EpochPublic, PublicIdentity};
use crate::line::{self, MAX_LINE_BYTES, RecordDigest, RecordLine};
use crate::read::{LogLines, parse};
use crate::record::{FORMAT, Record};

/// Why there is no receipt, or why it is not believed.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// The log can't be read.
    #[error("the log cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The log has no such record.
    #[error("the log has no record {0}")]
    NoSuchRecord(u64),
    /// A line is not as it should be.
    #[error("line {line} of the receipt is bad: {fault}")]
    Bad {
        /// Number of the line, from 1.
        line: usize,
        /// Fault of the line.
        fault: ReceiptFault,
    },
}

/// Fault of a line in a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptFault {
    /// The line is missing: the receipt is empty.
    #[error("there is none")]
    Empty,
    /// The line is too long, unsigned or no record.
    #[error("it is no record")]
    NotARecord,
    /// The record names another host or format.
    #[error("it is another host's, or of another format")]
    Foreign,
    /// The first record, and no other, must bring a certified key; numbers must grow.
    #[error("it does not begin with the record that brought its key")]
    Beginning,
    /// The key that the record brings is not believed.
    #[error(transparent)]
    Key(#[from] CertificateError),
    /// The epoch's key did not sign the record.
    #[error("its signature does not match")]
    Signature,
    /// The record before it has no signature, and this one does not follow it.
    #[error("it does not follow the record before it")]
    Chain,
    /// The key that an epoch record hands over to is none.
    #[error("the next key is none")]
    NextKey,
    /// The record hands over to an epoch that is not the next, or may not hand over.
    #[error("the next epoch has another number")]
    NextEpoch,
}

/// The lines that prove record `seq` of the log in `dir`; they are not verified.
///
/// # Errors
/// [`ReceiptError::Io`], [`ReceiptError::NoSuchRecord`].
pub fn receipt(dir: &Path, seq: u64) -> Result<Vec<u8>, ReceiptError> {
    let mut proof = Vec::new();
    for found in LogLines::open(dir)? {
        let bytes = found?.bytes;
        let Some(line) = RecordLine::split(&bytes) else {
            continue;
        };
        let Ok(record) = parse(&line) else {
            continue;
        };
        let signed = line.signature.is_some();
        let wanted = record.seq >= seq;
        let certified = record.start.is_some() || record.open.is_some();
        if certified && record.seq <= seq {
            proof.clear();
        }
        if wanted || certified || record.action == Action::Epoch {
            proof.extend_from_slice(&bytes);
            proof.push(b'\n');
        }
        if wanted && signed {
            return Ok(proof);
        }
    }
    Err(ReceiptError::NoSuchRecord(seq))
}

/// Verifies `lines` with the host's public identity; gives the record.
///
/// # Errors
/// [`ReceiptError::Bad`].
pub fn verify_receipt(text: &[u8], identity: &PublicIdentity) -> Result<Record, ReceiptError> {
    let (mut signer, mut wanted, mut link) = (None, None, None);
    let lines = text.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    for (line, bytes) in (1..).zip(lines) {
        let bad = |fault| ReceiptError::Bad { line, fault };
        let checked = check_line(bytes, signer, identity).map_err(bad)?;
        if link.is_some_and(|link| hex::encode(link) != checked.record.prev) {
            return Err(bad(ReceiptFault::Chain));
        }
        signer = Some(checked.next);
        if link.is_none() {
            wanted = Some(checked.record);
        }
        link = checked.link;
    }
    match (wanted, link) {
        (Some(wanted), None) => Ok(wanted),
        (None, _) => Err(ReceiptError::Bad {
            line: 1,
            fault: ReceiptFault::Empty,
        }),
        (Some(_), Some(_)) => Err(ReceiptError::Bad {
            line: lines_of(text),
            fault: ReceiptFault::Signature,
        }),
    }
}

/// A line that was checked.
struct CheckedLine {
    record: Record,
    /// The signer of the next record.
    next: Signer,
    /// The record's digest, if its signature is that of a record after it.
    link: Option<RecordDigest>,
}

fn lines_of(text: &[u8]) -> usize {
    text.iter().filter(|&&b| b == b'\n').count()
}

/// Epoch and key that sign records after `seq`.
#[derive(Clone, Copy)]
struct Signer {
    seq: u64,
    epoch: u64,
    key: EpochPublic,
}

/// Checks one line after those that led to `before`.
fn check_line(
    bytes: &[u8],
    before: Option<Signer>,
    identity: &PublicIdentity,
) -> Result<CheckedLine, ReceiptFault> {
    let line = RecordLine::split(bytes).filter(|_| bytes.len() < MAX_LINE_BYTES);
    let line = line.ok_or(ReceiptFault::NotARecord)?;
    let record = parse(&line).map_err(|_| ReceiptFault::NotARecord)?;
    if record.v != FORMAT || record.host != identity.host().to_string() {
        return Err(ReceiptFault::Foreign);
    }
    let signer = signer_of(&record, before, identity)?;
    let bare = line.signature.is_none() && !record.action.must_be_signed();
    if record.epoch != signer.epoch || !(bare || line.signed_by(&signer.key)) {
        return Err(ReceiptFault::Signature);
    }
    let next = signer_after(&record, signer)?;
    Ok(CheckedLine {
        record,
        next,
        link: bare.then(|| line.digest()),
    })
}

/// The signer of `record`: the one that it brings, if it is the first, or the one `before`.
fn signer_of(
    record: &Record,
    before: Option<Signer>,
    identity: &PublicIdentity,
) -> Result<Signer, ReceiptFault> {
    let key = match (before, &record.start, &record.open) {
        (None, Some(start), None) => start_key(identity, record, start)?,
        (None, None, Some(open)) => segment_key(identity, record, open)?,
        (Some(before), None, None) if record.seq > before.seq => {
            return Ok(Signer {
                seq: record.seq,
                ..before
            });
        }
        _ => return Err(ReceiptFault::Beginning),
    };
    Ok(Signer {
        seq: record.seq,
        epoch: record.epoch,
        key: EpochPublic::from_bytes(&key).ok_or(CertificateError::Key)?,
    })
}

/// The signer of the record after this one, which `signer` signed.
fn signer_after(record: &Record, signer: Signer) -> Result<Signer, ReceiptFault> {
    let Some(next) = &record.next else {
        return Ok(signer);
    };
    if record.action != Action::Epoch || Some(next.epoch) != signer.epoch.checked_add(1) {
        return Err(ReceiptFault::NextEpoch);
    }
    let key = line::decode(&next.epoch_key).and_then(|key| EpochPublic::from_bytes(&key));
    Ok(Signer {
        epoch: next.epoch,
        key: key.ok_or(ReceiptFault::NextKey)?,
        ..signer
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::keys::EpochKey;
    use crate::log::testing::{EpochLimits, open_with_epochs};
    use crate::testing::{LogHome, identity, read};
    use crate::{Durability, Identity, Opening};

    fn rolled() -> LogHome {
        let home = LogHome::new();
        for seed in [1, 2] {
            let opening = Opening {
                vault_seq: 7,
                ..Opening::default()
            };
            let limits = EpochLimits {
                records: 3,
                age: Duration::from_secs(3600),
            };
            let key = EpochKey::from_seed(seed);
            let log = open_with_epochs(home.path(), &identity(), opening, key, limits);
            for uid in 0..8 {
                log.append(&read(uid), Durability::Write).unwrap();
            }
            log.stop(7, None).unwrap();
        }
        home
    }

    #[test]
    fn every_record_has_a_receipt_of_its_own() {
        let home = rolled();
        let records = home.records();
        for record in &records {
            let proof = receipt(home.path(), record.seq).unwrap();
            let proven = verify_receipt(&proof, &identity().public()).unwrap();
            assert_eq!(&proven, record);
        }
        let after = records.len() as u64 + 1;
        let none = receipt(home.path(), after);
        assert!(matches!(none, Err(ReceiptError::NoSuchRecord(seq)) if seq == after));
    }

    #[test]
    fn no_changed_receipt_is_believed() {
        let home = rolled();
        let last = home.records().len() as u64;
        let proof = receipt(home.path(), last).unwrap();
        for at in 0..proof.len() {
            let mut changed = proof.clone();
            changed[at] ^= 1;
            assert!(
                verify_receipt(&changed, &identity().public()).is_err(),
                "byte {at}"
            );
        }
        let lines: Vec<_> = proof.split_inclusive(|&b| b == b'\n').collect();
        for gone in 0..lines.len() - 1 {
            let mut fewer = lines.clone();
            fewer.remove(gone);
            assert!(verify_receipt(&fewer.concat(), &identity().public()).is_err());
        }
        assert!(verify_receipt(b"", &identity().public()).is_err());
        assert!(verify_receipt(&proof, &Identity::from_seed(5).public()).is_err());
    }
}

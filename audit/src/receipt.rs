//! One record with all that is needed to verify it alone.
//!
//! A receipt is lines of the log as they are: the last record before it whose epoch
//! key the identity certified (a start, or the first of a segment), every epoch record from there to the record, and the
//! record. It proves that the host wrote the record, not what stands around it.

use std::io;
use std::path::Path;

use crate::event::Action;
use crate::keys::{EpochClaim, EpochPublic, PublicIdentity, SegmentClaim};
use crate::line::{self, MAX_LINE_BYTES, SignedLine};
use crate::read::{LogLines, Record, parse};

/// Why there is no receipt, or why it is not believed.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// The log can't be read.
    #[error("the log cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The log has no such record.
    #[error("the log has no record {0}")]
    NoSuchRecord(u64),
    /// A line is not what it should be.
    #[error("line {line} of the receipt is bad: {what}")]
    Bad {
        /// Counts from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// The lines that prove record `seq` of the log in `dir`; they are not verified.
///
/// # Errors
/// [`ReceiptError::Io`], [`ReceiptError::NoSuchRecord`].
pub fn receipt(dir: &Path, seq: u64) -> Result<Vec<u8>, ReceiptError> {
    let mut proof = Vec::new();
    for found in LogLines::open(dir)? {
        let bytes = found?.bytes;
        let record = SignedLine::split(&bytes).and_then(|signed| parse(&signed).ok());
        let Some(record) = record else {
            continue;
        };
        let certified = record.start.is_some() || record.open.is_some();
        if certified {
            proof.clear();
        }
        let wanted = record.seq == seq;
        if wanted || certified || record.action == Action::Epoch {
            proof.extend_from_slice(&bytes);
            proof.push(b'\n');
        }
        if wanted {
            return Ok(proof);
        }
    }
    Err(ReceiptError::NoSuchRecord(seq))
}

/// Verifies `lines` with the host's public identity; gives the record.
///
/// # Errors
/// [`ReceiptError::Bad`].
pub fn verify_receipt(lines: &[u8], identity: &PublicIdentity) -> Result<Record, ReceiptError> {
    let mut state: Option<(u64, u64, EpochPublic)> = None;
    let mut last = None;
    let lines = lines.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    for (number, bytes) in (1..).zip(lines) {
        let bad = |what| ReceiptError::Bad { line: number, what };
        let (record, key) = one(bytes, state.take(), identity).map_err(bad)?;
        state = Some((record.seq, key.0, key.1));
        last = Some(record);
    }
    last.ok_or(ReceiptError::Bad {
        line: 1,
        what: "there is none",
    })
}

type Current = (u64, EpochPublic);

/// One line after those that led to `state`: its record, and whose turn is next.
fn one(
    bytes: &[u8],
    state: Option<(u64, u64, EpochPublic)>,
    identity: &PublicIdentity,
) -> Result<(Record, Current), &'static str> {
    let signed = (bytes.len() < MAX_LINE_BYTES)
        .then(|| SignedLine::split(bytes))
        .flatten();
    let signed = signed.ok_or("it is no record")?;
    let record = parse(&signed).map_err(|_| "it is no record")?;
    if record.v != 1 || record.host != identity.host().to_string() {
        return Err("it is another host's, or of another format");
    }
    let (epoch, key) = match (state, &record.start, &record.open) {
        (None, Some(start), None) => {
            let key = line::decode(&start.epoch_key).ok_or("its key is none")?;
            let mut prev = [0; 32];
            hex::decode_to_slice(&record.prev, &mut prev).map_err(|_| "its digest is none")?;
            let claim = EpochClaim {
                epoch: record.epoch,
                first_seq: record.seq,
                prev,
                key,
            };
            let certificate = line::decode(&start.cert).ok_or("its certificate is none")?;
            if !identity.certified(&claim, &certificate) {
                return Err("the identity did not certify its key");
            }
            let key = EpochPublic::from_bytes(&key).ok_or("its key is none")?;
            (record.epoch, key)
        }
        (None, None, Some(open)) => {
            let key = line::decode(&open.epoch_key).ok_or("its key is none")?;
            let claim = SegmentClaim {
                segment: open.segment,
                epoch: record.epoch,
                key,
            };
            let certificate = line::decode(&open.cert).ok_or("its certificate is none")?;
            if !identity.certified_segment(&claim, &certificate) {
                return Err("the identity did not certify its key");
            }
            let key = EpochPublic::from_bytes(&key).ok_or("its key is none")?;
            (record.epoch, key)
        }
        (Some((seq, epoch, key)), None, None) if record.seq > seq => (epoch, key),
        _ => return Err("it does not begin with the record that brought its key"),
    };
    if record.epoch != epoch || !signed.signed_by(&key) {
        return Err("its signature does not match");
    }
    let current = match &record.next {
        Some(next)
            if record.action == Action::Epoch && Some(next.epoch) == epoch.checked_add(1) =>
        {
            let key = line::decode(&next.epoch_key).ok_or("the next key is none")?;
            (
                next.epoch,
                EpochPublic::from_bytes(&key).ok_or("the next key is none")?,
            )
        }
        None => (epoch, key),
        Some(_) => return Err("the next epoch has another number"),
    };
    Ok((record, current))
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

//! Signed notes of how far a log had come, to be kept elsewhere.
//!
//! A log alone cannot show that its end was cut off. Who keeps a checkpoint can:
//! the log must still have that record, with that digest.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::keys::{EpochKey, EpochPublic};
use crate::line::RecordDigest;

/// Domain of a checkpoint's signature.
const DOMAIN: &[u8] = b"jarvis-audit-v1 checkpoint\0";
const TITLE: &str = "jarvis-audit-checkpoint v1";
/// Longest note in bytes.
pub const MAX_CHECKPOINT_BYTES: usize = 512;

/// The last record that a log had, signed with the key of the epoch that went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Id of the host, as in records.
    pub host: String,
    /// Sequence number of the last record.
    pub seq: u64,
    /// Digest of that record.
    pub head: RecordDigest,
    /// Number of the epoch of the record after it.
    pub epoch: u64,
    /// Time as in RFC 3339, UTC, with microseconds.
    pub time: String,
    signature: [u8; 64],
}

/// Why a text is no checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no checkpoint: {0}")]
pub struct CheckpointError(&'static str);

impl Checkpoint {
    pub(crate) fn sign(
        key: &EpochKey,
        (host, seq, head): (&str, u64, RecordDigest),
        epoch: u64,
        time: &str,
    ) -> Self {
        let mut checkpoint = Self {
            host: host.to_owned(),
            seq,
            head,
            epoch,
            time: time.to_owned(),
            signature: [0; 64],
        };
        checkpoint.signature = key.sign(&checkpoint.message());
        checkpoint
    }

    fn body(&self) -> String {
        let Self {
            host,
            seq,
            head,
            epoch,
            time,
            ..
        } = self;
        let head = hex::encode(head);
        format!("{TITLE}\nhost {host}\nseq {seq}\nhead {head}\nepoch {epoch}\ntime {time}\n\n")
    }

    fn message(&self) -> Vec<u8> {
        [DOMAIN, self.body().as_bytes()].concat()
    }

    pub(crate) fn signed_by(&self, key: &EpochPublic) -> bool {
        key.signed(&self.message(), &self.signature)
    }

    /// Reads a note; its signature is checked against the log.
    ///
    /// # Errors
    /// [`CheckpointError`], also for more than [`MAX_CHECKPOINT_BYTES`] bytes.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        if text.len() > MAX_CHECKPOINT_BYTES {
            return Err(CheckpointError("it is too long"));
        }
        let mut lines = text.lines();
        let mut line = |prefix: &'static str, what| {
            let line = lines.next().and_then(|line| line.strip_prefix(prefix));
            line.ok_or(CheckpointError(what))
        };
        line(TITLE, "it has another title")?;
        let host = line("host ", "there is no host")?.to_owned();
        let seq = line("seq ", "there is no sequence number")?;
        let head = line("head ", "there is no head")?;
        let epoch = line("epoch ", "there is no epoch")?;
        let time = line("time ", "there is no time")?.to_owned();
        line("", "there is no empty line")?;
        let signature = URL_SAFE_NO_PAD
            .decode(line("", "there is no signature")?)
            .ok()
            .and_then(|bytes| bytes.try_into().ok());
        let mut digest = [0; 32];
        hex::decode_to_slice(head, &mut digest)
            .map_err(|_| CheckpointError("its head is no digest"))?;
        let number = |text: &str| {
            text.parse()
                .map_err(|_| CheckpointError("a number is none"))
        };
        let checkpoint = Self {
            host,
            seq: number(seq)?,
            head: digest,
            epoch: number(epoch)?,
            time,
            signature: signature.ok_or(CheckpointError("its signature is none"))?,
        };
        // There is one way to write it, so the text is what was signed.
        if checkpoint.to_string() != text {
            return Err(CheckpointError("it is not written as it should be"));
        }
        Ok(checkpoint)
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}{}",
            self.body(),
            URL_SAFE_NO_PAD.encode(self.signature)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{LogHome, filled, identity, read};
    use crate::verify::{FailureKind, verify, verify_against};
    use crate::{Durability, Log, Opening};

    fn against(home: &LogHome, note: &str) -> Result<bool, (u64, FailureKind)> {
        let note = Checkpoint::parse(note).unwrap();
        verify_against(home.path(), &identity().public(), &note)
            .map(|report| report.anchored)
            .map_err(|failure| (failure.seq, failure.kind))
    }

    /// A log with a checkpoint after its second record.
    fn noted() -> (LogHome, String) {
        let home = LogHome::new();
        let log = home.open(7).unwrap();
        log.append(&read(1), Durability::Signed).unwrap();
        let note = log.checkpoint().unwrap().to_string();
        log.append(&read(2), Durability::Signed).unwrap();
        log.stop(7, None).unwrap();
        (home, note)
    }

    #[test]
    fn a_log_that_went_on_is_consistent_with_its_checkpoint() {
        let (home, note) = noted();
        assert_eq!(against(&home, &note), Ok(true));
        home.open(7).unwrap().stop(7, None).unwrap();
        assert_eq!(against(&home, &note), Ok(true));
        assert!(!verify(home.path(), &identity().public()).unwrap().anchored);
    }

    #[test]
    fn a_cut_before_the_checkpoint_is_found() {
        let (home, note) = noted();
        let lines = home.lines();
        home.put(&lines[..1].concat());
        assert_eq!(against(&home, &note), Err((2, FailureKind::CutOff)));
        home.put(&lines[..2].concat());
        assert_eq!(
            against(&home, &note),
            Ok(true),
            "the checkpoint's own record is there"
        );
    }

    #[test]
    fn another_history_is_found() {
        let (_, note) = noted();
        // The same host wrote other records, with the same identity.
        let other = filled(3);
        assert_eq!(against(&other, &note), Err((2, FailureKind::Checkpoint)));
        let home = LogHome::new();
        let log = Log::open(home.path(), &identity(), Opening::default()).unwrap();
        let early = log.checkpoint().unwrap().to_string();
        drop(log);
        assert_eq!(against(&home, &early), Ok(true));
        assert_eq!(against(&home, &note), Err((2, FailureKind::CutOff)));
    }

    #[test]
    fn a_forged_note_is_found() {
        let (home, note) = noted();
        for (from, to) in [
            ("seq 2", "seq 1"),
            ("epoch 1", "epoch 2"),
            ("time 2", "time 3"),
        ] {
            let forged = note.replace(from, to);
            assert_ne!(forged, note);
            assert!(
                matches!(against(&home, &forged), Err((_, FailureKind::Checkpoint))),
                "{to}"
            );
        }
    }

    #[test]
    fn what_is_no_note_is_refused() {
        let (_, note) = noted();
        assert!(Checkpoint::parse(&note).is_ok());
        for text in [
            String::new(),
            note.replace(TITLE, "jarvis-audit-checkpoint v2"),
            note.replace("seq ", "seq +"),
            note.replace("seq ", "seq 0"),
            note.replace("\n\n", "\n"),
            format!("{note}more"),
            note.trim_end().to_owned(),
            "x".repeat(MAX_CHECKPOINT_BYTES + 1),
        ] {
            assert!(Checkpoint::parse(&text).is_err(), "{text}");
        }
    }
}

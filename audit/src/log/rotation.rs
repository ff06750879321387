//! From one segment to the next.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chain::{Epoch, NextSegment};
use super::file::LogFile;
use super::segment::Segment;
use super::tail::OpenError;
use super::{AppendError, Log};
use crate::keys::{Certify, EpochKey, KeyError, SegmentClaim};
use crate::line;
use crate::read::SegmentOpen;

/// Times a segment's key is certified anew because the epoch rolled meanwhile.
const ATTEMPTS: u32 = 3;

/// Why a segment was not ended; the log goes on in it.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The next one's file can't be made.
    #[error("cannot begin a segment of the audit log: {0}")]
    Open(#[from] OpenError),
    /// There is something in it.
    #[error("cannot begin segment {0} of the audit log: its file is not empty")]
    Exists(u32),
    /// No key for it.
    #[error("cannot begin a segment of the audit log: {0}")]
    Key(#[from] KeyError),
    /// A record could not be written.
    #[error("cannot end a segment of the audit log: {0}")]
    Append(#[from] AppendError),
    /// Epochs follow each other too fast.
    #[error("cannot begin a segment of the audit log: other epochs began meanwhile; try again")]
    Busy,
}

impl Log {
    /// Whether the segment is long or old enough to be ended; waits for that, at
    /// most `limit`.
    #[must_use]
    pub fn await_segment_end(&self, limit: Duration) -> bool {
        let began = *self.began.lock();
        self.writer.await_segment_end(began, limit)
    }

    /// Ends the segment, begins the next one and gives its number. Records wait
    /// for neither file nor certificate.
    ///
    /// # Errors
    /// [`RotationError`].
    pub fn rotate_segment(&self, identity: &dyn Certify) -> Result<u32, RotationError> {
        // One at a time.
        let mut began = self.began.lock();
        for _ in 0..ATTEMPTS {
            let (segment, epoch) = {
                let chain = self.writer.chain.lock();
                (chain.head().segment + 1, chain.head().epoch.number + 1)
            };
            let file = self.dir.segment(segment)?;
            if file.metadata().map_or(true, |metadata| metadata.len() > 0) {
                return Err(RotationError::Exists(segment));
            }
            let file = Segment::new(Box::new(file) as Box<dyn LogFile>);
            // The record that begins it must find room, and refusals after it.
            file.make_room(0);
            if file.is_scarce() {
                return Err(AppendError::Io(io::ErrorKind::StorageFull.into()).into());
            }
            let beginning = begin(identity, segment, epoch, (self.writer.keys)()?)?;
            if self.writer.rotate_to(Arc::new(file), beginning)? {
                *began = Instant::now();
                return Ok(segment);
            }
        }
        Err(RotationError::Busy)
    }
}

/// The `key` of `segment`, certified.
pub(super) fn begin(
    identity: &dyn Certify,
    segment: u32,
    epoch: u64,
    key: EpochKey,
) -> Result<NextSegment, KeyError> {
    let claim = SegmentClaim {
        segment,
        epoch,
        key: key.public(),
    };
    let cert = identity.certify_segment(&claim)?;
    Ok(NextSegment {
        epoch: Arc::new(Epoch {
            number: epoch,
            key,
            began: Instant::now(),
        }),
        open: SegmentOpen {
            segment,
            // Known when it is written.
            bytes_before: 0,
            epoch_key: line::encode(&claim.key),
            cert: line::encode(&cert),
        },
    })
}

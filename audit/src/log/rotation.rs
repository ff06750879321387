//! From one segment to the next.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::chain::{Epoch, NextSegment};
use super::error::{AppendError, RotationError};
use super::opening::LogDirectory;
use super::segment::Segment;
use super::writer::Writer;
use crate::keys::{Certify, EpochKey, KeyError, SegmentClaim};
use crate::line;
use crate::record::SegmentOpen;

/// Times a segment's key is certified anew because the epoch rolled meanwhile.
const MAX_ATTEMPTS: u32 = 3;

/// Ends the segment, begins the next one in `directory` and gives its number; one thread
/// at a time. Records wait for neither file nor certificate.
pub(super) fn rotate(
    writer: &Writer,
    directory: &LogDirectory,
    identity: &dyn Certify,
) -> Result<u32, RotationError> {
    for _ in 0..MAX_ATTEMPTS {
        let (segment, epoch) = {
            let chain = writer.chain.lock();
            (chain.head().segment + 1, chain.head().epoch.number + 1)
        };
        let file = make_segment(directory, segment)?;
        let next = certify_next(identity, segment, epoch, writer.new_key()?)?;
        if writer.rotate_to(file, next)? {
            return Ok(segment);
        }
    }
    Err(RotationError::Busy)
}

fn make_segment(directory: &LogDirectory, number: u32) -> Result<Arc<Segment>, RotationError> {
    let file = directory.segment(number)?;
    if file.metadata().map_or(true, |metadata| metadata.len() > 0) {
        return Err(RotationError::Exists(number));
    }
    let segment = Segment::new(Box::new(file), number, 0);
    // The record that begins it must find room, and refusals after it.
    segment.make_room(0);
    if segment.is_scarce() {
        return Err(AppendError::Io(io::ErrorKind::StorageFull.into()).into());
    }
    Ok(Arc::new(segment))
}

/// Has `key` certified as the first one of `segment`.
pub(super) fn certify_next(
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
    let certificate = identity.certify_segment(&claim)?;
    Ok(NextSegment {
        epoch: Arc::new(Epoch {
            number: epoch,
            key,
            began: Instant::now(),
        }),
        open: SegmentOpen {
            segment,
            // Known when the record is composed.
            bytes_before: 0,
            epoch_key: line::encode(&claim.key),
            cert: line::encode(&certificate),
        },
    })
}

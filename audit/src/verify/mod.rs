//! Checking a log from the identity's public key alone.
//!
//! Runs in: `jarvisctl`.
//! Touches: the log's files, for reading, and the public identity. No key, no secret.
//! Imported by: the crate's root.
//!
//! Signatures take nearly all the time, and they can be checked in any order once it
//! is known whose they should be: pipeline/ has them checked on all cores, while one
//! thread follows the chain from record to record (verifier.rs).

use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::keys::PublicIdentity;
use crate::read::{LogLines, segment_numbers};

mod borders;
mod failure;
mod follow;
mod meter;
mod parsed_line;
mod pipeline;
mod record_view;
mod report;
mod signatures;
mod verifier;

use meter::ProgressMeter;
use pipeline::PipelineLimits;
use verifier::Verifier;

pub use failure::{FailureKind, VerifyFailure};
pub use follow::Follower;
pub use meter::VerifyProgress;
pub use report::{AcceptedLoss, LogEnd, UnsignedRecords, VerifyReport};

/// Choices of whoever verifies.
#[derive(Default)]
pub struct VerifyOptions<'a> {
    /// Checkpoint whose record the log must have.
    pub against: Option<&'a Checkpoint>,
    /// Check each signature by itself instead of many in one equation. That takes
    /// longer and refuses also signatures of unusual form, which only the holder
    /// of an epoch's key could have made.
    pub strict: bool,
    /// Called at most ten times a second, and at a good end.
    pub progress: Option<&'a mut dyn FnMut(VerifyProgress)>,
}

/// Checks every record of the log in `dir`: form, sequence, chain, host,
/// certificates and signatures.
///
/// # Errors
/// [`VerifyFailure`] for the first bad record.
pub fn verify(dir: &Path, identity: &PublicIdentity) -> Result<VerifyReport, VerifyFailure> {
    verify_with(dir, identity, VerifyOptions::default())
}

/// Checks every record as [`verify`] does, and that the log has that of `checkpoint`.
///
/// # Errors
/// As [`verify`]; [`FailureKind::Checkpoint`] and [`FailureKind::CutOff`].
pub fn verify_against(
    dir: &Path,
    identity: &PublicIdentity,
    checkpoint: &Checkpoint,
) -> Result<VerifyReport, VerifyFailure> {
    let options = VerifyOptions {
        against: Some(checkpoint),
        ..VerifyOptions::default()
    };
    verify_with(dir, identity, options)
}

/// Checks every record as `options` say.
///
/// # Errors
/// As [`verify_against`].
pub fn verify_with(
    dir: &Path,
    identity: &PublicIdentity,
    options: VerifyOptions<'_>,
) -> Result<VerifyReport, VerifyFailure> {
    let mut ignored = |_| {};
    let mut meter = ProgressMeter::new(dir, options.progress.unwrap_or(&mut ignored));
    let mut verifier = Verifier::new(identity, options.against);
    let lines = LogLines::open(dir).map_err(|error| VerifyFailure::unreadable(1, &error))?;
    let limits = PipelineLimits {
        strict: options.strict,
        ..PipelineLimits::default()
    };
    pipeline::run(lines, &mut verifier, limits, &mut |done| meter.show(done))?;
    // Before the verdict on the whole: a gap may be what ended the reading.
    check_segments(dir, verifier.next_seq())?;
    let report = verifier.finish()?;
    meter.finish();
    Ok(report)
}

/// Reading ends at the first gap between segments; none may follow it.
fn check_segments(dir: &Path, next_seq: u64) -> Result<(), VerifyFailure> {
    let numbers = segment_numbers(dir).map_err(|e| VerifyFailure::unreadable(next_seq, &e))?;
    let first = numbers.first().copied().unwrap_or(1);
    match (first..).zip(numbers).find(|(want, found)| want != found) {
        Some((missing, _)) => Err(VerifyFailure::missing_segment(missing, next_seq)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod tests;

//! Rules of what a worker may say when, and answers to what it asks for.
//!
//! A worker may be hijacked: [`FromWorker`] is all that it can say, and [`rule`] all that it
//! gets by it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use jarvis_audit::{EpochClaim, KeyError, SegmentClaim, last_segment};

use super::certifier::{Certified, Certifier};
use super::error::SupervisorError;
use super::policy::PolicyText;
use super::worker::{Role, WorkerPhase, WorkerProcess};
use crate::ipc::short;
use crate::ipc::worker::{AcceptedLosses, FromWorker, ToWorker};

/// Fate of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageRule {
    /// The worker may say so now.
    Answer,
    /// The message means nothing now, and does no harm.
    Ignore,
    /// No worker that works says so now.
    Kill,
}

/// MessageRule for `message` from a worker that is in `role` and `phase`.
pub(super) fn rule(role: Role, phase: WorkerPhase, message: &FromWorker) -> MessageRule {
    use Role::{Active, Standby};
    use WorkerPhase::{Attaching, Opening, Retiring, Serving, Starting};
    match (message, role, phase) {
        // Steps of a life, each once and in order: the device goes to a worker that
        // has the vault open, and to no other.
        (FromWorker::Ready, _, Starting)
        | (FromWorker::Opened(_), Active, Opening)
        | (FromWorker::Serving, Active, Attaching) => MessageRule::Answer,
        (FromWorker::Ready | FromWorker::Opened(_) | FromWorker::Serving, ..) => MessageRule::Kill,
        // A start is certified to the one that opens the log, whose predecessor is dead:
        // two that write to the log at once would fork it. One that could not open it may
        // while it serves.
        (FromWorker::Certify(_), Active, Opening | Attaching | Serving) => MessageRule::Answer,
        (FromWorker::Certify(_), ..) => MessageRule::Ignore,
        // Only who serves comes to the end of a segment.
        (FromWorker::CertifySegment(_), Active, Serving) => MessageRule::Answer,
        (FromWorker::CertifySegment(_), ..) => MessageRule::Kill,
        // What is in force, and how far the log has come, is for the active one to say.
        (FromWorker::Accepted | FromWorker::Checkpoint(_), Active, _) => MessageRule::Answer,
        (FromWorker::Accepted | FromWorker::Checkpoint(_), Standby, _) => MessageRule::Ignore,
        // Only who has the device can see it go.
        (FromWorker::Ended(_), Active, Attaching | Serving | Retiring) => MessageRule::Answer,
        (FromWorker::Ended(_), ..) => MessageRule::Ignore,
        // A sign of life, a text that any worker gets when it opens, or the worker's own end.
        (
            FromWorker::Pong(_) | FromWorker::Policy | FromWorker::Failed(_) | FromWorker::Retired,
            ..,
        ) => MessageRule::Answer,
    }
}

/// Certifies the key that `worker` starts with, unless the log lost what is known of it
/// and that is not `accepted`.
///
/// # Errors
/// [`SupervisorError::LostLog`], [`SupervisorError::Identity`].
pub(super) fn certify_start(
    worker: &mut WorkerProcess,
    certifier: &mut Certifier,
    accepted: AcceptedLosses,
    log: &OwnedFd,
    claim: &EpochClaim,
) -> Result<(), SupervisorError> {
    if !worker.certified.allows_start() {
        worker.kill();
        return Ok(());
    }
    if !certifier.may_go_on(claim, accepted) {
        tracing::error!("a worker would go on elsewhere than where the audit log was left");
        worker.kill();
        return Ok(());
    }
    certifier.check_start(claim, accepted)?;
    // The worker may still begin the segment that it starts with, and then comes the next.
    let last = last_segment(Path::new(&format!("/proc/self/fd/{}", log.as_raw_fd())));
    worker.certified = Certified::Start {
        epoch: claim.epoch,
        next: last.ok().map(|last| last.unwrap_or(0).saturating_add(2)),
    };
    let signature = certifier.certify_start(claim)?;
    worker.send(&ToWorker::Certificate(signature), &[]);
    Ok(())
}

/// Certifies the first key of a segment that `worker` begins.
///
/// # Errors
/// [`KeyError`].
pub(super) fn certify_segment(
    worker: &mut WorkerProcess,
    certifier: &Certifier,
    claim: &SegmentClaim,
) -> Result<(), KeyError> {
    if !worker.certified.allows(claim) {
        worker.kill();
        return Ok(());
    }
    worker.certified = Certified::Segment {
        number: claim.segment,
        epoch: claim.epoch,
    };
    let signature = certifier.certify_segment(claim)?;
    worker.send(&ToWorker::Certificate(signature), &[]);
    Ok(())
}

/// Gives `worker` the text of the policy at `path` as it is now, or says why not.
pub(super) fn offer_policy(
    role: Role,
    worker: &mut WorkerProcess,
    policy: &mut PolicyText,
    path: &Path,
) {
    if role == Role::Active {
        policy.reload_pending = false;
    }
    match policy.offer(path) {
        Ok(copy) => worker.send(&ToWorker::Policy(Ok(())), &[copy.as_fd()]),
        Err(error) => {
            let why = short(&error.to_string());
            worker.send(&ToWorker::Policy(Err(why)), &[]);
        }
    }
}

//! The start record: with it the log goes on where it ended, under a new key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::chain::{Epoch, Position};
use super::error::OpenError;
use super::opening::Opening;
use super::payload::RecordExtras;
use super::tail::ResumePoint;
use super::writer::{Durability, Writer};
use crate::event::{Action, Event, Outcome};
use crate::keys::{Certify, EpochClaim, EpochKey};
use crate::line;
use crate::record::{LostRecords, PreviousEnd, StartDetails};

/// The position before the start record, whose epoch has `key`.
pub(super) fn position(resume: &ResumePoint, vault_seq: u64, key: EpochKey) -> Position {
    let tail = resume.tail;
    let seq = tail.map_or(0, |tail| tail.seq);
    Position {
        seq,
        digest: tail.map_or([0; 32], |tail| tail.digest),
        // A restored vault's is less, which the start record accepts.
        vault_seq: tail.map_or(0, |tail| vault_seq.min(tail.vault_seq)),
        epoch: Arc::new(Epoch {
            number: tail.map_or(0, |tail| tail.epoch) + 1,
            key,
            began: Instant::now(),
        }),
        of_epoch: 0,
        unsigned: resume.unsigned,
        segment: resume.segment,
        first_seq: resume.first.map_or(seq + 1, |first| first.seq),
        len: resume.len,
        closed: false,
    }
}

/// The moment at which the segment's first record was written; now, if it has none.
pub(super) fn segment_began(resume: &ResumePoint, clock: fn() -> Timestamp) -> Instant {
    let age = resume.first.map_or(Duration::ZERO, |first| {
        // A clock that was set back makes a segment young, not eternal.
        let age = clock().duration_since(first.time);
        age.try_into().unwrap_or_default()
    });
    let began = Instant::now().checked_sub(age);
    began.unwrap_or_else(Instant::now)
}

/// Writes the start record, durably.
///
/// # Errors
/// [`OpenError::Key`], [`OpenError::Start`].
pub(super) fn append_record(
    writer: &Writer,
    resume: &ResumePoint,
    identity: &dyn Certify,
    opening: Opening<'_>,
    lost: Option<&OpenError>,
) -> Result<(), OpenError> {
    let mut start = details(writer, resume, identity, opening.version)?;
    start.lost = lost.and_then(|error| lost_records(error, resume));
    let older = resume
        .tail
        .is_some_and(|tail| tail.vault_seq > opening.vault_seq);
    let lost = lost.map(|lost| match lost {
        OpenError::Lost { known, found, .. } => format!(
            "this log ended with record {found} but is known to have had {known}, accepted by the \
             operator"
        ),
        _ => "another log than the one that is known, accepted by the operator".to_owned(),
    });
    let older = older.then_some("vault older than this log, accepted by the operator");
    let event = Event {
        reason: lost.as_deref().or(older).or(opening.reason),
        ..Event::new(Action::Start, Outcome::Ok, opening.vault_seq)
    };
    let extras = RecordExtras {
        start: Some(&start),
        ..RecordExtras::default()
    };
    writer.append(&event, extras, Durability::Sync)?;
    Ok(())
}

fn lost_records(error: &OpenError, resume: &ResumePoint) -> Option<LostRecords> {
    let known = match error {
        OpenError::Lost { known, .. } => *known,
        OpenError::Replaced { seq, .. } | OpenError::OtherIdentity { seq, .. } => *seq,
        _ => return None,
    };
    let found = resume.tail.map_or(0, |tail| tail.seq);
    Some(LostRecords { known, found })
}

fn details(
    writer: &Writer,
    resume: &ResumePoint,
    identity: &dyn Certify,
    version: &str,
) -> Result<StartDetails, OpenError> {
    let position = writer.chain.lock().written().clone();
    let key = position.epoch.key.public();
    // The certificate names the place in the chain: it is of no use anywhere else.
    let certificate = identity.certify(&EpochClaim {
        epoch: position.epoch.number,
        first_seq: position.seq + 1,
        prev: position.digest,
        key,
    })?;
    Ok(StartDetails {
        daemon: version.to_owned(),
        segment: position.segment,
        previous: match resume.tail {
            None => PreviousEnd::None,
            Some(tail) if tail.clean => PreviousEnd::Clean,
            Some(_) => PreviousEnd::Unclean,
        },
        torn_bytes: resume.torn.len() as u64,
        unsigned: resume.unsigned,
        lost: None,
        epoch_key: line::encode(&key),
        cert: line::encode(&certificate),
    })
}

//! Jumps of the clock: told in the log, and put right where it had been ahead.

use std::ops::ControlFlow;

use super::change::{Change, ChangeKind};
use super::{CommitError, Committer};
use crate::common::clock::{forget_events, now_ms, time_events};
use crate::common::timeline::TimeEventKind;
use crate::worker::witness::clock_witness;

impl Committer {
    /// Records jumps of the clock, and has the vault remember the time; gives whether the
    /// clock went back.
    pub(crate) fn keep_time(&self) -> bool {
        let Some((events, mark)) = time_events() else {
            return false;
        };
        for (told, event) in events.iter().enumerate() {
            if self.audit.clock(*event).is_err() {
                // It is tried again; until then the vault knows the time before.
                forget_events(told);
                return false;
            }
        }
        forget_events(events.len());
        self.vault.note_clock(clock_witness(mark));
        events.iter().any(|event| event.kind == TimeEventKind::Back)
    }

    /// Corrects what was made while the clock was ahead: it would last too long.
    ///
    /// # Errors
    /// [`CommitError`].
    pub(crate) fn correct_times(&self) -> Result<(), CommitError> {
        let now = now_ms();
        let secrets = self.secrets.made_after(now);
        let secrets = secrets.map_err(|error| self.classified(error.into()))?;
        let mut early = Vec::new();
        let visited = self.secrets.revocations(0, |revocation| {
            early.extend(revocation.is_of_the_future(now).then_some(revocation.id));
            ControlFlow::Continue(())
        });
        visited.map_err(|error| self.classified(error.into()))?;
        if secrets.is_empty() && early.is_empty() {
            return Ok(());
        }
        let reason = || "its time was corrected: the clock had been ahead".to_owned();
        self.commit(|txn| {
            let mut changes = Vec::new();
            for id in &secrets {
                if let Some((path, outcome)) = txn.correct_times(*id, now)? {
                    changes.push(Change {
                        name: Some(path.into()),
                        id: Some(*id),
                        version: Some(outcome.version),
                        kid: Some(outcome.kid),
                        ..Change::by_itself(ChangeKind::Configure, reason())
                    });
                }
            }
            for &id in &early {
                if let Some(corrected) = txn.correct_revocation(id, now)? {
                    changes.push(Change {
                        name: Some(corrected.name.into()),
                        id: Some(corrected.secret),
                        revocation: Some(corrected.id),
                        ..Change::by_itself(ChangeKind::Configure, reason())
                    });
                }
            }
            Ok(changes)
        })
    }
}

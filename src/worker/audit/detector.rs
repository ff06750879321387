//! Suspicious activity, told as it happens.
//!
//! What is suspicious is decided from records alone (audit/src/suspicion, without clock
//! or I/O), so `jarvisctl` finds in history what the daemon told. Whoever wrote a record
//! shows it to the detector: a lock, two lookups, usually no allocation; a finding is written
//! after the lock. A worker starts with an empty detector and holds back what happens (at
//! most 65,536 records, the oldest are given up) while a thread shows it the newest 64 MiB
//! of the log, up to the worker's own start record, and tells nothing of it again: readers
//! seen before are known, and nothing waits. What a worker held back as it died, the next
//! one tells ([`Untold`]).

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jarvis_audit::{
    Action, Detector, Durability, Event, Finding, Findings, Observation, Record, Thresholds,
    recent_records,
};
use parking_lot::Mutex;

use crate::common::clock::now;
use crate::config::EventKind;
use crate::ipc::runner as notification;
use crate::process::spawn;
use crate::worker::audit::AuditTrail;
use crate::worker::audit::untold::Untold;

/// How much of the log's end is recalled, in bytes: some 130,000 reads.
const RECALLED: u64 = 64 * 1024 * 1024;
/// Most records held back meanwhile; the oldest are given up.
const MAX_BACKLOG: usize = 65_536;

/// Names secrets by their ids, as far as they are known.
pub(crate) type NameOf = Box<dyn Fn(u64) -> Option<Box<str>> + Send>;

/// The detector, once it has caught up with the log.
pub(super) struct DetectorFeed {
    thresholds: Thresholds,
    /// The last record that this process found, or wrote as it began.
    recall_until: u64,
    state: Mutex<State>,
}

enum State {
    Recalling(Backlog),
    Watching(Box<Detector>),
}

/// Observations made while the log was recalled.
#[derive(Default)]
struct Backlog {
    observations: VecDeque<Observation>,
    lost: u64,
}

impl Backlog {
    fn push(&mut self, seen: Observation) {
        if self.observations.len() >= MAX_BACKLOG {
            self.observations.pop_front();
            self.lost += 1;
        }
        self.observations.push_back(seen);
    }
}

impl DetectorFeed {
    pub(super) fn new(thresholds: Thresholds, recall_until: u64) -> Self {
        Self {
            thresholds,
            recall_until,
            state: Mutex::new(State::Recalling(Backlog::default())),
        }
    }

    fn observe(&self, seen: Observation) -> Findings {
        match &mut *self.state.lock() {
            State::Watching(detector) => detector.observe(&seen),
            State::Recalling(backlog) => {
                backlog.push(seen);
                Findings::default()
            }
        }
    }

    /// Learns from `history`, `tell`s what nobody told of it and what is to be found in
    /// what was held back, and watches from then on.
    fn recall(&self, history: impl Iterator<Item = Record>, mut tell: impl FnMut(&Finding)) {
        let mut detector = Box::new(Detector::new(self.thresholds));
        let mut untold = Untold::default();
        for record in history {
            let seen = Observation::of_record(&record);
            let found = seen.map(|seen| detector.observe(&seen));
            untold.note(&record, found.unwrap_or_default());
        }
        untold.into_findings().iter().for_each(&mut tell);
        loop {
            let backlog = match &mut *self.state.lock() {
                State::Recalling(backlog) if !backlog.observations.is_empty() => {
                    std::mem::take(backlog)
                }
                state => {
                    *state = State::Watching(detector);
                    return;
                }
            };
            if backlog.lost > 0 {
                let lost = backlog.lost;
                tracing::warn!(lost, "records not looked at for suspicious activity");
            }
            for seen in backlog.observations {
                detector.observe(&seen).iter().flatten().for_each(&mut tell);
            }
        }
    }
}

impl AuditTrail {
    /// Looks at what a record that was just written adds up to.
    pub(super) fn consider(&self, event: &Event<'_>) {
        let Some(seen) = Observation::of(event, now()) else {
            return;
        };
        for finding in self.detector.observe(seen).iter().flatten() {
            self.report(finding, event.name);
        }
    }

    fn report(&self, finding: &Finding, name: Option<&str>) {
        let kind = finding.kind.as_str();
        self.metrics
            .access
            .suspicious
            .with_label_values(&[kind])
            .inc();
        tracing::warn!(
            kind,
            uid = finding.uid,
            count = finding.count,
            "suspicious activity"
        );
        let reason = finding.to_string();
        let event = Event {
            // A burst is about no one secret, though its last record was.
            name: name.filter(|_| finding.id.is_some()),
            id: finding.id,
            uid: Some(finding.uid),
            reason: Some(&reason),
            count: Some(finding.count),
            ..self.event(Action::Suspicious, None)
        };
        // What was found stands in the records it was found in; `append` logs a failure.
        self.append(&event, Durability::Write).ok();
        let notice = notification::Event::about(EventKind::Suspicious, name);
        self.runner
            .notify(notice.actor(finding.uid).reason(&reason));
    }

    /// Recalls the log in `directory`, up to where this process found it.
    fn recall(&self, directory: &Path, name_of: &dyn Fn(u64) -> Option<Box<str>>) {
        let before = self.detector.recall_until;
        let records = match recent_records(directory, RECALLED) {
            Ok(records) => Some(records),
            Err(error) => {
                tracing::warn!(%error, "cannot recall the audit log: known readers will seem new");
                None
            }
        };
        let known = records.into_iter().flatten();
        let known = known.take_while(|record| record.seq <= before);
        self.detector.recall(known, |finding| {
            self.report(finding, finding.id.and_then(name_of).as_deref());
        });
    }
}

/// Starts a thread that recalls the log in `directory`; `name_of` names secrets.
///
/// # Errors
/// When there can be no thread.
pub(crate) fn recall(
    audit: &Arc<AuditTrail>,
    directory: PathBuf,
    name_of: NameOf,
) -> io::Result<()> {
    let audit = audit.clone();
    spawn("recall", move || audit.recall(&directory, &name_of))
}

#[cfg(test)]
mod tests {
    use jarvis_audit::Outcome;
    use serde_json::json;

    use super::*;

    fn read(uid: u32, id: u64) -> Observation {
        let event = Event {
            uid: Some(uid),
            id: Some(id),
            ..Event::new(Action::Read, Outcome::Ok, 0)
        };
        Observation::of(&event, jiff::Timestamp::UNIX_EPOCH).unwrap()
    }

    fn found(findings: Findings) -> Vec<u32> {
        findings.iter().flatten().map(|f| f.uid).collect()
    }

    #[test]
    fn what_happens_meanwhile_comes_after_what_was() {
        let feed = DetectorFeed::new(Thresholds::default(), 0);
        for uid in [8, 7, 9] {
            assert!(found(feed.observe(read(uid, 1))).is_empty(), "held");
        }
        let mut told = Vec::new();
        let history = [7, 8].map(|uid| {
            let read = json!({
                "v": 2, "seq": 1, "prev": "", "host": "", "epoch": 1, "vault_seq": 1,
                "time": "1970-01-01T00:00:00Z", "action": "read", "result": "ok",
                "uid": uid, "id": 1,
            });
            serde_json::from_value(read).unwrap()
        });
        let history = history.into_iter();
        feed.recall(history, |finding| {
            // It was told when it happened that uid 8 was new.
            told.push(finding.uid);
            // More happens while that is being told.
            feed.observe(read(10, 1));
        });
        assert_eq!(told, [9, 10]);
        assert!(found(feed.observe(read(10, 1))).is_empty());
        assert_eq!(found(feed.observe(read(11, 1))), [11]);
    }

    #[test]
    fn a_flood_meanwhile_takes_bounded_memory() {
        let feed = DetectorFeed::new(Thresholds::default(), 0);
        feed.observe(read(7, 1));
        for _ in 0..MAX_BACKLOG {
            feed.observe(read(8, 1));
        }
        let State::Recalling(backlog) = &*feed.state.lock() else {
            unreachable!("nothing was recalled")
        };
        assert_eq!((backlog.observations.len(), backlog.lost), (MAX_BACKLOG, 1));
        assert_eq!(
            backlog.observations[0],
            read(8, 1),
            "the oldest is given up"
        );
    }
}

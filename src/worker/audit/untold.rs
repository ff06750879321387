//! Findings that stand in the log without having been told.
//!
//! A worker holds back what it sees while it recalls the log. One that ends meanwhile
//! leaves that to the next, which finds it in the first records of that worker. Later
//! records say nothing: of a long log only the end is recalled, in which a reader that is
//! long known looks new.

use jarvis_audit::{Action, Finding, Findings, Record};
use jiff::{SignedDuration, Timestamp};

/// How long a worker may take to recall the log.
const RECALLING: SignedDuration = SignedDuration::from_mins(1);

/// Findings of workers that may have ended before they told them, the oldest first.
#[derive(Default)]
pub(super) struct Untold {
    /// When the worker whose records are read began.
    began: Option<Timestamp>,
    findings: Vec<Finding>,
}

impl Untold {
    /// Learns from a `record` and what was found in it.
    pub(super) fn note(&mut self, record: &Record, found: Findings) {
        match record.action {
            Action::Start => self.began = record.time.parse().ok(),
            Action::Suspicious => self.told(record),
            _ if self.findings.is_empty() && found == Findings::default() => {}
            _ if self.is_recalling(record) => self.findings.extend(found.into_iter().flatten()),
            _ => self.findings.clear(),
        }
    }

    fn told(&mut self, record: &Record) {
        let is_it = |finding: &Finding| {
            (Some(finding.uid), finding.id) == (record.uid, record.id)
                && Some(finding.to_string()) == record.reason
        };
        if let Some(index) = self.findings.iter().position(is_it) {
            self.findings.remove(index);
        }
    }

    /// Whether the worker that wrote `record` may not have known the log yet.
    fn is_recalling(&self, record: &Record) -> bool {
        let time = record.time.parse::<Timestamp>().ok();
        let age = time
            .zip(self.began)
            .map(|(at, began)| at.duration_since(began));
        age.is_some_and(|age| age < RECALLING)
    }

    /// The findings that are still to be told.
    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.findings
    }
}

#[cfg(test)]
mod tests {
    use jarvis_audit::{FindingKind, Outcome};
    use serde_json::json;

    use super::*;

    fn record(seconds: u32, action: Action, more: serde_json::Value) -> Record {
        let mut record = json!({
            "v": 2, "seq": 1, "prev": "", "host": "", "epoch": 1, "vault_seq": 1,
            "time": format!("2026-01-01T00:{:02}:{:02}Z", seconds / 60, seconds % 60),
            "action": action, "result": Outcome::Ok,
        });
        let more = more.as_object().unwrap().clone();
        record.as_object_mut().unwrap().extend(more);
        serde_json::from_value(record).unwrap()
    }

    fn finding(uid: u32) -> Finding {
        Finding {
            kind: FindingKind::NewReader,
            uid,
            id: Some(1),
            count: 1,
            seconds: 0,
        }
    }

    #[derive(Default)]
    struct Story(Untold);

    impl Story {
        fn start(mut self, seconds: u32) -> Self {
            let start = record(seconds, Action::Start, json!({}));
            self.0.note(&start, Findings::default());
            self
        }

        fn found(mut self, seconds: u32, uid: u32) -> Self {
            let read = record(seconds, Action::Read, json!({}));
            self.0.note(&read, [Some(finding(uid)), None]);
            self
        }

        fn told(mut self, seconds: u32, uid: u32) -> Self {
            let told = json!({"uid": uid, "id": 1, "reason": finding(uid).to_string()});
            let told = record(seconds, Action::Suspicious, told);
            self.0.note(&told, Findings::default());
            self
        }

        fn left(self) -> Vec<u32> {
            self.0.into_findings().iter().map(|f| f.uid).collect()
        }
    }

    #[test]
    fn what_a_worker_held_back_is_left_to_the_next() {
        let story = Story::default().start(0).found(1, 7).found(2, 8).told(3, 7);
        assert_eq!(story.start(4).left(), [8]);
    }

    #[test]
    fn so_is_what_the_one_before_it_held_back() {
        let story = Story::default().start(0).found(1, 7).start(2).found(3, 8);
        assert_eq!(story.start(4).left(), [7, 8]);
    }

    #[test]
    fn who_lived_long_enough_has_told_all() {
        let story = Story::default().start(0).found(1, 7).found(60, 8);
        assert!(story.start(61).left().is_empty());
    }

    #[test]
    fn where_the_beginning_is_not_known_nothing_is_told() {
        assert!(Story::default().found(1, 7).start(2).left().is_empty());
    }
}

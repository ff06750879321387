//! Findings in events made up, and in a log's history.

use jiff::Timestamp;

use super::*;
use crate::event::{Action, Event, Outcome};
use crate::testing::{LogHome, read};
use crate::{Durability, Log, read_records, recent_records};

const THRESHOLDS: Thresholds = Thresholds {
    denials: Threshold {
        count: 5,
        seconds: 600,
    },
    bulk: Threshold {
        count: 3,
        seconds: 60,
    },
};

/// A detector, and the reasons it gives.
struct Watch(Detector);

impl Watch {
    fn new() -> Self {
        Self(Detector::new(THRESHOLDS))
    }

    fn see(&mut self, second: i64, event: Event<'_>) -> Vec<String> {
        let time = Timestamp::from_second(second).unwrap();
        let Some(observation) = Observation::of(&event, time) else {
            return Vec::new();
        };
        let found = self.0.observe(&observation).into_iter().flatten();
        found.map(|finding| finding.to_string()).collect()
    }

    fn read(&mut self, second: i64, uid: u32, id: u64) -> Vec<String> {
        let id = Some(id);
        self.see(second, Event { id, ..read(uid) })
    }

    fn deny(&mut self, second: i64, uid: u32, times: u64) -> Vec<String> {
        self.see(
            second,
            denial(Action::Deny, uid, (times > 1).then_some(times)),
        )
    }
}

fn denial(action: Action, uid: u32, count: Option<u64>) -> Event<'static> {
    Event {
        uid: Some(uid),
        errno: Some(13),
        count,
        ..Event::new(action, Outcome::Denied, 0)
    }
}

#[test]
fn five_denials_in_ten_minutes_are_told_once() {
    let mut watch = Watch::new();
    for second in 0..4 {
        assert!(watch.deny(second, 7, 1).is_empty());
        assert!(watch.deny(second, 8, 1).is_empty(), "each uid for itself");
    }
    assert_eq!(watch.deny(599, 7, 1), ["denial_burst: 5 in 600 s"]);
    for second in 600..1199 {
        assert!(watch.deny(second, 7, 1).is_empty(), "told already");
    }
    // The next window: those before it don't count any more.
    for second in 1199..1203 {
        assert!(watch.deny(second, 7, 1).is_empty());
    }
    assert_eq!(watch.deny(1203, 7, 1), ["denial_burst: 5 in 600 s"]);
}

#[test]
fn the_window_slides() {
    let mut watch = Watch::new();
    for second in [0, 200, 400, 500, 600, 800] {
        assert!(
            watch.deny(second, 7, 1).is_empty(),
            "at most four at a time"
        );
    }
    assert_eq!(watch.deny(999, 7, 1), ["denial_burst: 5 in 600 s"]);
}

#[test]
fn denials_that_were_only_counted_count() {
    let mut watch = Watch::new();
    assert!(watch.deny(0, 7, 1).is_empty());
    let counted = denial(Action::Limit, 7, Some(900));
    assert_eq!(watch.see(1, counted), ["denial_burst: 901 in 600 s"]);
    assert_eq!(watch.deny(2, 8, u64::MAX).len(), 1, "no overflow");
    let at_the_cap = Event {
        errno: Some(24),
        ..denial(Action::Limit, 9, Some(900))
    };
    assert!(watch.see(3, at_the_cap).is_empty());
}

#[test]
fn the_first_reader_is_not_new_but_every_other_is_once() {
    let mut watch = Watch::new();
    for second in 0..3 {
        assert!(watch.read(second, 7, 1024).is_empty());
    }
    assert_eq!(
        watch.read(3, 8, 1024),
        ["new_reader: only others had read it"]
    );
    for uid in [7, 8] {
        assert!(watch.read(1_000_000, uid, 1024).is_empty(), "however late");
    }
    assert!(watch.read(4, 9, 1025).is_empty(), "another secret");
    let refused = Event {
        result: Outcome::Failed,
        ..read(9)
    };
    assert!(watch.see(5, refused).is_empty(), "it read nothing");
    assert_eq!(watch.read(6, 9, 1024).len(), 1);
}

#[test]
fn many_different_secrets_are_a_bulk_read() {
    let mut watch = Watch::new();
    for second in 0..50 {
        assert!(watch.read(second, 7, 1).is_empty(), "one, however often");
    }
    assert!(watch.read(50, 7, 2).is_empty());
    assert_eq!(watch.read(51, 7, 3), ["bulk_read: 3 secrets in 60 s"]);
    assert!((4..50).all(|id| watch.read(110, 7, id).is_empty()), "told");
    assert!(watch.read(111, 7, 50).is_empty());
    // Slowly, one can read all there are.
    for id in 100..200_u32 {
        let second = 1000 + i64::from(id) * 30;
        assert!(watch.read(second, 7, id.into()).is_empty());
    }
    let both = [
        "new_reader: only others had read it",
        "bulk_read: 3 secrets in 60 s",
    ];
    assert!(watch.read(9000, 8, 1000).is_empty());
    assert!(watch.read(9000, 8, 1001).is_empty());
    assert_eq!(watch.read(9000, 8, 1), both);
}

#[test]
fn a_passed_handle_is_told_whether_it_was_of_use_or_not() {
    let mut watch = Watch::new();
    let passed = Event {
        action: Action::SharedHandle,
        ..read(8)
    };
    let refused = Event {
        result: Outcome::Denied,
        errno: Some(13),
        ..passed
    };
    let told = "handle_passed: another user opened it";
    for event in [passed, refused, refused, refused, refused] {
        assert_eq!(watch.see(0, event), [told]);
    }
    assert_eq!(watch.see(0, refused), [told, "denial_burst: 5 in 600 s"]);
}

#[test]
fn what_it_found_is_not_suspicious() {
    let mut watch = Watch::new();
    let told = Event {
        count: Some(900),
        ..Event {
            action: Action::Suspicious,
            ..read(7)
        }
    };
    assert!(watch.see(0, told).is_empty());
    assert!(watch.read(1, 8, 1024).is_empty(), "nor a read by uid 7");
}

#[test]
fn zero_is_never() {
    let never = Threshold {
        count: 0,
        seconds: 60,
    };
    let mut watch = Watch(Detector::new(Thresholds {
        denials: never,
        bulk: never,
    }));
    for id in 0..1000 {
        assert!(watch.read(0, 7, id).is_empty() && watch.deny(0, 7, 1).is_empty());
    }
}

#[test]
fn a_clock_that_jumps_silences_nobody() {
    let mut watch = Watch::new();
    let year = 365 * 86_400;
    assert_eq!(watch.deny(year, 7, 5).len(), 1);
    assert_eq!(watch.deny(0, 7, 5).len(), 1);
    assert!(watch.deny(-1, 7, 5).is_empty(), "a moment out of order");
}

#[test]
fn hostile_callers_take_bounded_memory() {
    let mut watch = Watch::new();
    for n in 0..200_000_u32 {
        watch.deny(0, n, 1);
        watch.read(0, n, n.into());
        watch.read(0, n, 1);
        watch.read(0, 1, n.into());
    }
    let Detector {
        readers,
        denied,
        reading,
        ..
    } = &mut watch.0;
    assert!(
        readers.len() <= MAX_SECRETS
            && denied.len() <= MAX_DENIED_UIDS
            && reading.len() <= MAX_READING_UIDS
    );
    assert_eq!(readers.entry(1).len(), MAX_READERS);
    // One with the highest thresholds still remembers less than that.
    let highest = Threshold {
        count: u32::MAX,
        seconds: u32::MAX,
    };
    let mut watch = Watch(Detector::new(Thresholds {
        denials: highest,
        bulk: highest,
    }));
    for id in 0..100_000 {
        watch.read(0, 7, id);
        watch.deny(0, 7, 1);
    }
    assert!(watch.0.reading.entry(7).secrets.len() < MAX_BULK_SECRETS as usize);
    assert!(watch.0.denied.entry(7).recent.len() < MAX_DENIALS as usize);
}

/// As records are written, and from the log: the same findings.
#[test]
fn history_tells_what_was_told_live() {
    let home = LogHome::new();
    let log = home.open(7).unwrap();
    let mut live = Detector::new(THRESHOLDS);
    let mut told = Vec::new();
    for n in 0..400_u32 {
        let uid = n * n % 7;
        let event = match n % 3 {
            0 => denial(Action::Deny, uid, None),
            1 => Event {
                id: Some(u64::from(n * n % 11)),
                ..read(uid)
            },
            _ => Event {
                action: Action::SharedHandle,
                ..read(uid)
            },
        };
        append(&log, &event);
        let observation = Observation::of(&event, Timestamp::now()).unwrap();
        told.extend(live.observe(&observation).into_iter().flatten());
    }
    assert!(
        FindingKind::ALL
            .iter()
            .all(|kind| told.iter().any(|f| f.kind == *kind))
    );
    for records in [
        read_records(home.path())
            .unwrap()
            .map(Result::unwrap)
            .collect::<Vec<_>>(),
        recent_records(home.path(), u64::MAX).unwrap().collect(),
    ] {
        let mut later = Detector::new(THRESHOLDS);
        let observations = records.iter().filter_map(Observation::of_record);
        let found = observations.flat_map(|seen| later.observe(&seen)).flatten();
        assert_eq!(found.collect::<Vec<_>>(), told);
    }
}

fn append(log: &Log, event: &Event<'_>) {
    log.append(event, Durability::Write).unwrap();
}

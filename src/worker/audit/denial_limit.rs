//! Denials are recorded one by one, but not without end: who asks for what it
//! may not have as fast as it can must not fill the disk. What is not recorded by
//! itself is counted, and every count is recorded once its window is over.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Denials of one uid recorded one by one in a [`WINDOW`].
const EACH: u64 = 100;
/// Denials of all uids recorded one by one in a [`WINDOW`].
const ALL: u64 = 2000;
/// Part of [`ALL`] that is kept for a uid's first [`FIRST`] denials: many uids that ask for
/// much do not keep out one that asks for little.
const RESERVED: u64 = 1000;
const FIRST: u64 = 5;
const WINDOW: Duration = Duration::from_secs(10);
/// Uids that are counted each by itself; all others in one number.
const UIDS: usize = 4096;
/// Uids whose counts are told each by itself, those with the most; all others in one.
const TOLD: usize = 64;

/// Denials that have no record of their own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CountedDenials {
    /// The uid, or the account of a user namespace; `None`: of several.
    pub(crate) uid: Option<u32>,
    pub(crate) denials: u64,
}

/// Treatment of a denial.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Admission {
    /// Write its record.
    pub(crate) record: bool,
    /// Write records of these, of the window that is over.
    pub(crate) counted: Vec<CountedDenials>,
}

/// The window that is running; there is none before the first denial.
#[derive(Default)]
pub(crate) struct DenialLimit(Mutex<Option<DenialWindow>>);

struct DenialWindow {
    start: Instant,
    by_uid: HashMap<u32, Tally>,
    /// Those recorded one by one, of all uids.
    recorded: u64,
    /// Those of uids that found no room in `by_uid`.
    rest: u64,
}

#[derive(Default)]
struct Tally {
    recorded: u64,
    counted: u64,
}

impl DenialWindow {
    fn new(start: Instant) -> Self {
        Self {
            start,
            by_uid: HashMap::new(),
            recorded: 0,
            rest: 0,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.start) >= WINDOW
    }

    /// Counts a denial of `uid`; gives whether it gets a record of its own.
    fn admit(&mut self, uid: u32) -> bool {
        if self.by_uid.len() >= UIDS && !self.by_uid.contains_key(&uid) {
            self.rest += 1;
            return false;
        }
        let own = self.by_uid.entry(uid).or_default();
        let room = if own.recorded < FIRST {
            ALL
        } else {
            ALL - RESERVED
        };
        let admitted = own.recorded < EACH && self.recorded < room;
        if admitted {
            own.recorded += 1;
            self.recorded += 1;
        } else {
            own.counted += 1;
        }
        admitted
    }

    fn counted(self) -> Vec<CountedDenials> {
        let counts = self.by_uid.into_iter();
        let counts = counts.filter(|(_, own)| own.counted > 0);
        let mut counts: Vec<_> = counts.map(|(uid, own)| (own.counted, uid)).collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let others = counts.split_off(counts.len().min(TOLD));
        let others = others.iter().map(|(denials, _)| denials).sum::<u64>() + self.rest;
        let told = counts.into_iter().map(|(denials, uid)| CountedDenials {
            uid: Some(uid),
            denials,
        });
        let others = (others > 0).then_some(CountedDenials {
            uid: None,
            denials: others,
        });
        told.chain(others).collect()
    }
}

impl DenialLimit {
    pub(crate) fn admit(&self, uid: u32, now: Instant) -> Admission {
        let mut window = self.0.lock();
        let over = window.take_if(|window| window.is_over(now));
        let record = window
            .get_or_insert_with(|| DenialWindow::new(now))
            .admit(uid);
        drop(window);
        Admission {
            record,
            counted: over.map(DenialWindow::counted).unwrap_or_default(),
        }
    }

    /// Counts that have no record yet; forgets them.
    pub(crate) fn drain(&self) -> Vec<CountedDenials> {
        let window = self.0.lock().take();
        window.map(DenialWindow::counted).unwrap_or_default()
    }

    /// Counts of a window that is over, after which nobody may ask again; forgets them.
    pub(crate) fn drain_over(&self, now: Instant) -> Vec<CountedDenials> {
        let window = self.0.lock().take_if(|window| window.is_over(now));
        window.map(DenialWindow::counted).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(uid: impl Into<Option<u32>>, denials: u64) -> CountedDenials {
        CountedDenials {
            uid: uid.into(),
            denials,
        }
    }

    /// Lets `uid` be denied so many times; gives how many get records.
    fn deny(denials: &DenialLimit, uid: u32, times: u64, now: Instant) -> u64 {
        let admitted = (0..times).filter(|_| denials.admit(uid, now).record);
        admitted.count() as u64
    }

    #[test]
    fn a_burst_is_counted_and_told_later() {
        let (denials, start) = (DenialLimit::default(), Instant::now());
        assert_eq!(deny(&denials, 7, 250, start), EACH);
        assert_eq!(deny(&denials, 8, 1, start), 1, "another uid has its own");
        let expected = Admission {
            record: true,
            counted: vec![counted(7, 150)],
        };
        assert_eq!(denials.admit(7, start + WINDOW), expected);
        assert!(denials.admit(7, start + 2 * WINDOW).counted.is_empty());
    }

    #[test]
    fn what_is_left_is_told_at_the_end() {
        let denials = DenialLimit::default();
        deny(&denials, 7, EACH + 3, Instant::now());
        deny(&denials, 8, 1, Instant::now());
        assert_eq!(denials.drain(), [counted(7, 3)]);
        assert!(denials.drain().is_empty());
    }

    #[test]
    fn a_window_that_is_over_is_told_without_another_denial() {
        let (denials, start) = (DenialLimit::default(), Instant::now());
        deny(&denials, 7, EACH + 3, start);
        assert!(denials.drain_over(start + WINDOW / 2).is_empty());
        assert_eq!(denials.drain_over(start + WINDOW), [counted(7, 3)]);
        assert!(denials.drain().is_empty());
    }

    #[test]
    fn none_of_many_uids_is_lost_and_memory_and_records_are_bounded() {
        let (denials, start) = (DenialLimit::default(), Instant::now());
        let uids = 2 * u32::try_from(UIDS).unwrap();
        let each = |uid| u64::from(uid < 100) + 1;
        let recorded: u64 = (0..uids)
            .map(|uid| deny(&denials, uid, each(uid), start))
            .sum();
        assert_eq!(recorded, ALL, "a rate for all");
        assert!(denials.0.lock().as_ref().unwrap().by_uid.len() <= UIDS);
        // Also when the next denial is one of a uid that was not counted before.
        let told = denials.admit(uids + 1, start + WINDOW);
        assert!(told.record, "the next window has room");
        assert!(told.counted.len() <= TOLD + 1);
        let total = told.counted.iter().map(|told| told.denials).sum::<u64>();
        let asked: u64 = (0..uids).map(each).sum();
        assert_eq!(recorded + total, asked, "every denial is told");
    }

    #[test]
    fn many_who_ask_for_much_leave_room_for_one_who_asks_for_little() {
        let (denials, start) = (DenialLimit::default(), Instant::now());
        for uid in 0..100 {
            deny(&denials, uid, 1000, start);
        }
        assert_eq!(deny(&denials, 1000, 20, start), FIRST);
    }
}

//! Denials are recorded one by one, but not without end: who asks for what it
//! may not have as fast as it can must not fill the disk.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Denials of one uid recorded one by one in a [`WINDOW`]; more are counted.
const EACH: u64 = 100;
const WINDOW: Duration = Duration::from_secs(10);
/// Uids remembered; beyond it the oldest windows are given up, counts included.
const UIDS: usize = 4096;

/// Treatment of a denial.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Admission {
    /// Write its record.
    pub(crate) record: bool,
    /// Write a record of so many that were only counted.
    pub(crate) counted: Option<u64>,
}

/// Windows by uid.
#[derive(Default)]
pub(crate) struct DenialLimit(Mutex<HashMap<u32, DenialWindow>>);

struct DenialWindow {
    start: Instant,
    denials: u64,
}

impl DenialWindow {
    fn counted(&self) -> Option<u64> {
        self.denials.checked_sub(EACH).filter(|&n| n > 0)
    }
}

impl DenialLimit {
    pub(crate) fn admit(&self, uid: u32, now: Instant) -> Admission {
        let mut windows = self.0.lock();
        if windows.len() >= UIDS && !windows.contains_key(&uid) {
            windows.retain(|_, window| now.duration_since(window.start) < WINDOW);
            if windows.len() >= UIDS {
                // Thousands of uids at once: count them as one.
                return Admission {
                    record: false,
                    counted: None,
                };
            }
        }
        let fresh = || DenialWindow {
            start: now,
            denials: 0,
        };
        let window = windows.entry(uid).or_insert_with(fresh);
        let mut counted = None;
        if now.duration_since(window.start) >= WINDOW {
            counted = window.counted();
            *window = fresh();
        }
        window.denials += 1;
        Admission {
            record: window.denials <= EACH,
            counted,
        }
    }

    /// Counts that have no record yet, by uid; forgets them.
    pub(crate) fn drain(&self) -> Vec<(u32, u64)> {
        self.drain_if(|_| true)
    }

    /// Counts of windows that are over, whose uids may never ask again; forgets them.
    pub(crate) fn drain_over(&self, now: Instant) -> Vec<(u32, u64)> {
        self.drain_if(|window| now.duration_since(window.start) >= WINDOW)
    }

    fn drain_if(&self, done: impl Fn(&DenialWindow) -> bool) -> Vec<(u32, u64)> {
        let mut windows = self.0.lock();
        let drained = windows.extract_if(|_, window| done(window));
        drained
            .filter_map(|(uid, window)| Some((uid, window.counted()?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_counted_and_told_later() {
        let denials = DenialLimit::default();
        let start = Instant::now();
        let recorded = (0..250).filter(|_| denials.admit(7, start).record).count();
        assert_eq!(recorded as u64, EACH);
        assert!(
            denials.admit(8, start).record,
            "another uid has its own window"
        );
        let later = denials.admit(7, start + WINDOW);
        let expected = Admission {
            record: true,
            counted: Some(150),
        };
        assert_eq!(later, expected);
        assert_eq!(denials.admit(7, start + 2 * WINDOW).counted, None);
    }

    #[test]
    fn what_is_left_is_told_at_the_end() {
        let denials = DenialLimit::default();
        for _ in 0..EACH + 3 {
            let _ = denials.admit(7, Instant::now());
        }
        let _ = denials.admit(8, Instant::now());
        assert_eq!(denials.drain(), [(7, 3)]);
        assert!(denials.drain().is_empty());
    }

    #[test]
    fn a_window_that_is_over_is_told_without_another_denial() {
        let (denials, start) = (DenialLimit::default(), Instant::now());
        for _ in 0..EACH + 3 {
            let _ = denials.admit(7, start);
            let _ = denials.admit(8, start + WINDOW / 2);
        }
        assert!(denials.drain_over(start + WINDOW / 2).is_empty());
        assert_eq!(denials.drain_over(start + WINDOW), [(7, 3)]);
        assert_eq!(denials.drain(), [(8, 3)]);
    }

    #[test]
    fn many_uids_take_bounded_memory() {
        let denials = DenialLimit::default();
        for uid in 0..2 * UIDS {
            let _ = denials.admit(u32::try_from(uid).unwrap(), Instant::now());
        }
        assert!(denials.0.lock().len() <= UIDS);
    }
}

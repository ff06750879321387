//! Pauses between processes of one kind that keep failing.

use std::time::{Duration, Instant};

/// Pause after the fourth failure in a row; doubled for each one more.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A process that worked for so long has not failed in a row.
const STEADY: Duration = Duration::from_secs(10);

/// Rule of when the next process of a kind may be started.
pub(super) struct Backoff {
    failures: u32,
    not_before: Instant,
}

impl Backoff {
    /// No pause yet.
    pub(super) fn new() -> Self {
        Self {
            failures: 0,
            not_before: Instant::now(),
        }
    }

    /// Notes that a process ended after it worked for `lasted`. Only with `own_fault` that
    /// counts: kills from outside are no reason to let clients wait.
    pub(super) fn ended(&mut self, lasted: Duration, own_fault: bool) {
        if lasted >= STEADY {
            self.failures = 0;
        }
        if !own_fault {
            return;
        }
        self.failures += 1;
        // The first few may be bad luck.
        if let Some(more) = self.failures.checked_sub(4) {
            let pause = FIRST_PAUSE
                .saturating_mul(1 << more.min(10))
                .min(LONGEST_PAUSE);
            tracing::error!(pause_ms = pause.as_millis(), "they keep failing");
            self.not_before = Instant::now() + pause;
        }
    }

    /// How long to wait yet.
    pub(super) fn left(&self) -> Duration {
        self.not_before.saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_are_given_more_and_more_time() {
        let mut backoff = Backoff::new();
        let mut fail = |lasted| {
            backoff.ended(lasted, true);
            backoff.left()
        };
        let pauses: Vec<_> = (0..14).map(|_| fail(Duration::from_secs(1))).collect();
        assert!(pauses[..3].iter().all(Duration::is_zero), "bad luck");
        assert!(pauses[3] > FIRST_PAUSE / 2 && pauses[5] > pauses[3]);
        assert!(pauses[13] <= LONGEST_PAUSE && pauses[13] > LONGEST_PAUSE / 2);
        let mut after_good_work = Backoff::new();
        for _ in 0..9 {
            after_good_work.ended(STEADY, true);
        }
        assert!(after_good_work.left().is_zero());
    }

    #[test]
    fn kills_from_outside_are_no_failures() {
        let mut backoff = Backoff::new();
        for _ in 0..100 {
            backoff.ended(Duration::ZERO, false);
        }
        assert!(backoff.left().is_zero());
    }
}

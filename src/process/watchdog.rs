//! systemd's watchdog, which restarts a supervisor that shows no sign of life.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Sender of signs of life.
pub(crate) struct Watchdog {
    /// How long systemd waits for one; `None` where there is no watchdog.
    interval: Option<Duration>,
    /// When the last one was sent.
    notified: Option<Instant>,
}

impl Watchdog {
    /// With the interval that systemd told this process, if it did:
    /// [`sd_notify::watchdog_enabled`].
    pub(crate) fn new(interval: Option<Duration>) -> Self {
        Self {
            interval,
            notified: None,
        }
    }

    /// Shows that all is well, three times in the interval.
    pub(crate) fn notify(&mut self) {
        let Some(interval) = self.interval else {
            return;
        };
        let is_due = |last: Instant| last.elapsed() >= interval / 3;
        if self.notified.is_none_or(is_due) {
            self.notified = Some(Instant::now());
            // systemd is gone when this fails.
            sd_notify::notify(&[NotifyState::Watchdog]).ok();
        }
    }
}

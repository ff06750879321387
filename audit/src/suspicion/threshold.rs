//! From when on something is suspicious.

/// Most denials that a [`Thresholds`] can ask for: each is remembered.
pub const MAX_DENIALS: u32 = 100;
/// Most secrets that a [`Thresholds`] can ask for: each is remembered.
pub const MAX_BULK_SECRETS: u32 = 500;

/// So many events within such a time; 0 events: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// Number of events.
    pub count: u32,
    /// Length of the window.
    pub seconds: u32,
}

impl Threshold {
    /// `count` events within `minutes`.
    #[must_use]
    pub const fn of_minutes(count: u32, minutes: u32) -> Self {
        Self::of_seconds(count, minutes.saturating_mul(60))
    }

    /// `count` events within `seconds`.
    #[must_use]
    pub const fn of_seconds(count: u32, seconds: u32) -> Self {
        Self { count, seconds }
    }

    /// True for two times (milliseconds) within one window. A clock that was put
    /// back, or two records that changed places, don't matter.
    pub(super) fn spans(self, a: i64, b: i64) -> bool {
        a.abs_diff(b) < u64::from(self.seconds) * 1000
    }

    fn capped(self, most: u32) -> Self {
        Self {
            count: self.count.min(most),
            ..self
        }
    }
}

/// Thresholds of a detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Denials of one uid; at most [`MAX_DENIALS`].
    pub denials: Threshold,
    /// Different secrets that one uid reads; at most [`MAX_BULK_SECRETS`].
    pub bulk: Threshold,
}

impl Thresholds {
    /// These thresholds, with counts up to what a detector remembers.
    pub(super) fn capped(self) -> Self {
        Self {
            denials: self.denials.capped(MAX_DENIALS),
            bulk: self.bulk.capped(MAX_BULK_SECRETS),
        }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            denials: Threshold::of_minutes(5, 10),
            bulk: Threshold::of_seconds(50, 60),
        }
    }
}

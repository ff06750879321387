//! Rules: what must hold of a value, and what is said when it does not.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::RangeInclusive;

/// Longest time in hours that a setting may have: a leap year.
pub(super) const MAX_HOURS: u32 = 366 * 24;

/// One rule about one key of the configuration.
pub(super) struct SettingRule {
    /// Whether the value is good.
    pub(super) holds: bool,
    /// The key, with its section.
    pub(super) key: &'static str,
    /// How the message goes on after the key.
    pub(super) must: Cow<'static, str>,
}

impl SettingRule {
    /// `key` is good where `holds`; otherwise it `must` (a half sentence).
    pub(super) fn new(holds: bool, key: &'static str, must: impl Into<Cow<'static, str>>) -> Self {
        let must = must.into();
        Self { holds, key, must }
    }

    /// `value` must be in `range`.
    pub(super) fn within<T: PartialOrd + Display>(
        key: &'static str,
        value: T,
        range: RangeInclusive<T>,
    ) -> Self {
        let must = format!("must be {} to {}", range.start(), range.end());
        Self::new(range.contains(&value), key, must)
    }

    /// `value` must be in `range`, or 0, which means never.
    pub(super) fn within_or_never(
        key: &'static str,
        value: u32,
        range: RangeInclusive<u32>,
    ) -> Self {
        let must = match (range.start(), range.end()) {
            (1, end) => format!("must be 0 (never) to {end}"),
            (start, end) => format!("must be 0 (never) or {start} to {end}"),
        };
        Self::new(value == 0 || range.contains(&value), key, must)
    }
}

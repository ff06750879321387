//! Wall-clock time in the units the parts use.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// Milliseconds of a day.
pub(crate) const DAY_MS: i64 = 86_400_000;

/// Milliseconds of an hour.
pub(crate) const HOUR_MS: i64 = 3_600_000;

/// Unix milliseconds.
pub(crate) fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// RFC 3339 in UTC, whole seconds.
pub(crate) fn rfc3339(unix_ms: i64) -> String {
    let seconds = Timestamp::from_second(unix_ms.div_euclid(1000)).unwrap_or_default();
    seconds.to_string()
}

/// For file attributes; times before 1970 become 1970.
pub(crate) fn system_time(unix_ms: i64) -> SystemTime {
    let since = u64::try_from(unix_ms).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_millis(since)
}

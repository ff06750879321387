//! Wall-clock time in the units the parts use.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};

/// Milliseconds of a day.
pub(crate) const DAY_MS: i64 = 86_400_000;

/// Milliseconds of an hour.
pub(crate) const HOUR_MS: i64 = 3_600_000;

/// Where a test's own program finds how far its clock is ahead.
static AHEAD: OnceLock<File> = OnceLock::new();

/// From now on the clock is ahead by the milliseconds (decimal) in `file`, which
/// is read each time: only for the daemon that tests run.
#[doc(hidden)]
pub fn follow_clock(file: File) {
    // A second file would be another test's.
    AHEAD.set(file).ok();
}

/// The time.
pub(crate) fn now() -> Timestamp {
    let ahead = AHEAD.get().and_then(|file| {
        let mut text = [0; 24];
        let len = file.read_at(&mut text, 0).ok()?;
        let text = str::from_utf8(text.get(..len)?).ok()?;
        text.trim().parse().ok()
    });
    Timestamp::now() + SignedDuration::from_millis(ahead.unwrap_or_default())
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> i64 {
    now().as_millisecond()
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

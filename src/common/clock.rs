//! Wall-clock time in the units the parts use, and in a worker the time that decisions go
//! by.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use super::timeline::{Moment, TimeEvent, TimeMark, Timeline};

/// Milliseconds of a day.
pub(crate) const DAY_MS: i64 = 86_400_000;

/// Milliseconds of an hour.
pub(crate) const HOUR_MS: i64 = 3_600_000;

/// Longest time in days that a setting may have: a century. No sum of it and a time that a
/// clock shows leaves the calendar.
pub(crate) const MAX_DAYS: u32 = 36_525;

/// Longest moment, in milliseconds.
const MOMENT_MS: i64 = 50;

/// Times that a longer one is tried again.
const MAX_ATTEMPTS: u32 = 20;

/// Where a test's own program finds how far its clocks are ahead.
static AHEAD: OnceLock<File> = OnceLock::new();

/// The course of time, in a process that keeps it: a worker with an open vault.
static TIMELINE: Mutex<Option<Timeline>> = Mutex::new(None);

/// From now on the clocks are ahead by the milliseconds (decimal) in `file`, which is
/// read each time: the system's clock by the first, the time since boot by the second
/// number. Only for the daemon that tests run.
#[doc(hidden)]
pub fn follow_clock(file: File) {
    // A second file would be another test's.
    AHEAD.set(file).ok();
}

/// How far a test has put the system's clock and the time since boot ahead.
fn ahead_ms() -> (i64, i64) {
    let ahead = AHEAD.get().and_then(|file| {
        let mut text = [0; 48];
        let len = file.read_at(&mut text, 0).ok()?;
        let text = str::from_utf8(text.get(..len)?).ok()?;
        let (wall, boot) = text.trim().rsplit_once(' ')?;
        Some((wall.trim().parse().ok()?, boot.parse().ok()?))
    });
    ahead.unwrap_or_default()
}

/// The time `by` after `time`, or the last of the calendar (the first, before `time`).
pub(crate) fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    // Never fails: a signed duration is always a valid argument.
    time.saturating_add(by).unwrap_or(time)
}

/// The time that the system's clock shows, right or wrong: for records.
pub(crate) fn now() -> Timestamp {
    later(Timestamp::now(), SignedDuration::from_millis(ahead_ms().0))
}

/// Milliseconds since boot, suspensions included.
fn since_boot_ms() -> i64 {
    let since = clock_gettime(ClockId::Boottime);
    let whole = since.tv_sec.saturating_mul(1000);
    whole.saturating_add(since.tv_nsec / 1_000_000)
}

/// This moment on both clocks.
fn moment() -> Moment {
    let (wall_ahead, boot_ahead) = ahead_ms();
    let mut attempts = 0;
    loop {
        let before = since_boot_ms();
        let wall = Timestamp::now().as_millisecond();
        // A thread that waited for a core between the two would take it for a jump.
        if since_boot_ms() - before <= MOMENT_MS || attempts >= MAX_ATTEMPTS {
            return Moment {
                wall_ms: wall.saturating_add(wall_ahead),
                since_boot_ms: before.saturating_add(boot_ahead),
            };
        }
        attempts += 1;
    }
}

/// Id of this boot of the system.
///
/// # Errors
/// When `/proc` does not tell.
pub(crate) fn boot_id() -> std::io::Result<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits = text.trim().replace('-', "");
    let mut id = [0; 16];
    hex::decode_to_slice(digits, &mut id).map_err(std::io::Error::other)?;
    Ok(id)
}

/// Keeps time from here on, after what an earlier worker knew of it.
pub(crate) fn keep_time(known: Option<TimeMark>, boot: [u8; 16]) {
    let mut timeline = TIMELINE.lock();
    *timeline = Some(Timeline::resume(known, boot, moment()));
}

/// Findings of `read` in the course of time at this moment; none where time is not kept.
fn observe<T>(read: impl FnOnce(&mut Timeline) -> T) -> Option<T> {
    let mut timeline = TIMELINE.lock();
    // Under the lock: moments come in their order.
    timeline.as_mut().map(|timeline| {
        timeline.observe(moment());
        read(timeline)
    })
}

/// Unix milliseconds. Where time is kept they never go back behind what is settled.
pub(crate) fn now_ms() -> i64 {
    let effective = observe(|timeline| timeline.effective_ms());
    effective.unwrap_or_else(|| now().as_millisecond())
}

/// Unix milliseconds by which something may be destroyed: a time that may be wrong is not
/// among them ([`super::timeline`]).
pub(crate) fn settled_ms() -> i64 {
    let settled = observe(|timeline| timeline.settled_ms());
    settled.unwrap_or_else(|| now().as_millisecond())
}

/// Events that must be told, and the mark for the next worker; nothing where
/// time is not kept.
pub(crate) fn time_events() -> Option<(Vec<TimeEvent>, TimeMark)> {
    observe(|timeline| (timeline.events().to_vec(), timeline.mark()))
}

/// Forgets the first `told` of the events that [`time_events`] gave.
pub(crate) fn forget_events(told: usize) {
    observe(|timeline| timeline.forget_events(told));
}

/// The time at `unix_ms`, or the end of the calendar on that side.
pub(crate) fn timestamp(unix_ms: i64) -> Timestamp {
    let end = match unix_ms {
        ..0 => Timestamp::MIN,
        0.. => Timestamp::MAX,
    };
    Timestamp::from_millisecond(unix_ms).unwrap_or(end)
}

/// RFC 3339 in UTC, whole seconds.
pub(crate) fn rfc3339(unix_ms: i64) -> String {
    let second = timestamp(unix_ms).as_second();
    Timestamp::from_second(second)
        .unwrap_or_default()
        .to_string()
}

/// For file attributes; times before 1970 become 1970.
pub(crate) fn system_time(unix_ms: i64) -> SystemTime {
    let since = u64::try_from(unix_ms).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_millis(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_end_with_the_calendar() {
        let century = SignedDuration::from_hours(i64::from(MAX_DAYS) * 24);
        for by in [SignedDuration::MAX, century] {
            assert_eq!(later(Timestamp::MAX, by), Timestamp::MAX);
            assert_eq!(later(Timestamp::MIN, -by), Timestamp::MIN);
        }
        assert_eq!(
            later(Timestamp::UNIX_EPOCH, SignedDuration::MIN),
            Timestamp::MIN
        );
        assert_eq!(rfc3339(i64::MAX), "9999-12-30T22:00:00Z");
        assert!(rfc3339(i64::MIN).starts_with("-009999-"));
        assert_eq!(rfc3339(1999), "1970-01-01T00:00:01Z");
        assert!(system_time(i64::MAX) > SystemTime::now());
    }
}

//! Calendar windows: times of the week.

use std::fmt;

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;

/// Times of the week, UTC: `mon-fri 02:00-04:00; sun 00:00-24:00`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Windows(Vec<WeekWindow>);

/// On some days, from a minute of the day up to another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WeekWindow {
    /// Monday first.
    days: [bool; 7],
    /// Minutes since midnight; an end before the start is on the next day.
    from: u16,
    to: u16,
}

/// A text that is no window.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadWindow(String);

impl fmt::Display for BadWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no window; write them as `mon-fri 02:00-04:00; sun 00:00-24:00`, UTC",
            self.0
        )
    }
}

const MINUTES: u16 = 24 * 60;

impl Windows {
    /// # Errors
    /// [`BadWindow`].
    pub(crate) fn parse(text: &str) -> Result<Self, BadWindow> {
        let one =
            |part: &str| WeekWindow::parse(part).ok_or_else(|| BadWindow(part.trim().to_owned()));
        text.split(';').map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Whether `now_ms` (Unix milliseconds) is in one.
    pub(crate) fn contains(&self, now_ms: i64) -> bool {
        let now = super::clock::timestamp(now_ms).to_zoned(TimeZone::UTC);
        let minute = u16::from(now.time().hour().unsigned_abs()) * 60
            + u16::from(now.time().minute().unsigned_abs());
        let day = usize::from(now.weekday().to_monday_zero_offset().unsigned_abs());
        self.0.iter().any(|window| window.contains(day, minute))
    }
}

impl WeekWindow {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let (first, second) = (words.next()?, words.next());
        if words.next().is_some() {
            return None;
        }
        let (days, hours) = match second {
            Some(hours) => (days(first)?, hours),
            None => ([true; 7], first),
        };
        let (from, to) = hours.split_once('-')?;
        let (from, to) = (minutes(from)?, minutes(to)?);
        (from != to && from < MINUTES).then_some(Self { days, from, to })
    }

    fn contains(&self, day: usize, minute: u16) -> bool {
        let on = |day: usize| self.days.get(day % 7).copied().unwrap_or_default();
        if self.from < self.to {
            return on(day) && (self.from..self.to).contains(&minute);
        }
        // Over midnight: it began today, or yesterday.
        (on(day) && minute >= self.from) || (on(day + 6) && minute < self.to)
    }
}

fn days(text: &str) -> Option<[bool; 7]> {
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (weekday(first)?, weekday(last)?);
        let mut day = first;
        loop {
            *days.get_mut(day)? = true;
            if day == last {
                break;
            }
            day = (day + 1) % 7;
        }
    }
    Some(days)
}

fn weekday(text: &str) -> Option<usize> {
    use Weekday::{Friday, Monday, Saturday, Sunday, Thursday, Tuesday, Wednesday};
    let day = match text.to_ascii_lowercase().as_str() {
        "mon" => Monday,
        "tue" => Tuesday,
        "wed" => Wednesday,
        "thu" => Thursday,
        "fri" => Friday,
        "sat" => Saturday,
        "sun" => Sunday,
        _ => return None,
    };
    Some(usize::from(day.to_monday_zero_offset().unsigned_abs()))
}

/// Minutes since midnight of `HH:MM`; `24:00` is the end of the day.
fn minutes(text: &str) -> Option<u16> {
    if text == "24:00" {
        return Some(MINUTES);
    }
    let time = Time::strptime("%H:%M", text).ok()?;
    Some(u16::from(time.hour().unsigned_abs()) * 60 + u16::from(time.minute().unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn windows_are_times_of_the_week() {
        let windows = Windows::parse("mon-fri 02:00-04:00; sun 00:00-24:00").unwrap();
        // 2026-11-23 is a Monday.
        for (time, inside) in [
            ("2026-11-23T02:00:00Z", true),
            ("2026-11-23T03:59:59Z", true),
            ("2026-11-23T04:00:00Z", false),
            ("2026-11-23T01:59:59Z", false),
            ("2026-11-27T03:00:00Z", true),
            ("2026-11-28T03:00:00Z", false),
            ("2026-11-29T23:59:59Z", true),
        ] {
            assert_eq!(windows.contains(at(time)), inside, "{time}");
        }
    }

    #[test]
    fn a_window_may_cross_midnight_and_a_week() {
        let windows = Windows::parse("sun 22:00-02:00").unwrap();
        assert!(windows.contains(at("2026-11-29T22:00:00Z")));
        assert!(windows.contains(at("2026-11-30T01:59:00Z")), "on Monday");
        assert!(!windows.contains(at("2026-11-30T02:00:00Z")));
        assert!(!windows.contains(at("2026-11-29T01:00:00Z")));
        let weekend = Windows::parse("sat-mon 10:00-11:00").unwrap();
        for (day, inside) in [(28, true), (29, true), (30, true), (27, false)] {
            assert_eq!(
                weekend.contains(at(&format!("2026-11-{day}T10:30:00Z"))),
                inside
            );
        }
        assert!(
            Windows::parse("09:00-10:00")
                .unwrap()
                .contains(at("2026-11-28T09:30:00Z"))
        );
    }

    #[test]
    fn what_is_no_window_is_quoted() {
        for text in [
            "",
            "mon",
            "mon 1-2",
            "foo 01:00-02:00",
            "mon 25:00-26:00",
            "mon 01:00-01:00",
            "mon 01:00-02:00 x",
            "01:00-02:00;",
            "mon- 01:00-02:00",
            "24:00-01:00",
        ] {
            let refused = Windows::parse(text).unwrap_err();
            assert!(refused.to_string().contains("no window"), "{text}");
        }
    }
}

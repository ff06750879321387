//! Periods of time, as options give them.

use clap::Args;
use jarvis_audit::Record;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::ctl::exit::CommandError;

/// Options for a period.
#[derive(Args)]
pub(super) struct PeriodArgs {
    /// Not before this time (RFC 3339) or day (UTC)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time (RFC 3339) or day (UTC)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// Period that was parsed; without limits it has all records.
#[derive(Default)]
pub(super) struct Period {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl PeriodArgs {
    pub(super) fn parse(&self) -> Result<Period, CommandError> {
        Ok(Period {
            since: self.since.as_deref().map(parse_time).transpose()?,
            until: self.until.as_deref().map(parse_time).transpose()?,
        })
    }
}

impl Period {
    pub(super) fn contains(&self, record: &Record) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        time_of(record).is_some_and(|at| {
            self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until)
        })
    }
}

/// Time of a record.
pub(super) fn time_of(record: &Record) -> Option<Timestamp> {
    record.time.parse().ok()
}

fn parse_time(text: &str) -> Result<Timestamp, CommandError> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let invalid = |why| CommandError::invalid("the time", text, why);
    let day: Date = text.parse().map_err(invalid)?;
    let midnight = day.to_zoned(TimeZone::UTC).map_err(invalid)?;
    Ok(midnight.timestamp())
}

/// Time that was so many days ago.
pub(super) fn days_ago(days: u32) -> Result<Timestamp, jiff::Error> {
    Timestamp::now().checked_sub(SignedDuration::from_hours(i64::from(days) * 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_days_ago_or_an_error() {
        let yesterday = days_ago(1).unwrap();
        assert_eq!(Timestamp::now().duration_since(yesterday).as_hours(), 24);
        assert!(days_ago(u32::MAX).is_err(), "before the calendar begins");
    }
}

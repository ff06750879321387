//! Suspicious activity in a log's history.

use std::path::Path;

use clap::Args;
use jarvis_audit::{
    Detector, Finding, MAX_BULK_SECRETS, MAX_DENIALS, Observation, Record, Threshold, Thresholds,
};
use serde::Serialize;

use super::log::LogLocation;
use super::period::PeriodArgs;
use crate::ctl::exit::CommandError;
use crate::ctl::output::Output;
use crate::ctl::rows::{Columns, RowSink, RowsOutput};

#[derive(Args)]
pub(in crate::ctl) struct SuspiciousCommand {
    #[command(flatten)]
    location: LogLocation,
    #[command(flatten)]
    period: PeriodArgs,
    /// Denials of one user that are a burst; 0: never
    #[arg(long, value_name = "N", default_value_t = default().denials.count)]
    #[arg(value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_DENIALS)))]
    denials: u32,
    /// Within so many minutes
    #[arg(long, value_name = "N", default_value_t = default().denials.seconds / 60)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=24 * 60))]
    denials_minutes: u32,
    /// Different secrets read by one user that are a bulk read; 0: never
    #[arg(long, value_name = "N", default_value_t = default().bulk.count)]
    #[arg(value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_BULK_SECRETS)))]
    bulk_secrets: u32,
    /// Within so many seconds
    #[arg(long, value_name = "N", default_value_t = default().bulk.seconds)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    bulk_seconds: u32,
}

fn default() -> Thresholds {
    Thresholds::default()
}

/// Finding, with what the record in which it came to light tells about it.
#[derive(Serialize)]
struct SuspiciousRow {
    seq: u64,
    time: String,
    kind: &'static str,
    uid: u32,
    name: Option<String>,
    count: u64,
    reason: String,
}

const COLUMNS: Columns<SuspiciousRow, 5> = Columns {
    header: ["seq", "time", "uid", "name", "reason"],
    cells: |row| {
        [
            row.seq.to_string(),
            row.time.clone(),
            row.uid.to_string(),
            row.name.clone().unwrap_or_default(),
            row.reason.clone(),
        ]
    },
};

impl SuspiciousCommand {
    /// Prints the findings of the period. The detector sees all of the log: what came
    /// before tells what is new.
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let period = self.period.parse()?;
        let mut detector = Detector::new(self.thresholds());
        let mut rows = RowsOutput::new(out, COLUMNS);
        for record in self.location.resolve(mount)?.records()? {
            let record = record?;
            let Some(seen) = Observation::of_record(&record) else {
                continue;
            };
            let findings = detector.observe(&seen).into_iter().flatten();
            if !period.contains(&record) {
                continue;
            }
            for finding in findings {
                if rows.push(&row(&finding, &record))?.is_break() {
                    return Ok(());
                }
            }
        }
        rows.finish()
    }

    fn thresholds(&self) -> Thresholds {
        Thresholds {
            denials: Threshold::of_minutes(self.denials, self.denials_minutes),
            bulk: Threshold::of_seconds(self.bulk_secrets, self.bulk_seconds),
        }
    }
}

fn row(finding: &Finding, record: &Record) -> SuspiciousRow {
    SuspiciousRow {
        seq: record.seq,
        time: record.time.clone(),
        kind: finding.kind.as_str(),
        uid: finding.uid,
        name: record.name.clone().filter(|_| finding.id.is_some()),
        count: finding.count,
        reason: finding.to_string(),
    }
}

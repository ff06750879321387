//! Suspicious activity in a log's history.

use clap::Args;
use jarvis_audit::{
    Detector, Finding, MAX_BULK_SECRETS, MAX_DENIALS, Observation, Record, Threshold, Thresholds,
};
use serde_json::json;

use super::log::LogLocation;
use super::period::PeriodArgs;
use crate::ctl::exit::CommandError;
use crate::ctl::output::Output;
use crate::ctl::table::columns;

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

/// Finding and the record in which it came to light.
type FoundInRecord = (Finding, Record);

impl SuspiciousCommand {
    pub(super) fn run(&self, out: &Output) -> Result<(), CommandError> {
        let found = self.search()?;
        let json = found.iter().map(|(finding, record)| {
            json!({
                "seq": record.seq,
                "time": record.time,
                "kind": finding.kind.as_str(),
                "uid": finding.uid,
                "name": name(finding, record),
                "count": finding.count,
                "reason": finding.to_string(),
            })
        });
        out.show(&json.collect(), || table(&found))
    }

    /// Findings of the period. The detector sees all of the log: what came before
    /// tells what is new.
    fn search(&self) -> Result<Vec<FoundInRecord>, CommandError> {
        let period = self.period.parse()?;
        let mut detector = Detector::new(self.thresholds());
        let mut found = Vec::new();
        self.location.each_record(|record| {
            let Some(seen) = Observation::of_record(&record) else {
                return;
            };
            let findings = detector.observe(&seen).into_iter().flatten();
            if period.contains(&record) {
                found.extend(findings.map(|finding| (finding, record.clone())));
            }
        })?;
        Ok(found)
    }

    fn thresholds(&self) -> Thresholds {
        Thresholds {
            denials: Threshold::of_minutes(self.denials, self.denials_minutes),
            bulk: Threshold::of_seconds(self.bulk_secrets, self.bulk_seconds),
        }
    }
}

fn name<'r>(finding: &Finding, record: &'r Record) -> Option<&'r str> {
    record.name.as_deref().filter(|_| finding.id.is_some())
}

fn table(found: &[FoundInRecord]) -> String {
    let rows = found.iter().map(|(finding, record)| {
        [
            record.seq.to_string(),
            record.time.clone(),
            finding.uid.to_string(),
            name(finding, record).unwrap_or_default().to_owned(),
            finding.to_string(),
        ]
    });
    columns(["seq", "time", "uid", "name", "reason"], rows)
}

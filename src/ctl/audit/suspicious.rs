//! Suspicious activity in a log's history.

use clap::Args;
use jarvis_audit::{
    Detector, Finding, MAX_BULK_SECRETS, MAX_DENIALS, Observation, Record, Threshold, Thresholds,
};
use serde_json::json;

use super::Place;
use super::query::{Period, each};
use crate::ctl::exit::Failure;
use crate::ctl::output::Output;
use crate::ctl::table::columns;

#[derive(Args)]
pub(in crate::ctl) struct Suspicious {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    period: Period,
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

/// A finding and the record in which it came to light.
type Found = (Finding, Record);

impl Suspicious {
    pub(in crate::ctl) fn run(&self, out: &Output) -> Result<(), Failure> {
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

    /// The detector sees all of the log: what came before the period tells what
    /// is new in it.
    fn search(&self) -> Result<Vec<Found>, Failure> {
        let span = self.period.understood()?;
        let mut detector = Detector::new(self.thresholds());
        let mut found = Vec::new();
        each(&self.place, |record| {
            let Some(seen) = Observation::of_record(&record) else {
                return;
            };
            let findings = detector.observe(&seen).into_iter().flatten();
            if span.has(&record) {
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

fn table(found: &[Found]) -> String {
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

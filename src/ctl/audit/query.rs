//! Questions to the audit log: who did what, when, and what nobody did.

use std::collections::BTreeMap;
use std::path::Path;

use clap::{Args, ValueEnum};
use jarvis_audit::{Action, Record};
use jarvis_policy::Pattern;
use serde_json::{Value, json};

use super::csv::CsvOutput;
use super::filter::{FilterArgs, RecordFilter, pattern, search};
use super::log::{AuditLog, LogLocation};
use super::period::{days_ago, time_of};
use super::records::{print_last, record_rows, shown};
use crate::ctl::exit::CommandError;
use crate::ctl::listing;
use crate::ctl::output::Output;
use crate::ctl::table::columns;

#[derive(Args)]
pub(in crate::ctl) struct QueryCommand {
    #[command(flatten)]
    location: LogLocation,
    #[command(flatten)]
    filter: FilterArgs,
    /// At most this many, the latest
    #[arg(short = 'n', long)]
    lines: Option<usize>,
    /// Comma-separated values (RFC 4180) with a header
    #[arg(long)]
    csv: bool,
}

#[derive(Args)]
pub(in crate::ctl) struct SummaryCommand {
    #[command(flatten)]
    location: LogLocation,
    #[command(flatten)]
    filter: FilterArgs,
    /// What to count by
    #[arg(long, value_enum, default_value_t = GroupBy::Action)]
    by: GroupBy,
}

#[derive(Args)]
pub(in crate::ctl) struct LastReadCommand {
    #[command(flatten)]
    location: LogLocation,
    /// Only these secrets
    pattern: Option<String>,
}

#[derive(Args)]
pub(in crate::ctl) struct UnusedCommand {
    #[command(flatten)]
    location: LogLocation,
    /// Not read for so many days
    #[arg(long, value_name = "N", default_value_t = 90)]
    days: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum GroupBy {
    /// Name of the secret
    Secret,
    /// User id
    Actor,
    /// What happened
    Action,
    /// How it ended
    Result,
    /// Systemd unit
    Unit,
    /// Container
    Container,
}

impl QueryCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let filter = self.filter.parse()?;
        if self.csv {
            print_last(
                &self.location.resolve(mount)?,
                &filter,
                self.lines,
                CsvOutput::new(out)?,
            )
        } else {
            print_last(
                &self.location.resolve(mount)?,
                &filter,
                self.lines,
                record_rows(out),
            )
        }
    }
}

impl SummaryCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for record in search(&self.location.resolve(mount)?, &self.filter.parse()?)? {
            let record = record?;
            let key = match self.by {
                GroupBy::Secret => record.name,
                GroupBy::Actor => record.uid.map(|uid| uid.to_string()),
                GroupBy::Action => Some(record.action.to_string()),
                GroupBy::Result => Some(record.result.to_string()),
                GroupBy::Unit => record.unit,
                GroupBy::Container => record.container,
            };
            let events = match record.action {
                // Those that it counts have records of their own.
                Action::Suspicious | Action::Begin => 1,
                // One record may stand for many events.
                _ => record.count.unwrap_or(1),
            };
            *counts.entry(key.unwrap_or_else(|| "-".into())).or_default() += events;
        }
        let mut rows: Vec<_> = counts.into_iter().collect();
        rows.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let json = rows
            .iter()
            .map(|(key, n)| json!({"key": key, "count": n}))
            .collect();
        out.show(&json, || {
            let rows = rows.iter().map(|(key, n)| [n.to_string(), key.clone()]);
            columns(["count", "key"], rows)
        })
    }
}

/// Last granted read of each secret.
fn last_reads(
    log: &AuditLog,
    name: Option<Pattern>,
) -> Result<BTreeMap<String, Record>, CommandError> {
    let mut last = BTreeMap::new();
    for record in search(log, &RecordFilter::reads(name))? {
        let record = record?;
        if let Some(name) = record.name.clone() {
            last.insert(name, record);
        }
    }
    Ok(last)
}

impl LastReadCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let wanted = self.pattern.as_deref().map(pattern).transpose()?;
        let last = last_reads(&self.location.resolve(mount)?, wanted)?;
        let json: Value = last
            .iter()
            .map(|(name, r)| json!({"name": name, "time": r.time, "uid": r.uid, "seq": r.seq}))
            .collect();
        out.show(&json, || {
            let rows = last
                .iter()
                .map(|(name, r)| [name.clone(), r.time.clone(), shown(&r.uid)]);
            columns(["name", "last read", "uid"], rows)
        })
    }
}

impl UnusedCommand {
    /// Compares the secrets in the mount with those that the log saw read.
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let limit = days_ago(self.days)
            .map_err(|why| CommandError::invalid("the days", &self.days.to_string(), why))?;
        let last = last_reads(&self.location.resolve(mount)?, None)?;
        let mut unused: Vec<(String, Option<String>)> = Vec::new();
        for name in listing::names(mount)? {
            let read = last.get(&name);
            if read.and_then(time_of).is_none_or(|at| at < limit) {
                unused.push((name, read.map(|record| record.time.clone())));
            }
        }
        unused.sort();
        let json = unused
            .iter()
            .map(|(name, at)| json!({"name": name, "last_read": at}));
        out.show(&json.collect(), || {
            let never = || "never, as far as the log goes".to_owned();
            let rows = unused
                .iter()
                .map(|(name, at)| [name.clone(), at.clone().unwrap_or_else(never)]);
            columns(["name", "last read"], rows)
        })
    }
}

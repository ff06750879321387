//! Questions to the audit log: who, what, when, and what not at all.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use clap::{Args, ValueEnum};
use jarvis_audit::{Action, Outcome, Record, read_records};
use jarvis_policy::{Accounts, Pattern};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};

use super::{Place, table};
use crate::common::accounts::SystemAccounts;
use crate::ctl::exit::{Code, Failure};
use crate::ctl::listing;
use crate::ctl::output::Output;
use crate::ctl::table::columns;

#[derive(Args)]
pub(in crate::ctl) struct Query {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    filter: Filter,
    /// At most this many, the latest
    #[arg(short = 'n', long)]
    lines: Option<usize>,
    /// Comma-separated values (RFC 4180) with a header
    #[arg(long)]
    csv: bool,
}

#[derive(Args)]
pub(in crate::ctl) struct Summary {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    filter: Filter,
    /// What to count by
    #[arg(long, value_enum, default_value_t = By::Action)]
    by: By,
}

#[derive(Args)]
pub(in crate::ctl) struct LastRead {
    #[command(flatten)]
    place: Place,
    /// Only these secrets
    pattern: Option<String>,
}

#[derive(Args)]
pub(in crate::ctl) struct Unused {
    #[command(flatten)]
    place: Place,
    /// Not read for so many days
    #[arg(long, value_name = "N", default_value_t = 90)]
    days: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
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

/// Records that are wanted: all conditions hold.
#[derive(Args)]
struct Filter {
    /// Names of secrets, as in a policy
    #[arg(long, value_name = "PATTERN")]
    name: Option<String>,
    /// What happened: read, rotate, deny ...
    #[arg(long)]
    action: Option<String>,
    /// User id or name
    #[arg(long, value_name = "USER")]
    actor: Option<String>,
    /// Systemd unit, such as nginx.service
    #[arg(long)]
    unit: Option<String>,
    /// Container: its name, or the beginning of its id
    #[arg(long)]
    container: Option<String>,
    /// Path of the program; only the first read of a process tells it
    #[arg(long, value_name = "PATH")]
    exe: Option<String>,
    /// ok, denied or failed
    #[arg(long)]
    result: Option<String>,
    /// Only what did not end well
    #[arg(long)]
    failed: bool,
    #[command(flatten)]
    period: Period,
}

/// From when to when.
#[derive(Args)]
pub(in crate::ctl) struct Period {
    /// Not before this time (RFC 3339) or day (UTC)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time (RFC 3339) or day (UTC)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// A period that was understood.
#[derive(Default)]
pub(in crate::ctl) struct Span {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Period {
    pub(in crate::ctl) fn understood(&self) -> Result<Span, Failure> {
        Ok(Span {
            since: self.since.as_deref().map(time).transpose()?,
            until: self.until.as_deref().map(time).transpose()?,
        })
    }
}

impl Span {
    pub(in crate::ctl) fn has(&self, record: &Record) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        when(record).is_some_and(|at| {
            self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until)
        })
    }
}

/// A filter that was understood.
#[derive(Default)]
struct Wanted {
    name: Option<Pattern>,
    action: Option<Action>,
    uid: Option<u32>,
    unit: Option<String>,
    container: Option<String>,
    exe: Option<String>,
    result: Option<Outcome>,
    failed: bool,
    span: Span,
}

fn usage(what: &str, text: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Usage, format!("{what} {text:?}: {why}"))
}

fn pattern(text: &str) -> Result<Pattern, Failure> {
    Pattern::parse(text).map_err(|why| usage("the pattern", text, why))
}

/// A word of the log's own vocabulary.
fn word<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T, Failure> {
    serde_json::from_value(json!(text)).map_err(|error| usage(what, text, error))
}

fn time(text: &str) -> Result<Timestamp, Failure> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let day: Date = text.parse().map_err(|why| usage("the time", text, why))?;
    let midnight = day.to_zoned(TimeZone::UTC);
    midnight
        .map(|zoned| zoned.timestamp())
        .map_err(|why| usage("the time", text, why))
}

fn actor(text: &str) -> Result<u32, Failure> {
    match text.parse() {
        Ok(uid) => Ok(uid),
        Err(_) => SystemAccounts
            .uid(text)
            .ok_or_else(|| usage("the actor", text, "no such user")),
    }
}

impl Filter {
    fn understood(&self) -> Result<Wanted, Failure> {
        let text = Option::as_deref;
        Ok(Wanted {
            name: text(&self.name).map(pattern).transpose()?,
            action: text(&self.action)
                .map(|t| word("the action", t))
                .transpose()?,
            uid: text(&self.actor).map(actor).transpose()?,
            unit: self.unit.clone(),
            container: self.container.clone(),
            exe: self.exe.clone(),
            result: text(&self.result)
                .map(|t| word("the result", t))
                .transpose()?,
            failed: self.failed,
            span: self.period.understood()?,
        })
    }
}

fn when(record: &Record) -> Option<Timestamp> {
    record.time.parse().ok()
}

impl Wanted {
    fn has(&self, record: &Record) -> bool {
        let name = |pattern: &Pattern| record.name.as_ref().is_some_and(|n| pattern.matches(n));
        self.name.as_ref().is_none_or(name)
            && self.action.is_none_or(|action| record.action == action)
            && self.uid.is_none_or(|uid| record.uid == Some(uid))
            && (self.unit.is_none() || self.unit == record.unit)
            && self.container.as_deref().is_none_or(|container| {
                let theirs = record.container.as_deref();
                theirs.is_some_and(|theirs| theirs.starts_with(container))
            })
            && (self.exe.is_none() || self.exe == record.exe)
            && self.result.is_none_or(|result| record.result == result)
            && !(self.failed && record.result == Outcome::Ok)
            && self.span.has(record)
    }
}

/// Shows every record to `visit`, the oldest first.
pub(in crate::ctl) fn each(place: &Place, mut visit: impl FnMut(Record)) -> Result<(), Failure> {
    let log = place.log();
    for record in read_records(&log).map_err(|e| Failure::io("open", &log, &e))? {
        visit(record.map_err(|e| Failure::io("read", &log, &e))?);
    }
    Ok(())
}

/// Shows every wanted record to `visit`, the oldest first.
fn search(place: &Place, wanted: &Wanted, mut visit: impl FnMut(Record)) -> Result<(), Failure> {
    each(place, |record| {
        if wanted.has(&record) {
            visit(record);
        }
    })
}

impl Query {
    pub(in crate::ctl) fn run(&self, out: &Output) -> Result<(), Failure> {
        let mut found = std::collections::VecDeque::new();
        search(&self.place, &self.filter.understood()?, |record| {
            found.push_back(record);
            if self.lines.is_some_and(|most| found.len() > most) {
                found.pop_front();
            }
        })?;
        if self.csv {
            return out.bytes(&csv(&found)?);
        }
        let json = serde_json::to_value(&found).map_err(Failure::other)?;
        out.show(&json, || table(&found))
    }
}

fn csv<'r>(records: impl IntoIterator<Item = &'r Record>) -> Result<Vec<u8>, Failure> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer
        .write_record([
            "seq",
            "time",
            "action",
            "result",
            "name",
            "version",
            "kid",
            "uid",
            "gid",
            "pid",
            "unit",
            "container",
            "exe",
            "client",
            "rule",
            "errno",
            "reason",
            "count",
        ])
        .map_err(Failure::other)?;
    for r in records {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let number = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
        writer
            .write_record([
                r.seq.to_string(),
                r.time.clone(),
                r.action.to_string(),
                r.result.to_string(),
                text(&r.name),
                number(r.version.map(u64::from)),
                text(&r.kid),
                number(r.uid.map(u64::from)),
                number(r.gid.map(u64::from)),
                number(r.pid.map(u64::from)),
                text(&r.unit),
                text(&r.container),
                text(&r.exe),
                text(&r.client),
                text(&r.rule),
                r.errno.map(|n| n.to_string()).unwrap_or_default(),
                text(&r.reason),
                number(r.count),
            ])
            .map_err(Failure::other)?;
    }
    writer.into_inner().map_err(Failure::other)
}

impl Summary {
    pub(in crate::ctl) fn run(&self, out: &Output) -> Result<(), Failure> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        search(&self.place, &self.filter.understood()?, |record| {
            let key = match self.by {
                By::Secret => record.name,
                By::Actor => record.uid.map(|uid| uid.to_string()),
                By::Action => Some(record.action.to_string()),
                By::Result => Some(record.result.to_string()),
                By::Unit => record.unit,
                By::Container => record.container,
            };
            let events = match record.action {
                // Those that it counts have records of their own.
                Action::Suspicious => 1,
                // One record may stand for many events.
                _ => record.count.unwrap_or(1),
            };
            *counts.entry(key.unwrap_or_else(|| "-".into())).or_default() += events;
        })?;
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

/// The last granted read of each secret.
fn last_reads(place: &Place, name: Option<Pattern>) -> Result<BTreeMap<String, Record>, Failure> {
    let wanted = Wanted {
        name,
        action: Some(Action::Read),
        result: Some(Outcome::Ok),
        ..Wanted::default()
    };
    let mut last = BTreeMap::new();
    search(place, &wanted, |record| {
        if let Some(name) = record.name.clone() {
            last.insert(name, record);
        }
    })?;
    Ok(last)
}

impl LastRead {
    pub(in crate::ctl) fn run(&self, out: &Output) -> Result<(), Failure> {
        let wanted = self.pattern.as_deref().map(pattern).transpose()?;
        let last = last_reads(&self.place, wanted)?;
        let uid = |record: &Record| record.uid.map(|uid| uid.to_string()).unwrap_or_default();
        let json: Value = last
            .iter()
            .map(|(name, r)| json!({"name": name, "time": r.time, "uid": r.uid, "seq": r.seq}))
            .collect();
        out.show(&json, || {
            let rows = last
                .iter()
                .map(|(name, r)| [name.clone(), r.time.clone(), uid(r)]);
            columns(["name", "last read", "uid"], rows)
        })
    }
}

impl Unused {
    /// The mount tells which secrets there are, the log which are read.
    pub(in crate::ctl) fn run(&self, mount: &Path, out: &Output) -> Result<(), Failure> {
        let hours = i64::from(self.days).saturating_mul(24);
        let limit = Timestamp::now()
            .checked_sub(hours.hours())
            .map_err(|why| usage("the days", &self.days.to_string(), why))?;
        let last: HashMap<_, _> = last_reads(&self.place, None)?.into_iter().collect();
        let mut unused: Vec<(String, Option<String>)> = Vec::new();
        for name in listing::names(mount)? {
            let read = last.get(&name);
            if read.and_then(when).is_none_or(|at| at < limit) {
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

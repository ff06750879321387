//! Consumers of a secret: those that somebody declared, and those seen reading it.
//!
//! The audit log has what was read, by whom and in which version; nothing else has
//! to be kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clap::{Args, ValueEnum};
use jarvis_audit::{Action, Outcome, Record};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::{Value, json};

use super::log::LogLocation;
use super::period::{days_ago, time_of};
use crate::ctl::client::versions;
use crate::ctl::exit::CommandError;
use crate::ctl::listing;
use crate::ctl::output::Output;
use crate::ctl::table::{array, cell, table, text};

/// Most programs told of one reader.
const MAX_PROGRAMS: usize = 32;

#[derive(Args)]
pub(in crate::ctl) struct ImpactCommand {
    #[command(flatten)]
    look_back: LookBackArgs,
    /// Name of the secret
    name: String,
}

#[derive(Args)]
pub(in crate::ctl) struct AdoptionCommand {
    #[command(flatten)]
    look_back: LookBackArgs,
    /// Name of the secret
    name: String,
}

#[derive(Args)]
pub(in crate::ctl) struct GraphCommand {
    #[command(flatten)]
    look_back: LookBackArgs,
    /// How to write it down; --json is the same as json
    #[arg(long, value_enum, default_value_t = GraphFormat::Dot)]
    format: GraphFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GraphFormat {
    /// For Graphviz
    Dot,
    Json,
}

/// Options for how far back the log is looked at.
#[derive(Args)]
struct LookBackArgs {
    #[command(flatten)]
    location: LogLocation,
    /// Who has not read for so many days is no consumer any more
    #[arg(long, value_name = "N", default_value_t = 90)]
    days: u32,
}

/// Reader, as far as the kernel tells who it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct ReaderIdentity {
    uid: u32,
    unit: Option<String>,
    container: Option<String>,
}

/// Reads of one secret by one reader.
#[derive(Clone, Debug, Serialize)]
struct ReaderUse {
    reads: u64,
    first: String,
    last: String,
    /// Version that it read last.
    version: Option<u32>,
    /// Programs that it read with, as far as records name them.
    programs: BTreeSet<String>,
}

/// Granted reads of secrets, by name and reader, and by the hour of the day.
#[derive(Default)]
struct ReadsSeen {
    by_name: BTreeMap<String, BTreeMap<ReaderIdentity, ReaderUse>>,
    by_hour: [u64; 24],
}

impl LookBackArgs {
    /// Reads of `name`, or of all secrets.
    fn reads(&self, mount: &Path, name: Option<&str>) -> Result<ReadsSeen, CommandError> {
        let since = days_ago(self.days).map_err(CommandError::other)?;
        let mut reads = ReadsSeen::default();
        for record in self.location.resolve(mount)?.records()? {
            let record = record?;
            let granted = record.action == Action::Read && record.result == Outcome::Ok;
            let wanted = name.is_none_or(|name| record.name.as_deref() == Some(name));
            if granted && wanted {
                reads.add(&record, since);
            }
        }
        Ok(reads)
    }
}

impl ReadsSeen {
    fn add(&mut self, record: &Record, since: Timestamp) {
        let (Some(name), Some(uid)) = (&record.name, record.uid) else {
            return;
        };
        let Some(time) = time_of(record).filter(|time| *time >= since) else {
            return;
        };
        let hour = time.to_zoned(TimeZone::UTC).hour().unsigned_abs();
        if let Some(count) = self.by_hour.get_mut(usize::from(hour)) {
            *count += 1;
        }
        let reader = ReaderIdentity {
            uid,
            unit: record.unit.clone(),
            container: record.container.clone(),
        };
        let readers = self.by_name.entry(name.clone()).or_default();
        let seen = readers.entry(reader).or_insert_with(|| ReaderUse {
            reads: 0,
            first: record.time.clone(),
            last: String::new(),
            version: None,
            programs: BTreeSet::new(),
        });
        seen.reads += 1;
        seen.last.clone_from(&record.time);
        seen.version = record.version;
        if let Some(exe) = &record.exe
            && seen.programs.len() < MAX_PROGRAMS
        {
            seen.programs.insert(exe.clone());
        }
    }

    fn of(&self, name: &str) -> impl Iterator<Item = (&ReaderIdentity, &ReaderUse)> {
        self.by_name.get(name).into_iter().flatten()
    }

    /// Hour of the day (UTC) with the fewest reads; the first of several.
    fn quietest(&self) -> usize {
        let hours = self.by_hour.iter().enumerate();
        hours
            .min_by_key(|(_, reads)| **reads)
            .map_or(0, |(hour, _)| hour)
    }
}

fn row(reader: &ReaderIdentity, used: &ReaderUse) -> Value {
    let mut row = json!(used);
    if let (Some(row), Value::Object(reader)) = (row.as_object_mut(), json!(reader)) {
        row.extend(reader);
    }
    row
}

const READER: [&str; 3] = ["uid", "unit", "container"];

fn reader_columns(rest: &[&'static str]) -> Vec<&'static str> {
    READER.iter().chain(rest).copied().collect()
}

impl ImpactCommand {
    /// Shows before a rotation who is affected, how much, and when it disturbs least.
    pub(in crate::ctl) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let known = versions(mount, &self.name)?;
        let reads = self.look_back.reads(mount, Some(&self.name))?;
        let observed: Vec<_> = reads.of(&self.name).map(|(r, u)| row(r, u)).collect();
        let declared = array(&known, "consumers");
        let levels = ["critical", "high", "medium", "low"];
        let worst = levels.into_iter().find(|level| {
            declared
                .iter()
                .any(|consumer| text(consumer, "criticality") == *level)
        });
        let quiet = reads.quietest();
        let window = format!("{quiet:02}:00-{:02}:00 UTC", (quiet + 1) % 24);
        let found = json!({
            "name": self.name,
            "criticality": worst,
            "declared": declared,
            "observed": observed,
            "suggested_window": window,
            "hook": known.pointer("/settings/hook"),
        });
        out.show(&found, || {
            let mut shown = format!("criticality: {}\n", worst.unwrap_or("nobody declared any"));
            let declared_columns = ["name", "criticality", "owner", "restart"];
            shown += &section("declared", declared, &declared_columns);
            shown += &section(
                "observed",
                &observed,
                &reader_columns(&["programs", "reads", "last", "version"]),
            );
            shown += &format!("fewest reads: {window}\n");
            shown
        })
    }
}

fn section(title: &str, rows: &[Value], columns: &[&str]) -> String {
    match rows {
        [] => format!("{title}: none\n"),
        rows => format!("{title}:\n{}\n", table(rows, columns)),
    }
}

impl AdoptionCommand {
    /// Shows after a rotation who has the new version, and who was last seen with
    /// an old one.
    pub(in crate::ctl) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let known = versions(mount, &self.name)?;
        let latest = array(&known, "versions").last();
        let current = latest
            .and_then(|version| version.get("version")?.as_u64())
            .unwrap_or_default();
        let reads = self.look_back.reads(mount, Some(&self.name))?;
        let rows: Vec<_> = reads
            .of(&self.name)
            .map(|(reader, used)| {
                let mut row = row(reader, used);
                let adopted = used.version.map(u64::from) == Some(current);
                if let Some(row) = row.as_object_mut() {
                    row.insert("adopted".into(), json!(adopted));
                }
                row
            })
            .collect();
        let adopted = rows
            .iter()
            .filter(|row| row.get("adopted") == Some(&json!(true)));
        let adopted = adopted.count();
        let found = json!({
            "name": self.name,
            "current": current,
            "adopted": adopted,
            "consumers": rows,
        });
        out.show(&found, || {
            format!(
                "{adopted} of {} consumers have version {current}\n{}",
                rows.len(),
                table(
                    &rows,
                    &reader_columns(&["programs", "version", "adopted", "last"])
                )
            )
        })
    }
}

impl GraphCommand {
    /// Shows which consumers read which secrets.
    pub(in crate::ctl) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let reads = self.look_back.reads(mount, None)?;
        let mut edges = Vec::new();
        for (name, readers) in &reads.by_name {
            for (reader, used) in readers {
                let mut edge = row(reader, used);
                if let Some(edge) = edge.as_object_mut() {
                    edge.insert("secret".into(), json!(name));
                    edge.insert("consumer".into(), json!(reader.label()));
                    edge.insert("kind".into(), json!("observed"));
                }
                edges.push(edge);
            }
        }
        for name in listing::names(mount)? {
            // What the caller may not see has no declared consumers for it.
            let known = versions(mount, &name).unwrap_or_default();
            edges.extend(array(&known, "consumers").iter().map(|consumer| {
                json!({
                    "secret": name,
                    "consumer": text(consumer, "name"),
                    "criticality": cell(consumer, "criticality"),
                    "kind": "declared",
                })
            }));
        }
        if self.format == GraphFormat::Json {
            return Output::new(true).show(&json!(edges), String::new);
        }
        out.show(&json!(edges), || dot(&edges))
    }
}

impl ReaderIdentity {
    fn label(&self) -> String {
        match (&self.container, &self.unit) {
            (Some(container), _) => {
                let short: String = container.chars().take(12).collect();
                format!("uid {} in container {short}", self.uid)
            }
            (None, Some(unit)) => format!("uid {} in {unit}", self.uid),
            (None, None) => format!("uid {}", self.uid),
        }
    }
}

/// Graph in the DOT language (<https://graphviz.org/doc/info/lang.html>).
fn dot(edges: &[Value]) -> String {
    let quoted = |text: &str| {
        let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{escaped}\"")
    };
    let mut lines = vec!["digraph secrets {".to_owned(), "  rankdir=LR;".to_owned()];
    for edge in edges {
        let style = match text(edge, "kind") {
            "declared" => " [style=dashed]",
            _ => "",
        };
        lines.push(format!(
            "  {} -> {}{style};",
            quoted(text(edge, "consumer")),
            quoted(text(edge, "secret"))
        ));
    }
    lines.push("}".to_owned());
    lines.join("\n")
}

//! Conditions that records meet.

use clap::Args;
use jarvis_audit::{Action, Outcome, Record};
use jarvis_policy::{Accounts, Pattern};
use serde::de::DeserializeOwned;

use super::log::AuditLog;
use super::period::{Period, PeriodArgs};
use crate::common::accounts::SystemAccounts;
use crate::ctl::exit::CommandError;
use crate::ctl::vocabulary;

/// Options for the records that are wanted: all conditions hold.
#[derive(Args)]
pub(super) struct FilterArgs {
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
    period: PeriodArgs,
}

/// Filter that was parsed.
#[derive(Default)]
pub(super) struct RecordFilter {
    name: Option<Pattern>,
    action: Option<Action>,
    uid: Option<u32>,
    unit: Option<String>,
    container: Option<String>,
    exe: Option<String>,
    result: Option<Outcome>,
    failed: bool,
    period: Period,
}

impl FilterArgs {
    pub(super) fn parse(&self) -> Result<RecordFilter, CommandError> {
        let text = Option::as_deref;
        Ok(RecordFilter {
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
            period: self.period.parse()?,
        })
    }
}

pub(super) fn pattern(text: &str) -> Result<Pattern, CommandError> {
    Pattern::parse(text).map_err(|why| CommandError::invalid("the pattern", text, why))
}

/// A word of the log's own vocabulary.
fn word<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, CommandError> {
    vocabulary::parse(text).map_err(|error| CommandError::invalid(what, text, error))
}

fn actor(text: &str) -> Result<u32, CommandError> {
    match text.parse() {
        Ok(uid) => Ok(uid),
        Err(_) => SystemAccounts
            .uid(text)
            .ok_or_else(|| CommandError::invalid("the actor", text, "no such user")),
    }
}

impl RecordFilter {
    /// Granted reads of the secrets that `name` matches, or of all.
    pub(super) fn reads(name: Option<Pattern>) -> Self {
        Self {
            name,
            action: Some(Action::Read),
            result: Some(Outcome::Ok),
            ..Self::default()
        }
    }

    fn matches(&self, record: &Record) -> bool {
        let name = |pattern: &Pattern| record.name.as_ref().is_some_and(|n| pattern.matches(n));
        self.name.as_ref().is_none_or(name)
            // A signature tells of nothing that happened, unless somebody asks for it.
            && match self.action {
                Some(action) => record.action == action,
                None => record.action != Action::Signature,
            }
            && self.uid.is_none_or(|uid| record.uid == Some(uid))
            && (self.unit.is_none() || self.unit == record.unit)
            && self.container.as_deref().is_none_or(|container| {
                let theirs = record.container.as_deref();
                theirs.is_some_and(|theirs| theirs.starts_with(container))
            })
            && (self.exe.is_none() || self.exe == record.exe)
            && self.result.is_none_or(|result| record.result == result)
            && !(self.failed && record.result == Outcome::Ok)
            && self.period.contains(record)
    }
}

/// Every wanted record, the oldest first.
pub(super) fn search(
    log: &AuditLog,
    filter: &RecordFilter,
) -> Result<impl Iterator<Item = Result<Record, CommandError>>, CommandError> {
    let records = log.records()?;
    Ok(records.filter(|record| record.as_ref().map_or(true, |r| filter.matches(r))))
}

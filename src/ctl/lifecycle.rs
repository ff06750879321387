//! Commands about what becomes of secrets: versions, settings, rotation.

use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::client::request;
use super::exit::{Code, Failure};
use super::output::Output;
use super::table::{array, cell, table, text};

/// How often the end of a rotation is looked for while its hook is at work.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(super) struct Versions {
    /// Name of the secret
    name: String,
}

#[derive(Args)]
pub(super) struct Diff {
    /// Name of the secret
    name: String,
    /// Number of a version
    from: u32,
    /// Number of another one
    to: u32,
}

#[derive(Args)]
pub(super) struct Rollback {
    /// Name of the secret
    name: String,
    /// Number of the version whose value is to be current again
    version: u32,
    /// Why; it is kept with the version
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Args)]
pub(super) struct Deprecate {
    /// Name of the secret
    name: String,
    /// Number of a superseded version
    version: u32,
}

#[derive(Args)]
pub(super) struct Prune {
    /// Name of the secret
    name: String,
    /// Versions whose values stay
    #[arg(long)]
    keep: u32,
}

#[derive(Args)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub(super) struct Rotate {
    /// Name of the secret
    #[arg(group = "what")]
    name: Option<String>,
    /// Everything that is due by its schedule
    #[arg(long, group = "what")]
    due: bool,
    /// Everything that has a schedule
    #[arg(long, group = "what")]
    all: bool,
    /// Also outside of calendar windows
    #[arg(long)]
    force: bool,
    /// Say what would be rotated
    #[arg(long)]
    dry_run: bool,
}

/// `default` is the configuration's.
#[derive(Args)]
pub(super) struct Configure {
    /// Name of the secret
    name: String,
    /// Versions whose values are kept
    #[arg(long, value_name = "N|default")]
    keep_versions: Option<String>,
    /// Days until a version should be replaced
    #[arg(long, value_name = "DAYS|default")]
    expiry_days: Option<String>,
    /// Days for which a superseded version stays readable by its key id
    #[arg(long, value_name = "DAYS|default")]
    grace_days: Option<String>,
    /// Days after which the daemon generates a new value
    #[arg(long, value_name = "DAYS|default")]
    rotate_days: Option<String>,
    /// When that may happen, UTC, such as "mon-fri 02:00-04:00; sun 00:00-24:00"
    #[arg(long, value_name = "WINDOWS|default")]
    windows: Option<String>,
    /// Hook that brings a new value to where it is checked
    #[arg(long, value_name = "HOOK|default")]
    hook: Option<String>,
    /// Refuse an expired version instead of serving it with a warning
    #[arg(long, value_name = "BOOL")]
    refuse_expired: Option<bool>,
    /// End grace early once everybody who reads it has the new version
    #[arg(long, value_name = "BOOL")]
    end_grace_when_adopted: Option<bool>,
}

/// Who depends on a secret.
#[derive(Subcommand)]
pub(super) enum Consumer {
    /// Declare who depends on a secret
    Add {
        /// Name of the secret
        name: String,
        /// Name of the consumer
        consumer: String,
        /// How much depends on it
        #[arg(long, default_value = "medium")]
        criticality: Level,
        /// Whom to ask
        #[arg(long)]
        owner: Option<String>,
        /// What makes it take a new version
        #[arg(long, value_name = "COMMAND")]
        restart: Option<String>,
    },
    /// Forget a declared consumer
    Remove {
        /// Name of the secret
        name: String,
        /// Name of the consumer
        consumer: String,
    },
}

/// How much, how urgent.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Level {
    Low,
    Medium,
    High,
    Critical,
}

impl Level {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl Versions {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), Failure> {
        let known = request(mount, &json!({"op": "versions", "name": self.name}))?;
        let columns = [
            "version",
            "state",
            "kid",
            "created_at",
            "expires_at",
            "superseded_at",
            "by_uid",
            "reason",
        ];
        out.show(&known, || {
            let mut shown = table(array(&known, "versions"), &columns);
            if let Some(pending) = known.get("pending").filter(|p| !p.is_null()) {
                shown.push_str(&format!(
                    "\nversion {} waits for its hook since {}",
                    cell(pending, "version"),
                    text(pending, "since")
                ));
            }
            shown
        })
    }
}

impl Diff {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), Failure> {
        let message = json!({"op": "diff", "name": self.name, "from": self.from, "to": self.to});
        let found = request(mount, &message)?;
        out.show(&found, || {
            if found.get("equal") == Some(&Value::Bool(true)) {
                return "the values are equal".into();
            }
            let class = |at| {
                found
                    .pointer(at)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            let mut lines = vec![format!(
                "the values differ: {}, {}",
                class("/length_class/0"),
                class("/length_class/1")
            )];
            for kind in ["added", "removed", "changed"] {
                let keys = found.pointer(&format!("/json_keys/{kind}"));
                let keys = keys.and_then(Value::as_array).into_iter().flatten();
                lines.extend(keys.map(|key| format!("{kind} {key}")));
            }
            lines.join("\n")
        })
    }
}

impl Rollback {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), Failure> {
        let message = json!({
            "op": "rollback", "name": self.name, "version": self.version, "reason": self.reason,
        });
        out.change(&request(mount, &message)?)
    }
}

impl Deprecate {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), Failure> {
        let message = json!({"op": "deprecate", "name": self.name, "version": self.version});
        out.change(&request(mount, &message)?)
    }
}

impl Prune {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), Failure> {
        let message = json!({"op": "prune", "name": self.name, "keep": self.keep});
        out.change(&request(mount, &message)?)
    }
}

impl Rotate {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), Failure> {
        let (rows, kept_back) = match &self.name {
            Some(name) => (vec![json!({"name": name})], 0),
            None => self.scheduled(mount)?,
        };
        let listed = |rows: &[Value], columns: &[&str]| {
            let mut lines = match rows {
                [] => "nothing to rotate".to_owned(),
                rows => table(rows, columns),
            };
            if kept_back > 0 {
                lines.push_str(&format!(
                    "\n{kept_back} kept back outside of calendar windows; --force rotates them, too"
                ));
            }
            lines
        };
        if self.dry_run {
            return out.show(&json!(rows), || listed(&rows, &["name", "due_at", "hook"]));
        }
        let mut results = Vec::new();
        let mut failures = Vec::new();
        for row in &rows {
            match rotate(mount, text(row, "name")) {
                Ok(result) => results.push(result),
                Err(failure) => failures.push((text(row, "name"), failure)),
            }
        }
        match (self.name.is_some(), results.first()) {
            (true, Some(result)) => out.change(result)?,
            (true, None) => {}
            (false, _) => out.show(&json!(results), || {
                listed(&results, &["name", "version", "kid"])
            })?,
        }
        match failures.len() {
            0 => Ok(()),
            1 if self.name.is_some() => Err(failures.swap_remove(0).1),
            n => {
                let list = failures
                    .iter()
                    .map(|(name, why)| format!("{name}: {}", why.message()));
                let list = list.collect::<Vec<_>>().join("\n  ");
                let message = format!("{n} of {} were not rotated:\n  {list}", rows.len());
                Err(Failure::new(Code::Other, message))
            }
        }
    }

    /// What is to be rotated, and how many more would be in their windows.
    fn scheduled(&self, mount: &Path) -> Result<(Vec<Value>, usize), Failure> {
        let rows = request(mount, &json!({"op": "schedule"}))?;
        let rows = rows.as_array().cloned().unwrap_or_default();
        let is = |row: &Value, key: &str| row.get(key) == Some(&Value::Bool(true));
        let wanted = rows.into_iter().filter(|row| self.all || is(row, "due"));
        let (rows, kept_back): (Vec<_>, Vec<_>) =
            wanted.partition(|row| self.force || is(row, "in_window"));
        Ok((rows, kept_back.len()))
    }
}

/// Rotates one secret, and waits while its hook is at work.
fn rotate(mount: &Path, name: &str) -> Result<Value, Failure> {
    let begun = request(mount, &json!({"op": "rotate", "name": name}))?;
    let Some(pending) = begun.get("pending").and_then(Value::as_u64) else {
        return Ok(begun);
    };
    loop {
        let known = request(mount, &json!({"op": "versions", "name": name}))?;
        if known.get("pending").is_none_or(Value::is_null) {
            let made = array(&known, "versions")
                .iter()
                .find(|version| version.get("version").and_then(Value::as_u64) == Some(pending));
            let failed = || {
                let message = format!(
                    "the hook of `{name}` failed, the old version stays; \
                     see: jarvisctl audit query --name {name} --failed"
                );
                Failure::new(Code::Other, message)
            };
            let made = made.ok_or_else(failed)?;
            return Ok(json!({
                "action": "rotate", "name": name, "version": pending, "kid": text(made, "kid"),
            }));
        }
        std::thread::sleep(LOOK);
    }
}

impl Configure {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), Failure> {
        let mut settings = Map::new();
        let numbers = [
            ("keep_versions", &self.keep_versions),
            ("expiry_days", &self.expiry_days),
            ("grace_days", &self.grace_days),
            ("rotate_days", &self.rotate_days),
        ];
        for (field, given) in numbers {
            if let Some(given) = given {
                settings.insert(field.into(), number(field, given)?);
            }
        }
        for (field, given) in [("windows", &self.windows), ("hook", &self.hook)] {
            settings.extend(given.as_deref().map(|given| match given {
                "default" => (field.into(), Value::Null),
                text => (field.into(), json!(text)),
            }));
        }
        settings.extend(
            self.refuse_expired
                .map(|b| ("refuse_expired".into(), json!(b))),
        );
        let ends = self.end_grace_when_adopted;
        settings.extend(ends.map(|b| ("end_grace_when_adopted".into(), json!(b))));
        if settings.is_empty() {
            let known = request(mount, &json!({"op": "versions", "name": self.name}))?;
            let settings = known.get("settings").cloned().unwrap_or_default();
            return out.show(&settings, || {
                let rows = settings.as_object().into_iter().flatten();
                let rows = rows.map(|(k, v)| json!({"setting": k, "value": v}));
                table(&rows.collect::<Vec<_>>(), &["setting", "value"])
            });
        }
        let message = json!({"op": "configure", "name": self.name, "settings": settings});
        out.change(&request(mount, &message)?)
    }
}

fn number(field: &str, given: &str) -> Result<Value, Failure> {
    if given == "default" {
        return Ok(Value::Null);
    }
    given.parse::<u32>().map(Value::from).map_err(|_| {
        let option = field.replace('_', "-");
        Failure::new(
            Code::Usage,
            format!("--{option} takes a number or `default`"),
        )
    })
}

impl Consumer {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), Failure> {
        let message = match self {
            Self::Add {
                name,
                consumer,
                criticality,
                owner,
                restart,
            } => json!({
                "op": "consumer_add", "name": name, "consumer": consumer,
                "criticality": criticality.as_str(), "owner": owner, "restart": restart,
            }),
            Self::Remove { name, consumer } => {
                json!({"op": "consumer_remove", "name": name, "consumer": consumer})
            }
        };
        out.change(&request(mount, &message)?)
    }
}

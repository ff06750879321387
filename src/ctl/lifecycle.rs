//! Commands about versions, settings and consumers of secrets.

use std::path::Path;

use clap::{Args, Subcommand};
use jarvis_vault::Criticality;
use serde_json::{Map, Value, json};

use super::client::{request, versions};
use super::exit::{CommandError, ErrorCode};
use super::output::Output;
use super::table::{array, cell, table, text};
use super::vocabulary::{self, LEVELS};

#[derive(Args)]
pub(super) struct VersionsCommand {
    /// Name of the secret
    name: String,
}

#[derive(Args)]
pub(super) struct DiffCommand {
    /// Name of the secret
    name: String,
    /// Number of a version
    from: u32,
    /// Number of another one
    to: u32,
}

#[derive(Args)]
pub(super) struct RollbackCommand {
    /// Name of the secret
    name: String,
    /// Number of the version whose value is to be current again
    version: u32,
    /// Why; it is kept with the version
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Args)]
pub(super) struct DeprecateCommand {
    /// Name of the secret
    name: String,
    /// Number of a superseded version
    version: u32,
}

#[derive(Args)]
pub(super) struct PruneCommand {
    /// Name of the secret
    name: String,
    /// Versions whose values stay
    #[arg(long)]
    keep: u32,
}

/// Settings of a secret; `default` is the configuration's.
#[derive(Args)]
pub(super) struct ConfigureCommand {
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

/// Declarations of who depends on a secret.
#[derive(Subcommand)]
pub(super) enum ConsumerCommand {
    /// Declare who depends on a secret
    Add {
        /// Name of the secret
        name: String,
        /// Name of the consumer
        consumer: String,
        /// How much depends on it
        #[arg(long, default_value = "medium", value_parser = vocabulary::one_of::<Criticality>(LEVELS))]
        criticality: Criticality,
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

impl VersionsCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let known = versions(mount, &self.name)?;
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

impl DiffCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
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

impl RollbackCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let message = json!({
            "op": "rollback", "name": self.name, "version": self.version, "reason": self.reason,
        });
        out.change(&request(mount, &message)?)
    }
}

impl DeprecateCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let message = json!({"op": "deprecate", "name": self.name, "version": self.version});
        out.change(&request(mount, &message)?)
    }
}

impl PruneCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let message = json!({"op": "prune", "name": self.name, "keep": self.keep});
        out.change(&request(mount, &message)?)
    }
}

impl ConfigureCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
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
            let known = versions(mount, &self.name)?;
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

fn number(field: &str, given: &str) -> Result<Value, CommandError> {
    if given == "default" {
        return Ok(Value::Null);
    }
    given.parse::<u32>().map(Value::from).map_err(|_| {
        let option = field.replace('_', "-");
        CommandError::new(
            ErrorCode::Usage,
            format!("--{option} takes a number or `default`"),
        )
    })
}

impl ConsumerCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let message = match self {
            Self::Add {
                name,
                consumer,
                criticality,
                owner,
                restart,
            } => json!({
                "op": "consumer_add", "name": name, "consumer": consumer,
                "criticality": criticality, "owner": owner, "restart": restart,
            }),
            Self::Remove { name, consumer } => {
                json!({"op": "consumer_remove", "name": name, "consumer": consumer})
            }
        };
        out.change(&request(mount, &message)?)
    }
}

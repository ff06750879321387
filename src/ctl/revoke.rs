//! Commands that take secrets out of service.

use std::path::Path;

use clap::{Args, Subcommand};
use jarvis_vault::{RevocationReason, Severity};
use serde_json::{Value, json};

use super::client::{request, rows};
use super::exit::{CommandError, ErrorCode};
use super::output::Output;
use super::table::{cell, table, text};
use super::vocabulary::{self, LEVELS, REASONS};

#[derive(Subcommand)]
pub(super) enum RevokeCommand {
    /// Ask for a secret to be taken out of service; somebody else must approve
    Request(RevokeRequestArgs),
    /// Agree to a request of somebody else
    Approve {
        /// Number of the revocation
        id: u64,
    },
    /// Refuse a request, or withdraw your own
    Reject {
        /// Number of the revocation
        id: u64,
    },
    /// Take the secret of an approved request out of service
    Execute {
        /// Number of the revocation
        id: u64,
        /// Generate a clean value at once
        #[arg(long)]
        rotate: bool,
    },
    /// List revocations, those of the past included as far as they are kept
    List,
    /// Show one revocation
    Show {
        /// Number of the revocation
        id: u64,
    },
}

#[derive(Args)]
pub(super) struct RevokeRequestArgs {
    /// Name of the secret
    name: String,
    /// Why
    #[arg(long, value_parser = vocabulary::one_of::<RevocationReason>(REASONS))]
    reason: RevocationReason,
    /// How urgent
    #[arg(long, default_value = "high", value_parser = vocabulary::one_of::<Severity>(LEVELS))]
    severity: Severity,
    /// More about it
    #[arg(long)]
    note: Option<String>,
    /// Do it now, without a second person (takes the verb emergency)
    #[arg(long)]
    immediate: bool,
    /// Generate a clean value at once (takes the verb rotate, too)
    #[arg(long, requires = "immediate")]
    rotate: bool,
}

impl RevokeCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let message = match self {
            Self::Request(asked) => json!({
                "op": "revoke", "name": asked.name, "reason": asked.reason,
                "severity": asked.severity, "note": asked.note,
                "immediate": asked.immediate, "rotate": asked.rotate,
            }),
            Self::Approve { id } => json!({"op": "revoke_approve", "id": id}),
            Self::Reject { id } => json!({"op": "revoke_reject", "id": id}),
            Self::Execute { id, rotate } => {
                json!({"op": "revoke_execute", "id": id, "rotate": rotate})
            }
            Self::List => return list(mount, out),
            Self::Show { id } => return show(mount, *id, out),
        };
        let rotate = message.get("rotate") == Some(&Value::Bool(true));
        let result = request(mount, &message).map_err(|error| match error.code() {
            ErrorCode::Other | ErrorCode::Usage if rotate => {
                error.with_advice("nothing was revoked; without --rotate it is")
            }
            _ => error,
        })?;
        out.show(&result, || {
            format!("{}: {}", text(&result, "name"), text(&result, "note"))
        })
    }
}

fn list(mount: &Path, out: &Output) -> Result<(), CommandError> {
    let all = rows(mount, "revocations")?;
    let columns = [
        "id",
        "name",
        "status",
        "reason",
        "severity",
        "immediate",
        "note",
    ];
    out.show(&json!(all), || table(&all, &columns))
}

fn show(mount: &Path, id: u64, out: &Output) -> Result<(), CommandError> {
    let one = request(mount, &json!({"op": "revocation", "id": id}))?;
    out.show(&one, || {
        let act = |key: &str| match one.get(key).filter(|act| !act.is_null()) {
            Some(act) => format!(
                "{key}: by uid {} at {}\n",
                cell(act, "uid"),
                text(act, "at")
            ),
            None => String::new(),
        };
        let facts = [
            "id",
            "name",
            "status",
            "reason",
            "severity",
            "note",
            "immediate",
        ];
        let facts = facts
            .iter()
            .map(|key| format!("{key}: {}\n", cell(&one, key)));
        let acts = ["requested", "decided", "executed"].map(act);
        facts.chain(acts).collect::<String>()
    })
}

//! Commands about the policy.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use nix::unistd::{User, getgrouplist};
use serde_json::{Value, json};

use super::client::request;
use super::exit::{CommandError, ErrorCode};
use super::output::Output;
use super::table::text;
use crate::common::policy_file::try_policy;

#[derive(Subcommand)]
pub(super) enum PolicyCommand {
    /// Check a policy file; no daemon is needed
    Check {
        /// The file
        file: PathBuf,
    },
    /// Which rule of the policy in force decides for somebody
    Explain(ExplainCommand),
    /// Have the daemon load its policy anew
    Reload {
        /// Also a policy in which no client has the verb `policy`: then only SIGHUP loads the next
        #[arg(long)]
        force: bool,
    },
}

#[derive(Args)]
pub(super) struct ExplainCommand {
    /// Name of a secret; it need not exist
    name: String,
    /// Who would ask: a user's name
    #[arg(long)]
    user: String,
    /// What for
    #[arg(long, default_value = "read")]
    verb: String,
}

impl PolicyCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        match self {
            Self::Check { file } => {
                let policy =
                    try_policy(file).map_err(|error| CommandError::new(ErrorCode::Usage, error))?;
                let clients = policy.clients();
                out.show(&json!({"clients": clients}), || {
                    format!("good: {clients} clients")
                })
            }
            Self::Explain(explain) => explain.run(mount, out),
            Self::Reload { force } => {
                let result = request(mount, &json!({"op": "reload", "force": force}))?;
                let clients = result
                    .get("clients")
                    .and_then(Value::as_u64)
                    .unwrap_or_default();
                out.show(&result, || format!("loaded: {clients} clients"))
            }
        }
    }
}

impl ExplainCommand {
    fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let (uid, gid, groups) = account(&self.user)?;
        let question = json!({
            "op": "explain", "name": self.name, "verb": self.verb,
            "uid": uid, "gid": gid, "groups": groups,
        });
        let result = request(mount, &question)?;
        let verdict = match result.get("allowed") {
            Some(Value::Bool(true)) => "allowed",
            _ => "denied",
        };
        out.show(&result, || {
            format!("{verdict} by {}", text(&result, "rule"))
        })
    }
}

/// Uid, gid and all groups of `user`, as a login gives them.
fn account(user: &str) -> Result<(u32, u32, Vec<u32>), CommandError> {
    let missing = || CommandError::new(ErrorCode::NotFound, format!("there is no user `{user}`"));
    let account = User::from_name(user)
        .map_err(CommandError::other)?
        .ok_or_else(missing)?;
    let name = CString::new(user).map_err(CommandError::other)?;
    let groups = getgrouplist(&name, account.gid).map_err(CommandError::other)?;
    let groups = groups.into_iter().map(nix::unistd::Gid::as_raw).collect();
    Ok((account.uid.as_raw(), account.gid.as_raw(), groups))
}

//! Commands about key slots, through the running daemon.

use std::path::Path;

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::request;
use super::credential_args::CredentialArgs;
use super::exit::CommandError;
use super::output::Output;
use super::table::text;

#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Show the key slots
    List,
    /// Add a key slot for a key file or a passphrase
    Add(CredentialArgs),
    /// Remove a key slot; never the last one
    Remove {
        /// Its number
        slot: u8,
    },
}

impl KeyCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let message = match self {
            Self::List => {
                let slots = request(mount, &json!({"op": "key_list"}))?;
                return out.show(&slots, || describe(&slots));
            }
            Self::Add(credential) => {
                let mut message = credential.fields()?;
                message.insert("op".into(), "key_add".into());
                message.into()
            }
            Self::Remove { slot } => json!({"op": "key_remove", "slot": slot}),
        };
        let answer = request(mount, &message)?;
        out.show(&answer, || text(&answer, "note").to_owned())
    }
}

fn describe(slots: &Value) -> String {
    let line = |slot: &Value| {
        format!(
            "slot {}: {} ({})\n",
            slot["slot"],
            text(slot, "kind"),
            text(slot, "detail")
        )
    };
    slots.as_array().into_iter().flatten().map(line).collect()
}

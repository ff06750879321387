//! Commands about key slots, through the running daemon.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use jarvis_vault::Credential;
use serde_json::{Map, Value, json};

use super::client::request;
use super::exit::{Code, Failure};
use super::output::Output;
use super::table::text;
use crate::process::credential::{read_key_file, read_passphrase};

#[derive(Subcommand)]
pub(super) enum Key {
    /// Show the key slots
    List,
    /// Add a key slot for a key file or a passphrase
    Add(Opener),
    /// Remove a key slot; never the last one
    Remove {
        /// Its number
        slot: u8,
    },
}

/// What opens something.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct Opener {
    /// A key file of 32 bytes, mode 0600
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A passphrase from standard input (one line)
    #[arg(long)]
    passphrase_stdin: bool,
}

impl Key {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), Failure> {
        let message = match self {
            Self::List => {
                let slots = request(mount, &json!({"op": "key_list"}))?;
                return out.show(&slots, || describe(&slots));
            }
            Self::Add(opener) => {
                let mut message = opener.fields()?;
                message.insert("op".into(), "key_add".into());
                message.into()
            }
            Self::Remove { slot } => json!({"op": "key_remove", "slot": slot}),
        };
        let answer = request(mount, &message)?;
        out.show(&answer, || text(&answer, "note").to_owned())
    }
}

impl Opener {
    /// As a request has it.
    pub(super) fn fields(&self) -> Result<Map<String, Value>, Failure> {
        let (field, text) = match self.credential()? {
            Credential::Passphrase(line) => {
                let text = str::from_utf8(line.expose())
                    .map_err(|_| Failure::new(Code::Usage, "the passphrase is not UTF-8"))?;
                ("passphrase", text.to_owned())
            }
            Credential::KeyFile(key) => ("key_b64", STANDARD.encode(key.expose())),
        };
        Ok(Map::from_iter([(field.to_owned(), text.into())]))
    }

    pub(super) fn credential(&self) -> Result<Credential, Failure> {
        match &self.key_file {
            Some(path) => read_key_file(path).map(Credential::KeyFile),
            None => read_passphrase(io::stdin().lock()).map(Credential::Passphrase),
        }
        .map_err(Failure::other)
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

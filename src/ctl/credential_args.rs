//! Options that name a credential.

use std::io;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use jarvis_vault::Credential;
use serde_json::{Map, Value};

use super::exit::{CommandError, ErrorCode};
use crate::process::credential::{read_key_file, read_passphrase};

/// Key file or passphrase that opens something.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct CredentialArgs {
    /// A key file of 32 bytes, mode 0600
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A passphrase from standard input (one line)
    #[arg(long)]
    passphrase_stdin: bool,
}

impl CredentialArgs {
    /// Credential as fields of a request.
    pub(super) fn fields(&self) -> Result<Map<String, Value>, CommandError> {
        let (field, text) = match self.credential()? {
            Credential::Passphrase(line) => {
                let text = str::from_utf8(line.expose()).map_err(|_| {
                    CommandError::new(ErrorCode::Usage, "the passphrase is not UTF-8")
                })?;
                ("passphrase", text.to_owned())
            }
            Credential::KeyFile(key) => ("key_b64", STANDARD.encode(key.expose())),
        };
        Ok(Map::from_iter([(field.to_owned(), text.into())]))
    }

    /// Credential itself.
    pub(super) fn credential(&self) -> Result<Credential, CommandError> {
        match &self.key_file {
            Some(path) => read_key_file(path).map(Credential::KeyFile),
            None => read_passphrase(io::stdin().lock()).map(Credential::Passphrase),
        }
        .map_err(CommandError::other)
    }
}

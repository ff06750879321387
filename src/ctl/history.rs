//! Histories of secrets in files of their own.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use jarvis_vault::{History, MAX_HISTORY_FILE, Version};
use serde_json::{Value, json};

use super::client::request;
use super::credential_args::CredentialArgs;
use super::exit::{CommandError, ErrorCode};
use super::files;
use super::output::Output;
use super::table::{array, table, text};
use super::value::show_value;
use crate::common::bounded;
use crate::common::clock::rfc3339;

#[derive(Subcommand)]
pub(super) enum HistoryCommand {
    /// Write all that is kept of a secret, values included, into an encrypted file
    #[command(
        after_help = "Needs the verbs read and rotate. A key file has 32 random bytes: \
                            head -c 32 /dev/urandom > FILE; chmod 0600 FILE"
    )]
    Export {
        /// Name of the secret
        name: String,
        /// File to make
        file: PathBuf,
        #[command(flatten)]
        credential: CredentialArgs,
    },
    /// List the versions in such a file; no daemon is needed
    Show {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        credential: CredentialArgs,
    },
    /// Print the value of a version in such a file; no daemon is needed
    Get {
        /// The file
        file: PathBuf,
        /// Number of the version
        version: u32,
        #[command(flatten)]
        credential: CredentialArgs,
    },
}

impl HistoryCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        match self {
            Self::Export {
                name,
                file,
                credential,
            } => export(mount, (name, file), credential, out),
            Self::Show { file, credential } => show(&open(file, credential)?, out),
            Self::Get {
                file,
                version,
                credential,
            } => {
                let history = open(file, credential)?;
                let value = history
                    .value(*version)
                    .map_err(|error| CommandError::new(ErrorCode::NotFound, error))?;
                show_value(&history.metadata().name, &value, out)
            }
        }
    }
}

fn export(
    mount: &Path,
    (name, file): (&str, &Path),
    credential: &CredentialArgs,
    out: &Output,
) -> Result<(), CommandError> {
    let mut message = credential.fields()?;
    message.insert("op".into(), "history_export".into());
    message.insert("name".into(), name.into());
    let mut answer = Value::Null;
    files::create_with(file, || {
        answer = request(mount, &message.into())?;
        let sealed = answer.as_object_mut().and_then(|a| a.remove("history_b64"));
        let sealed = sealed.as_ref().and_then(Value::as_str).unwrap_or_default();
        STANDARD.decode(sealed).map_err(CommandError::other)
    })?;
    out.show(&answer, || {
        let values = array(&answer, "versions").len();
        format!("{name}: {values} value(s) in {}", file.display())
    })
}

fn open(path: &Path, credential: &CredentialArgs) -> Result<History, CommandError> {
    // One byte more than a history has is enough to find that it is none.
    let bytes = bounded::first_bytes(files::open(path)?, MAX_HISTORY_FILE + 1)
        .map_err(|error| CommandError::io("read", path, &error))?;
    History::open(path, &bytes, &credential.credential()?)
        .map_err(|error| CommandError::new(ErrorCode::Integrity, error))
}

fn show(history: &History, out: &Output) -> Result<(), CommandError> {
    let metadata = history.metadata();
    let versions: Vec<Value> = metadata.versions.iter().map(|v| row(history, v)).collect();
    let known = json!({
        "name": metadata.name,
        "type": metadata.kind.to_string(),
        "exported_at": rfc3339(metadata.exported_ms),
        "versions": versions,
    });
    out.show(&known, || {
        let columns = [
            "version",
            "value",
            "kid",
            "created_at",
            "superseded_at",
            "by_uid",
            "reason",
        ];
        let exported = text(&known, "exported_at");
        let table = table(&versions, &columns);
        format!("{}, exported {exported}\n{table}", metadata.name)
    })
}

fn row(history: &History, version: &Version) -> Value {
    json!({
        "version": version.number,
        "value": history.has(version.number),
        "kid": version.kid,
        "created_at": rfc3339(version.created_ms),
        "superseded_at": version.superseded_ms.map(rfc3339),
        "by_uid": version.by_uid,
        "reason": version.why,
    })
}

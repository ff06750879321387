//! Credentials of the vault: from a file, or from standard input.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use jarvis_sys::trust::{self, Rule, TrustError};
use jarvis_sys::{Cell, SecretPage};
use jarvis_vault::SecretBytes;
use zeroize::Zeroizing;

use crate::common::bounded;
use crate::config::Config;

/// Longest passphrase line read from standard input, in bytes.
const MAX_PASSPHRASE: usize = 4096;
/// Most bytes read of a key file: more than one that fits, so that a longer one shows.
const MAX_KEY_FILE: usize = 4096;

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    /// Neither a key file nor a passphrase is to be had.
    #[error(
        "the configuration names no [vault] key_file; give the passphrase with --passphrase-stdin"
    )]
    Missing,
    /// Reading the key file failed.
    #[error("cannot read the key file {path}: {source}")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The key file can't be opened, or others could read or change it.
    #[error("the key file cannot be used: {0}")]
    Distrusted(#[from] TrustError),
    /// Reading the passphrase failed.
    #[error("cannot read the passphrase: {0}")]
    Passphrase(io::Error),
    /// The key page does not take the credential.
    #[error(transparent)]
    Page(#[from] rustix::io::Errno),
}

/// Puts what unlocks the vault where a worker finds it: `k` and a key file's
/// bytes, or `p` and a passphrase.
///
/// # Errors
/// [`CredentialError`].
pub(crate) fn put_credential(
    config: &Config,
    from_stdin: bool,
    keys: &SecretPage,
) -> Result<(), CredentialError> {
    let (kind, secret) = match (&config.vault.key_file, from_stdin) {
        (Some(path), false) => (b'k', read_key_file(path)?),
        (_, true) => (b'p', read_passphrase(io::stdin().lock())?),
        (None, false) => return Err(CredentialError::Missing),
    };
    let mut tagged = Zeroizing::new(Vec::with_capacity(secret.expose().len() + 1));
    tagged.push(kind);
    tagged.extend_from_slice(secret.expose());
    Ok(keys.put(Cell::Credential, &tagged)?)
}

/// The content of a key file that nobody else can read.
///
/// # Errors
/// [`CredentialError::KeyFile`], [`CredentialError::Distrusted`].
pub(crate) fn read_key_file(path: &Path) -> Result<SecretBytes, CredentialError> {
    let failed = |source| CredentialError::KeyFile {
        path: path.to_owned(),
        source,
    };
    let file = trust::open(path, Rule::PRIVATE_FILE)?;
    let mut bytes = bounded::first_secret(file, MAX_KEY_FILE).map_err(failed)?;
    Ok(SecretBytes::new(std::mem::take(&mut bytes)))
}

/// One line without its newline.
///
/// # Errors
/// [`CredentialError::Passphrase`].
pub(crate) fn read_passphrase(input: impl Read) -> Result<SecretBytes, CredentialError> {
    let bytes =
        bounded::first_secret(input, MAX_PASSPHRASE).map_err(CredentialError::Passphrase)?;
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    Ok(SecretBytes::new(line.to_vec()))
}

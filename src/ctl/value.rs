//! Values of secrets, on their way in and out.

use std::io::{self, IsTerminal, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jarvis_vault::{MAX_VALUE, SecretBytes};
use serde::Serialize;
use zeroize::Zeroizing;

use super::exit::CommandError;
use super::output::Output;
use crate::common::bounded;

/// Value as JSON.
#[derive(Serialize)]
struct ShownValue<'a> {
    name: &'a str,
    value_b64: &'a str,
}

/// Reads at most one byte over the limit, so that the daemon's refusal is the true one.
pub(super) fn read_value(input: impl Read) -> io::Result<SecretBytes> {
    let mut value = bounded::first_secret(input, MAX_VALUE + 1)?;
    Ok(SecretBytes::new(std::mem::take(&mut value)))
}

/// The value without the one newline that ends its last line, if one does.
pub(super) fn trimmed(value: &SecretBytes) -> SecretBytes {
    let bytes = value.expose();
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let line = match bytes.strip_suffix(b"\r\n") {
        Some(line) => line,
        None => line,
    };
    SecretBytes::new(line.to_vec())
}

/// Prints a value as it is, or as base64 in JSON. On a terminal a line is always ended, so
/// that the prompt does not stand behind the value.
pub(super) fn show_value(
    name: &str,
    value: &SecretBytes,
    out: &Output,
) -> Result<(), CommandError> {
    if !out.json() {
        out.bytes(value.expose())?;
        let unfinished = value.expose().last().is_some_and(|&byte| byte != b'\n');
        if unfinished && io::stdout().is_terminal() {
            out.bytes(b"\n")?;
        }
        return Ok(());
    }
    let encoded = Zeroizing::new(STANDARD.encode(value.expose()));
    // Reserved at once: growing would leave copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(encoded.len() + 8192));
    let shown = ShownValue {
        name,
        value_b64: &encoded,
    };
    serde_json::to_writer_pretty(&mut *line, &shown).map_err(CommandError::other)?;
    line.push(b'\n');
    out.bytes(&line)
}

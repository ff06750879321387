//! Values of secrets, on their way in and out.

use std::io::{self, Read};

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

/// Prints a value as it is, or as base64 in JSON.
pub(super) fn show_value(
    name: &str,
    value: &SecretBytes,
    out: &Output,
) -> Result<(), CommandError> {
    if !out.json() {
        return out.bytes(value.expose());
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

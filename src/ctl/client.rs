//! Requests to the daemon, through the control file.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use jarvis_fs::CONTROL_NAME;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::exit::{CommandError, ErrorCode, code_of};
use super::mounted;
use crate::common::bounded;

/// Largest answer accepted, in bytes.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// Sends one request and gives its result.
pub(super) fn request(mount: &Path, request: &Value) -> Result<Value, CommandError> {
    let text = Zeroizing::new(request.to_string());
    let path = mount.join(CONTROL_NAME);
    let mut control = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| unreachable_or(&path, &error))?;
    mounted::check(&control, &path)?;
    let written = write_once(&mut control, text.as_bytes());
    let answer = bounded::first_bytes(control, MAX_ANSWER)
        .map_err(|error| CommandError::io("read the answer from", &path, &error))?;
    result_of(written, &answer)
}

/// Versions, settings and consumers of the secret `name`.
pub(super) fn versions(mount: &Path, name: &str) -> Result<Value, CommandError> {
    request(mount, &json!({"op": "versions", "name": name}))
}

/// Writes a request: one is one write(2).
fn write_once(control: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    match control.write(bytes)? {
        n if n == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Error of opening the control file: without it no daemon serves the mount.
fn unreachable_or(path: &Path, error: &io::Error) -> CommandError {
    match code_of(error) {
        ErrorCode::NotFound | ErrorCode::Unreachable => CommandError::new(
            ErrorCode::Unreachable,
            format!(
                "no daemon answers at {} ({error}); is jarvis-secretsd running, and is --mount right?",
                path.display()
            ),
        ),
        _ => CommandError::io("open", path, error),
    }
}

fn result_of(written: io::Result<()>, answer: &[u8]) -> Result<Value, CommandError> {
    let answer: Value = serde_json::from_slice(answer).unwrap_or(Value::Null);
    match written {
        Ok(()) => answer.get("result").cloned().ok_or_else(|| {
            let message = "the answer was lost when the daemon changed workers; ask again";
            CommandError::new(ErrorCode::Other, message)
        }),
        Err(error) => {
            let message = answer.pointer("/error/message").and_then(Value::as_str);
            let message = message.map_or_else(|| error.to_string(), str::to_owned);
            Err(CommandError::new(code_of(&error), message))
        }
    }
}

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
        .map_err(|error| unreachable_or(mount, &path, &error))?;
    mounted::check(&control, &path)?;
    let written = write_once(&mut control, text.as_bytes());
    let answer = bounded::first_bytes(control, MAX_ANSWER)
        .map_err(|error| CommandError::io("read the answer from", &path, &error))?;
    result_of(written, &answer)
}

/// Asks a question that is answered in pages until there is no more; gives all rows.
pub(super) fn rows(mount: &Path, op: &str) -> Result<Vec<Value>, CommandError> {
    let mut rows = Vec::new();
    let mut after = 0;
    loop {
        let mut page = request(mount, &json!({"op": op, "after": after}))?;
        if let Some(Value::Array(more)) = page.get_mut("rows").map(Value::take) {
            rows.extend(more);
        }
        match page.get("next").and_then(Value::as_u64) {
            // A page that led back would never end.
            Some(next) if next > after => after = next,
            _ => return Ok(rows),
        }
    }
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
fn unreachable_or(mount: &Path, path: &Path, error: &io::Error) -> CommandError {
    if !matches!(code_of(error), ErrorCode::NotFound | ErrorCode::Unreachable) {
        return CommandError::io("open", path, error);
    }
    if let Some(by) = mounted::covered(mount) {
        return mounted::hidden(mount, &by);
    }
    let message = format!(
        "no daemon answers at {} ({error}); is jarvis-secretsd running, and is --mount right?",
        path.display()
    );
    CommandError::new(ErrorCode::Unreachable, message)
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

//! Talking to the daemon through the control file.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::Path;

use jarvis_fs::CONTROL_NAME;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::exit::{Code, Failure, code_of};

/// Largest answer accepted, in bytes.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// Sends one request and gives its result.
pub(super) fn request(mount: &Path, request: &Value) -> Result<Value, Failure> {
    let text = Zeroizing::new(request.to_string());
    let path = mount.join(CONTROL_NAME);
    let mut control = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| unreachable_or(&path, &error))?;
    let written = write_once(&mut control, text.as_bytes());
    let mut answer = Vec::new();
    control
        .take(MAX_ANSWER)
        .read_to_end(&mut answer)
        .map_err(|error| Failure::io("read the answer from", &path, &error))?;
    result_of(written, &answer)
}

/// Versions, settings and consumers of the secret `name`.
pub(super) fn versions(mount: &Path, name: &str) -> Result<Value, Failure> {
    request(mount, &json!({"op": "versions", "name": name}))
}

/// One request is one write(2).
fn write_once(control: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    match control.write(bytes)? {
        n if n == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// No control file means that no daemon serves the mount.
fn unreachable_or(path: &Path, error: &io::Error) -> Failure {
    match code_of(error) {
        Code::NotFound | Code::Unreachable => Failure::new(
            Code::Unreachable,
            format!(
                "no daemon answers at {} ({error}); is jarvis-secretsd running, and is --mount right?",
                path.display()
            ),
        ),
        _ => Failure::io("open", path, error),
    }
}

fn result_of(written: io::Result<()>, answer: &[u8]) -> Result<Value, Failure> {
    let answer: Value = serde_json::from_slice(answer).unwrap_or(Value::Null);
    match written {
        Ok(()) => answer.get("result").cloned().ok_or_else(|| {
            let message = "the answer was lost when the daemon changed workers; ask again";
            Failure::new(Code::Other, message)
        }),
        Err(error) => {
            let message = answer.pointer("/error/message").and_then(Value::as_str);
            let message = message.map_or_else(|| error.to_string(), str::to_owned);
            Err(Failure::new(code_of(&error), message))
        }
    }
}

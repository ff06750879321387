//! Control requests: from bytes to something checked.
//!
//! A request is one JSON object, a JSON array of them (a batch, all or
//! nothing), or the short form of a shell: `set NAME "VALUE"`, `rotate NAME` ...
//!
//! Runs in: the worker, on the thread for control requests.
//! Touches: bytes of clients, PLAINTEXT that passes; nothing else.
//! Imported by: control.

mod checks;
mod json;
mod lifecycle;
mod needs;
mod operation;
mod secret_type;
mod short;

pub(crate) use checks::Malformed;
use checks::{Checked, invalid};
pub(crate) use lifecycle::MAX_CONSUMERS;
pub(crate) use needs::{Need, Subject};
pub(crate) use operation::{
    LifecycleOp, Operation, Parsed, Question, RevocationOp, SettingsChange,
};

/// Parses one write.
pub(crate) fn parse(bytes: &[u8]) -> Checked<Parsed> {
    let text = match str::from_utf8(bytes) {
        Ok(text) => text.strip_suffix('\n').unwrap_or(text),
        Err(error) => {
            return invalid(format!("byte {} is not UTF-8", error.valid_up_to() + 1));
        }
    };
    match text.trim_start().as_bytes().first() {
        None => invalid("the request is empty"),
        Some(b'{') => json::object(text),
        Some(b'[') => json::batch(text).map(Parsed::Batch),
        Some(_) => short::short(text),
    }
}

#[cfg(test)]
mod tests;

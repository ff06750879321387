//! Talk with a person at a terminal.

use std::io::{self, Write};

use jarvis_vault::SecretBytes;
use zeroize::Zeroizing;

use super::exit::{CommandError, ErrorCode};
use crate::common::escape;

/// Tells the person, beside what the command prints.
pub(super) fn warn(message: &str) {
    // Nobody is left to tell when this fails.
    writeln!(
        io::stderr(),
        "jarvisctl: warning: {}",
        escape::lines(message)
    )
    .ok();
}

/// Asks for the value of `name` twice, without showing what is typed.
///
/// # Errors
/// When the two differ, and without a terminal.
pub(super) fn ask_twice(name: &str) -> Result<SecretBytes, CommandError> {
    let name = escape::line(name);
    let first = ask(&format!("Value of {name} (not shown): "))?;
    let second = ask("Once more: ")?;
    if first.as_bytes() == second.as_bytes() {
        return Ok(SecretBytes::new(first.as_bytes().to_vec()));
    }
    let message = "the two values differ: nothing was stored";
    Err(CommandError::new(ErrorCode::Usage, message))
}

/// One line that a person types at the terminal, without its newline.
fn ask(prompt: &str) -> Result<Zeroizing<String>, CommandError> {
    let typed = rpassword::prompt_password(prompt);
    typed.map(Zeroizing::new).map_err(|error| {
        CommandError::other(format!(
            "cannot ask at the terminal: {error}; pipe the value in"
        ))
    })
}

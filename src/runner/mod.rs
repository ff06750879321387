//! The process with the network and without secrets.
//!
//! What must reach outside (hooks, webhooks, upstream sources) will run here:
//! it has no root key, no vault and no device, and gets what it needs for one
//! errand over its socket to the worker. So far it answers pings.

use std::io;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::daemon::{Failure, text};
use crate::wire::{Link, take_stdin};
use crate::worker::sandbox;

/// From the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToRunner {
    /// The first message, from the supervisor: who to be.
    Become(Option<(u32, u32)>),
    /// Answer with the same number.
    Ping(u64),
}

/// To the worker.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum FromRunner {
    /// The answer.
    Pong(u64),
}

/// Runs until nobody is left at the other end.
pub(crate) fn main() -> ExitCode {
    crate::abort_on_panic();
    rustix::thread::set_name(c"jarvis-runner").ok();
    match take_stdin().map_err(text).and_then(|link| serve(&link)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(link: &Link) -> Result<(), Failure> {
    let (ToRunner::Become(user), _) = link.receive().map_err(text)? else {
        return Err("the first message did not say who to be".into());
    };
    sandbox::drop_privileges(user, false).map_err(text)?;
    loop {
        match link.receive::<ToRunner>() {
            Ok((ToRunner::Ping(number), _)) => {
                link.send(&FromRunner::Pong(number), &[]).map_err(text)?;
            }
            Ok((ToRunner::Become(_), _)) => return Err("an unexpected message".into()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(text(error)),
        }
    }
}

//! Entry of the daemon: picks the process by the first argument.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use jarvis_fs::MountError;

use crate::common::escape;
use crate::config::{Config, ConfigError};
use crate::process::{abort_on_panic, start_logging};
use crate::supervisor::{Arguments, SupervisorError};
use crate::{holder, runner, supervisor, worker};

/// Reason why the daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Unmount(#[from] MountError),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
}

/// Runs the daemon; the exit code is 0 after a stop and 1 after a failure.
#[must_use]
pub fn main() -> ExitCode {
    abort_on_panic();
    let role = std::env::args_os().nth(1);
    match role.as_ref().and_then(|role| role.to_str()) {
        Some("holder") => return holder::main(),
        Some("worker") => return worker::main(),
        Some("runner") => return runner::main(),
        Some("keeper") => return runner::keeper::main(),
        _ => {}
    }
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when this fails too.
            let error = escape::lines(&error.to_string());
            writeln!(io::stderr(), "jarvis-secretsd: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), DaemonError> {
    let config = Config::load(&arguments.config)?;
    if arguments.unmount {
        let path = config.mount.path;
        return match jarvis_fs::answers(&path) {
            Some(true) if jarvis_fs::connection(&path)?.is_some() => {
                Err(MountError::Live(path).into())
            }
            _ => Ok(jarvis_fs::unmount(&path)?),
        };
    }
    config.check_places(&arguments.config)?;
    start_logging(config.logging.level);
    Ok(supervisor::run(config, arguments)?)
}

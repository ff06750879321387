//! The daemon from its command line to its end.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use jarvis_sys::{Cell, SecretPage};
use jarvis_vault::SecretBytes;
use zeroize::Zeroizing;

use crate::config::{Config, Level};
use crate::{runner, supervisor, worker};

/// Longest passphrase line read from standard input, in bytes.
const MAX_PASSPHRASE: u64 = 4096;
/// Most bytes read of a key file: more than one that fits, so that a longer one shows.
const MAX_KEY_FILE: u64 = 4096;

/// Shows secrets as files, each read checked and recorded.
#[derive(Parser)]
#[command(name = "jarvis-secretsd", version)]
pub(crate) struct Arguments {
    /// The configuration, as `jarvisctl init` writes it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Read the vault's passphrase from standard input (one line)
    #[arg(long)]
    pub(crate) passphrase_stdin: bool,
    /// Leave the mount to systemd's fd store when told to stop, and take it from there
    #[arg(long)]
    pub(crate) fd_store: bool,
    /// Take the mount away that a daemon left, and end
    #[arg(long)]
    unmount: bool,
    /// Accept a vault that is older than its audit log (a restored copy); recorded
    #[arg(long)]
    pub(crate) accept_restored_vault: bool,
}

/// Why the daemon did not start: a sentence for a person.
pub(crate) type Failure = String;

pub(crate) fn text(error: impl std::fmt::Display) -> Failure {
    error.to_string()
}

/// Ends the process when a thread panics: a file system that lost one thread
/// looks alive and serves nothing.
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Runs the daemon; the exit code is 0 after a stop and 1 after a failure.
#[must_use]
pub fn main() -> ExitCode {
    abort_on_panic();
    let role = std::env::args_os().nth(1);
    match role.as_ref().and_then(|role| role.to_str()) {
        Some("worker") => return worker::main(),
        Some("runner") => return runner::main(),
        Some("keeper") => return runner::keeper::main(),
        _ => {}
    }
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell when this fails too.
            writeln!(io::stderr(), "jarvis-secretsd: {failure}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = Config::load(&arguments.config).map_err(text)?;
    if arguments.unmount {
        return jarvis_fs::end(&config.mount.path).map_err(text);
    }
    start_logging(config.logging.level);
    supervisor::run(config, arguments)
}

pub(crate) fn start_logging(level: Level) {
    let level = match level {
        Level::Error => tracing::Level::ERROR,
        Level::Warn => tracing::Level::WARN,
        Level::Info => tracing::Level::INFO,
        Level::Debug => tracing::Level::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
}

pub(crate) fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Puts what unlocks the vault where a worker finds it: `k` and a key file's
/// bytes, or `p` and a passphrase.
pub(crate) fn put_credential(
    config: &Config,
    from_stdin: bool,
    keys: &SecretPage,
) -> Result<(), Failure> {
    let (kind, secret) = match (&config.vault.key_file, from_stdin) {
        (Some(path), false) => (b'k', read_key_file(path)?),
        (_, true) => (b'p', read_passphrase(io::stdin().lock())?),
        (None, false) => {
            return Err(
                "the configuration names no [vault] key_file; give the passphrase with --passphrase-stdin"
                    .into(),
            );
        }
    };
    // Reserved at once: growing would leave copies behind.
    let mut tagged = Zeroizing::new(Vec::with_capacity(secret.expose().len() + 1));
    tagged.push(kind);
    tagged.extend_from_slice(secret.expose());
    keys.put(Cell::Credential, &tagged).map_err(text)
}

/// A key file that nobody else can read.
pub(crate) fn read_key_file(path: &Path) -> Result<SecretBytes, Failure> {
    let failed = |error: io::Error| format!("cannot read the key file {}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        let path = path.display();
        return Err(format!(
            "the key file {path} has mode {mode:04o}, others could read it; run: chmod 0600 {path}"
        ));
    }
    // Reserved at once: growing would leave copies behind.
    let mut bytes = Vec::with_capacity(8192);
    file.take(MAX_KEY_FILE)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(SecretBytes::new(bytes))
}

/// One line without its newline.
pub(crate) fn read_passphrase(input: impl Read) -> Result<SecretBytes, Failure> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(8192));
    input
        .take(MAX_PASSPHRASE)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot read the passphrase: {error}"))?;
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    Ok(SecretBytes::new(line.to_vec()))
}

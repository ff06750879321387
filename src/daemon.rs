//! The daemon from its command line to its end.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use clap::Parser;
use jarvis_audit::{Identity, Log, Opening};
use jarvis_fs::{FileSystem, HandleTable, Limits, Mounted, WORDS};
use jarvis_sys::{Locking, SharedWords};
use jarvis_vault::{Credential, LockedVault, Probe, SecretBytes};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use zeroize::Zeroizing;

use crate::config::{Config, Level};
use crate::gate::{Gate, Parts, Settings, load_policy};
use crate::http::{self, Readiness};
use crate::metrics::Metrics;

/// How often deleted secrets whose window is over are looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(3600);
/// Longest passphrase line read from standard input, in bytes.
const MAX_PASSPHRASE: u64 = 4096;
/// Most bytes read of a key file: more than one that fits, so that a longer one shows.
const MAX_KEY_FILE: u64 = 4096;

/// Shows secrets as files, each read checked and recorded.
#[derive(Parser)]
#[command(name = "jarvis-secretsd", version)]
struct Arguments {
    /// The configuration, as `jarvisctl init` writes it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Read the vault's passphrase from standard input (one line)
    #[arg(long)]
    passphrase_stdin: bool,
    /// Accept a vault that is older than its audit log (a restored copy); recorded
    #[arg(long)]
    accept_restored_vault: bool,
}

/// Why the daemon did not start: a sentence for a person.
type Failure = String;

fn text(error: impl std::fmt::Display) -> Failure {
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
    start_logging(config.logging.level);
    protect(&config)?;
    jarvis_fs::check_proc()?;
    let http = start_http(&config)?;
    let credential = credential(&config, arguments.passphrase_stdin)?;
    let policy = load_policy(&config.policy.path).map_err(text)?;
    let identity = Identity::open(&config.audit.identity).map_err(text)?;
    prepare_mount_point(&config.mount.path)?;

    let locked = LockedVault::open(&config.vault.path).map_err(text)?;
    let probe = locked.unlock(&credential).map_err(text)?;
    drop(credential);
    let (audit, recorded) = open_audit(&config, &identity, &probe, arguments)?;
    drop(identity);
    let vault = locked.start(probe).map_err(text)?;

    let gate = Arc::new(Gate::new(Parts {
        vault,
        policy,
        policy_path: config.policy.path.clone(),
        audit,
        handles: Arc::new(handle_table(&config)?),
        metrics: Metrics::new().map_err(text)?,
        settings: Settings::from(&config),
        recorded,
    }));
    let result = serve(&config, &gate, &http);
    http.clear();
    gate.stop();
    result
}

fn start_logging(level: Level) {
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

fn protect(config: &Config) -> Result<(), Failure> {
    match jarvis_sys::harden(config.developer).map_err(text)? {
        Locking::All => {}
        Locking::KeysOnly { limit } => tracing::warn!(
            limit_bytes = limit,
            "developer mode: only keys are locked in memory, values may reach swap"
        ),
    }
    if !root() {
        tracing::warn!(
            "not root: mounting with fusermount3; only this user can enter the mount, so neither \
             other users nor containers can be served"
        );
    }
    Ok(())
}

fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn credential(config: &Config, from_stdin: bool) -> Result<Credential, Failure> {
    match (&config.vault.key_file, from_stdin) {
        (Some(path), false) => read_key_file(path).map(Credential::KeyFile),
        (_, true) => read_passphrase(io::stdin().lock()).map(Credential::Passphrase),
        (None, false) => Err(
            "the configuration names no [vault] key_file; give the passphrase with --passphrase-stdin"
                .into(),
        ),
    }
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

/// Makes the mount point when it is missing and clears a dead mount on it.
fn prepare_mount_point(path: &Path) -> Result<(), Failure> {
    if jarvis_fs::clear_stale(path).map_err(text)? {
        tracing::warn!(path = %path.display(), "cleared the mount of a daemon that died");
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|error| format!("cannot create the mount point {}: {error}", path.display()))
}

/// Opens the log, which writes its start record, unless the vault is older.
fn open_audit(
    config: &Config,
    identity: &Identity,
    probe: &Probe,
    arguments: &Arguments,
) -> Result<(Log, u64), Failure> {
    let tail = Log::inspect(&config.audit.dir).map_err(text)?;
    let recorded = tail.map_or(0, |tail| tail.vault_seq.min(probe.seq()));
    let opening = Opening {
        version: env!("CARGO_PKG_VERSION"),
        // What the log has, not what the vault has: the difference is owed.
        vault_seq: recorded,
        accept_older_vault: arguments.accept_restored_vault,
    };
    let log = Log::open(&config.audit.dir, identity, opening).map_err(text)?;
    Ok((log, recorded))
}

fn handle_table(config: &Config) -> Result<HandleTable, Failure> {
    let words = SharedWords::create("jarvis-handles", WORDS)
        .map_err(|error| format!("cannot create the handle table: {error}"))?;
    let limits = Limits {
        handles: config.mount.handles_per_uid,
        pending: config.mount.pending_opens_per_uid,
    };
    HandleTable::new(words, limits).map_err(text)
}

/// What wakes the main thread.
enum Wake {
    Stop,
    Reload,
    Ended(io::Result<()>),
}

fn serve(config: &Config, gate: &Arc<Gate>, http: &Readiness) -> Result<(), Failure> {
    gate.settle()
        .map_err(|_| "the audit log cannot take the records of the last run".to_owned())?;
    let (wake, woken) = channel();
    watch_signals(wake.clone())?;
    let fs = FileSystem::new(gate.clone(), gate.handles.clone()).map_err(text)?;
    let path = &config.mount.path;
    let mounted = jarvis_fs::mount(fs, path, config.mount.threads, root(), move |result| {
        // The main thread may have left already.
        wake.send(Wake::Ended(result)).ok();
    })
    .map_err(text)?;
    http.set(gate);
    announce(config, gate);
    gate.housekeep();
    let served = wait(gate, &woken);
    unmount(mounted);
    served
}

/// Listens before anything else, so that `/readyz` can say "not yet".
fn start_http(config: &Config) -> Result<Readiness, Failure> {
    let readiness = Readiness::default();
    if config.http.enabled {
        let address = http::start(readiness.clone(), config.http.listen)?;
        tracing::info!(%address, "http");
    }
    Ok(readiness)
}

/// Tells systemd and whoever reads standard output that secrets are served.
fn announce(config: &Config, gate: &Gate) {
    let secrets = gate.vault.counts().secrets;
    let path = config.mount.path.display();
    // Without systemd there is nobody to notify; a closed stdout is fine.
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
    writeln!(io::stdout(), "ready: {secrets} secrets at {path}").ok();
    tracing::info!(secrets, path = %path, "serving");
}

fn watch_signals(wake: Sender<Wake>) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(text)?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                let message = if signal == SIGHUP {
                    Wake::Reload
                } else {
                    Wake::Stop
                };
                if wake.send(message).is_err() {
                    break;
                }
            }
        })
        .map_err(text)?;
    Ok(())
}

fn wait(gate: &Gate, woken: &Receiver<Wake>) -> Result<(), Failure> {
    loop {
        match woken.recv_timeout(HOUSEKEEPING) {
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Ok(Wake::Ended(Ok(()))) => return Err("the mount was taken away".into()),
            Ok(Wake::Ended(Err(error))) => return Err(format!("the mount failed: {error}")),
            Ok(Wake::Reload) => {
                if let Err(error) = gate.reload(None) {
                    tracing::error!(%error, "policy refused, the old one stays");
                }
            }
            Err(RecvTimeoutError::Timeout) => gate.housekeep(),
        }
    }
}

fn unmount(mounted: Mounted) {
    match mounted.end() {
        Ok(()) => tracing::info!("unmounted"),
        Err(error) => tracing::error!(%error, "cannot unmount"),
    }
}

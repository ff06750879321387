//! `doctor`: findings and remedies.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clap::Args;
use jarvis_fs::{MountError, ReaderMounts, Standing};
use jarvis_sys::trust::{self, Rule, TrustError};
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use serde_json::{Value, json};

use super::exit::{CommandError, ErrorCode};
use super::home::{DEFAULT_HOME, HomeDirectory};
use super::http;
use super::output::Output;
use super::running::{self, DaemonPlaces};
use crate::common::policy_file::{LoadError, load_policy};
use crate::config::{Config, ConfigError};
use crate::process::kernel::kernel;
use crate::process::limits::{self, LimitError};
use crate::process::{NoSuchUser, UnfitUser, check_users, is_root};

#[derive(Args)]
pub(super) struct DoctorCommand {
    #[command(flatten)]
    home: HomeDirectory,
}

/// Problem, and what to do about it.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("/dev/fuse: {0}; run: modprobe fuse (in a container: --device /dev/fuse)")]
    NoFuseDevice(io::Error),
    #[error("not root and no fusermount3; install the package fuse3")]
    NoFusermount,
    #[error(
        "at most {limit} bytes; set LimitMEMLOCK=infinity, --ulimit memlock=-1 or `ulimit -l unlimited`, \
         or developer = true in config.toml"
    )]
    LockedMemory { limit: u64 },
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error("{0}")]
    Proc(String),
    #[error("{source}; run: jarvisctl init --dir {dir}")]
    NotInitialised { dir: PathBuf, source: ConfigError },
    #[error(transparent)]
    Config(ConfigError),
    #[error(transparent)]
    Policy(#[from] LoadError),
    #[error(
        "{0}; put it back where it was (while a daemon still has it open: from /proc/PID/fd; else \
         from a backup), or correct the configuration"
    )]
    MissingFile(TrustError),
    #[error(transparent)]
    Distrusted(#[from] TrustError),
    #[error(transparent)]
    User(#[from] NoSuchUser),
    #[error(transparent)]
    UnfitUser(#[from] UnfitUser),
    #[error(transparent)]
    MountPoint(#[from] MountError),
    #[error("cannot read the mount table: {0}")]
    MountTable(io::Error),
    #[error(
        "{path}: {by} hides the secrets; unmount it, or mount the secrets elsewhere ([mount] path)"
    )]
    CoveredMount { path: PathBuf, by: String },
    #[error(
        "{0} is mounted in this mount namespace alone; readers, in that of PID 1, see nothing there"
    )]
    HiddenMount(PathBuf),
    #[error(
        "in the bare mount point {path} lies {names}: programs get that while nothing is mounted. \
         Stop the daemon, run: chattr -i {path}; remove it and what made it (a container that is \
         started before the daemon?)"
    )]
    Beneath { path: PathBuf, names: String },
    #[error("{address}: {says}")]
    NotReady { address: String, says: String },
    #[error("{0} is listened on and nobody answers: no worker serves; look at the daemon's log")]
    SilentPort(String),
    #[error("nobody listens at {0}, but secrets are mounted; look for \"no HTTP port\" in the log")]
    NoHttpPort(String),
    #[error("another program, or another daemon, answers at {0}; end it, or change [http] listen")]
    OtherServer(String),
    #[error("secrets cannot be read: {0}")]
    Unreadable(String),
    #[error("secrets can be read, but not changed: {0}")]
    Unwritable(String),
    #[error("the runner does not answer: no hooks and no notifications")]
    NoRunner,
    #[error("{0} is mounted and dead; starting the daemon clears it")]
    DeadMount(PathBuf),
    #[error(
        "{path} is mounted and nobody answers (connection {connection}): is the daemon being \
         restarted? Who reads there waits. Start it, or give the mount up with \
         jarvis-secretsd --config FILE --unmount"
    )]
    SilentMount { path: PathBuf, connection: u32 },
}

/// Result of looking at one thing.
struct Diagnosis {
    what: &'static str,
    /// Text for people on what is there, or what is wrong.
    verdict: Result<String, Problem>,
}

impl DoctorCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let status = running::status(mount);
        let places = status.as_ref().ok().and_then(DaemonPlaces::in_status);
        let unreachable = |error: &CommandError| error.code() == ErrorCode::Unreachable;
        let is_down = status.as_ref().err().is_some_and(unreachable);
        let config = self.configuration_file(places.as_ref());
        // What the daemon of this configuration mounts, if it can be told.
        let known = Config::load(&config).ok();
        let mount = known.as_ref().map_or(mount, |config| &*config.mount.path);
        let is_developer = known.as_ref().is_some_and(|config| config.developer);
        let diagnoses = [
            ("kernel", Ok(kernel())),
            ("fuse device", fuse_device()),
            ("mounting", mounting()),
            ("locked memory", locked_memory(is_developer)),
            ("limits", limits()),
            ("/proc", proc()),
            ("leases", leases()),
            ("configuration", configuration(&config)),
            ("files", files(&config)),
            ("users", users(&config)),
            ("mount point", mount_point(mount)),
            ("below the mount", below_mount(mount, known.is_some())),
            ("http port", http_port(&config, places.as_ref(), is_down)),
            ("daemon", daemon(status)),
        ]
        .map(|(what, verdict)| Diagnosis { what, verdict });
        let json = diagnoses.iter().map(Diagnosis::json).collect();
        out.show(&json, || diagnoses.iter().map(Diagnosis::line).collect())?;
        let is_bad = |diagnosis: &&Diagnosis| diagnosis.verdict.is_err();
        match diagnoses.iter().filter(is_bad).count() {
            0 => Ok(()),
            bad => {
                let message = format!("{bad} finding(s) to look at");
                Err(CommandError::new(ErrorCode::Other, message))
            }
        }
    }

    /// The running daemon's configuration, or the one in the directory that is named.
    fn configuration_file(&self, running: Option<&DaemonPlaces>) -> PathBuf {
        match (&self.home.dir, running) {
            (Some(dir), _) => dir.join("config.toml"),
            (None, Some(places)) => places.config.clone(),
            (None, None) => Path::new(DEFAULT_HOME).join("config.toml"),
        }
    }
}

fn configuration(path: &Path) -> Result<String, Problem> {
    let config = load_config(path)?;
    config.check_places(path).map_err(Problem::Config)?;
    let policy = load_policy(&config.policy.path)?;
    Ok(format!(
        "{} and a policy of {} clients",
        path.display(),
        policy.clients()
    ))
}

/// Readiness, as the daemon tells it; `running` is what it says of itself, if it does. None
/// answers at all if it `is_down`.
fn http_port(
    config: &Path,
    running: Option<&DaemonPlaces>,
    is_down: bool,
) -> Result<String, Problem> {
    let Ok(config) = Config::load(config) else {
        return Ok("not known without a configuration".into());
    };
    if !config.http.enabled {
        return Ok("off".into());
    }
    let listen = config.http.listen;
    let address = running.and_then(|places| places.http.clone());
    // Whoever answers where the daemon says that it does not listen is somebody else.
    let is_its_own = address.is_some() || (running.is_none() && !is_down);
    if address.is_none() && listen.port() == 0 {
        return Ok("any free one, as the log tells".into());
    }
    let address = address.unwrap_or_else(|| listen.to_string());
    let reply = match http::get(&format!("http://{address}"), "/readyz") {
        Ok(reply) => reply,
        Err(error) if error.is_refusal() && running.is_some() => {
            return Err(Problem::NoHttpPort(address));
        }
        Err(error) if error.is_refusal() => {
            return Ok(format!("nobody listens at {address}: no daemon runs"));
        }
        Err(_) if is_its_own => return Err(Problem::SilentPort(address)),
        Err(_) => return Err(Problem::OtherServer(address)),
    };
    let says = reply.body.trim().to_owned();
    match reply.code {
        _ if !is_its_own => Err(Problem::OtherServer(address)),
        200 if says == "ready" => Ok(format!("{address}: {says}")),
        503 if says.starts_with("not ready") => Err(Problem::NotReady { address, says }),
        _ => Err(Problem::OtherServer(address)),
    }
}

/// State of the daemon by its own words, if it may be asked.
fn daemon(status: Result<Value, CommandError>) -> Result<String, Problem> {
    let status = match status {
        Ok(status) => status,
        Err(error) => return Ok(format!("not asked: {error}")),
    };
    let said = |key: &str| status.get(key).and_then(Value::as_str).map(str::to_owned);
    let troubles = status.get("troubles").and_then(Value::as_object);
    if let Some(troubles) = troubles.filter(|troubles| !troubles.is_empty()) {
        let troubles = troubles.iter().map(|(kind, why)| match why {
            Value::String(why) => format!("{kind}: {why}"),
            other => format!("{kind}: {other}"),
        });
        return Err(Problem::Unreadable(troubles.collect::<Vec<_>>().join("; ")));
    }
    if status.get("vault_writable") == Some(&Value::Bool(false)) {
        return Err(Problem::Unwritable(
            said("vault_problem").unwrap_or_default(),
        ));
    }
    if status.get("runner") == Some(&Value::Bool(false)) {
        return Err(Problem::NoRunner);
    }
    Ok(format!(
        "version {} serves",
        said("version").unwrap_or_default()
    ))
}

/// Users as whom the processes without privilege run.
fn users(config: &Path) -> Result<String, Problem> {
    if !is_root() {
        return Ok("not root: all processes run as you".into());
    }
    let worker = load_config(config)?.worker;
    let uid = |name: &String| match nix::unistd::User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => Err(NoSuchUser(name.clone())),
    };
    check_users(Some(uid(&worker.user)?), Some(uid(&worker.runner_user)?))?;
    Ok(format!("{} and {}", worker.user, worker.runner_user))
}

/// Files and directories that the daemon uses, and the way there.
fn files(config: &Path) -> Result<String, Problem> {
    let config = load_config(config)?;
    let user = nix::unistd::User::from_name(&config.worker.user);
    let owned = |rule: Rule| match &user {
        Ok(Some(user)) if is_root() => rule.or_owned_by(user.uid.as_raw()),
        _ => rule,
    };
    let path = &config.vault.path;
    let directory = path.parent().unwrap_or(Path::new("."));
    let vault = look(directory, owned(Rule::PRIVATE_DIRECTORY))?;
    let name = path.file_name().unwrap_or_default();
    found(trust::locate_in(
        vault,
        directory,
        name,
        owned(Rule::PRIVATE_FILE),
    ))?;
    let needed = [
        (config.vault.key_file.as_deref(), Rule::PRIVATE_FILE),
        (Some(&*config.audit.dir), owned(Rule::PRIVATE_DIRECTORY)),
        (Some(&*config.audit.identity), Rule::PRIVATE_FILE),
        (config.audit.checkpoints.as_deref(), Rule::DIRECTORY),
        (config.hooks.dir.as_deref(), Rule::DIRECTORY),
    ];
    for (path, rule) in needed {
        if let Some(path) = path {
            look(path, rule)?;
        }
    }
    for notify in &config.notify {
        if let Some(path) = &notify.command {
            look(path, Rule::INSTALLED_FILE)?;
        }
        if let Some(path) = &notify.secret_file {
            look(path, Rule::PRIVATE_FILE)?;
        }
    }
    Ok("for nobody else to read or change".into())
}

fn look(path: &Path, rule: Rule) -> Result<OwnedFd, Problem> {
    found(trust::locate(path, rule))
}

fn found(located: Result<OwnedFd, TrustError>) -> Result<OwnedFd, Problem> {
    located.map_err(|error| match error {
        error if error.is_missing() => Problem::MissingFile(error),
        error => error.into(),
    })
}

impl Diagnosis {
    fn json(&self) -> Value {
        let finding = match &self.verdict {
            Ok(text) => text.clone(),
            Err(problem) => problem.to_string(),
        };
        json!({"what": self.what, "ok": self.verdict.is_ok(), "finding": finding})
    }

    fn line(&self) -> String {
        match &self.verdict {
            Ok(text) => format!("ok    {}: {text}\n", self.what),
            Err(problem) => format!("LOOK  {}: {problem}\n", self.what),
        }
    }
}

fn load_config(path: &Path) -> Result<Config, Problem> {
    Config::load(path).map_err(|error| match error {
        ConfigError::Distrusted(distrust) if !distrust.is_missing() => distrust.into(),
        ConfigError::Distrusted(_) => Problem::NotInitialised {
            dir: path.parent().unwrap_or(Path::new("/")).to_owned(),
            source: error,
        },
        error => Problem::Config(error),
    })
}

fn fuse_device() -> Result<String, Problem> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    device.map_err(Problem::NoFuseDevice)?;
    Ok("/dev/fuse can be opened".into())
}

fn mounting() -> Result<String, Problem> {
    if is_root() {
        return Ok("as root, for every user".into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join("fusermount3").exists()) {
        return Err(Problem::NoFusermount);
    }
    Ok("with fusermount3, for you alone".into())
}

fn locked_memory(is_developer: bool) -> Result<String, Problem> {
    let capable = capabilities(None).is_ok_and(|c| c.effective.contains(CapabilitySet::IPC_LOCK));
    match getrlimit(Resource::Memlock).current {
        _ if capable => Ok("without limit (CAP_IPC_LOCK)".into()),
        None => Ok("without limit".into()),
        Some(limit) if is_developer => Ok(format!(
            "at most {limit} bytes: values may reach swap, which developer = true accepts"
        )),
        Some(limit) => Err(Problem::LockedMemory { limit }),
    }
}

/// The limits of whoever asks: the daemon may have others.
fn limits() -> Result<String, Problem> {
    limits::check()?;
    if is_root() {
        limits::check_kill()?;
    }
    Ok("none on the size of files, and enough processes".into())
}

fn proc() -> Result<String, Problem> {
    jarvis_fs::check_proc().map_err(|error| Problem::Proc(error.to_string()))?;
    match jarvis_fs::in_own_pid_namespace() {
        Ok(true) => Ok(
            "shows every process of this pid namespace; callers outside of it are \
             refused"
                .into(),
        ),
        Ok(false) | Err(_) => Ok("shows every process".into()),
    }
}

/// Whether a file's owner, as whom each reader of a secret is shown, may take leases.
fn leases() -> Result<String, Problem> {
    let enabled = fs::read_to_string("/proc/sys/fs/leases-enable");
    Ok(match enabled.as_deref().map(str::trim) {
        Ok("0") => "off: no reader can have others wait",
        _ => {
            "on: who may read a secret can have its next reader wait for a while; if you don't \
             trust them in that, set fs.leases-enable=0 (systemd/jarvis.sysctl.conf)"
        }
    }
    .into())
}

/// Mounts where readers stand.
fn mounts() -> Result<ReaderMounts, Problem> {
    ReaderMounts::open(false).map_err(Problem::MountTable)
}

fn mount_point(mount: &Path) -> Result<String, Problem> {
    let path = mount.to_owned();
    let connection = match mounts()?.find(mount)? {
        Some((connection, Standing::OnTop)) => connection,
        Some((_, Standing::Covered(by))) => return Err(Problem::CoveredMount { path, by }),
        Some((_, Standing::Absent)) | None if jarvis_fs::connection(mount)?.is_some() => {
            return Err(Problem::HiddenMount(path));
        }
        Some((_, Standing::Absent)) | None => {
            return Ok(format!("nothing is mounted on {}", mount.display()));
        }
    };
    match jarvis_fs::answers(mount) {
        Some(true) => Ok(format!(
            "{} is served (connection {connection})",
            mount.display()
        )),
        Some(false) => Err(Problem::DeadMount(path)),
        None => Err(Problem::SilentMount { path, connection }),
    }
}

/// Names of what lies below the mount; `is_known` if a configuration says that secrets are mounted there.
fn below_mount(mount: &Path, is_known: bool) -> Result<String, Problem> {
    if !is_known && jarvis_fs::connection(mount)?.is_none() {
        return Ok("not looked at: no secrets are mounted there".into());
    }
    match jarvis_fs::beneath(mount) {
        Ok(names) if names.is_empty() => Ok("nothing is hidden".into()),
        Ok(names) => Err(Problem::Beneath {
            path: mount.to_owned(),
            names: names.join(", "),
        }),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Ok("only root can look".into())
        }
        Err(source) => {
            let path = mount.to_owned();
            Err(MountError::MountPoint { path, source }.into())
        }
    }
}

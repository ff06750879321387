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
use super::home::HomeDirectory;
use super::http;

use super::output::Output;
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
    #[error("{0}; run: jarvisctl init")]
    NotInitialised(ConfigError),
    #[error(transparent)]
    Config(ConfigError),
    #[error(transparent)]
    Policy(#[from] LoadError),
    #[error("{0}; run: jarvisctl init")]
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
    #[error("another program answers at {0}; end it, or change [http] listen")]
    OtherServer(String),
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
        let diagnoses = [
            ("kernel", Ok(kernel())),
            ("fuse device", fuse_device()),
            ("mounting", mounting()),
            ("locked memory", locked_memory()),
            ("limits", limits()),
            ("/proc", proc()),
            ("leases", leases()),
            ("configuration", self.configuration()),
            ("files", self.files()),
            ("users", self.users()),
            ("mount point", mount_point(mount)),
            ("below the mount", below_mount(mount)),
            ("http port", self.http_port(mount)),
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

    fn configuration(&self) -> Result<String, Problem> {
        let path = self.home.dir.join("config.toml");
        let config = load_config(&path)?;
        config.check_places(&path).map_err(Problem::Config)?;
        let policy = load_policy(&config.policy.path)?;
        Ok(format!(
            "{} and a policy of {} clients",
            path.display(),
            policy.clients()
        ))
    }

    /// Readiness, as the daemon tells it.
    fn http_port(&self, mount: &Path) -> Result<String, Problem> {
        let Ok(config) = Config::load(&self.home.dir.join("config.toml")) else {
            return Ok("not known without a configuration".into());
        };
        if !config.http.enabled {
            return Ok("off".into());
        }
        if config.http.listen.port() == 0 {
            return Ok("any free one, as the log tells".into());
        }
        let address = config.http.listen.to_string();
        let reply = match http::get(&format!("http://{address}"), "/readyz") {
            Ok(reply) => reply,
            Err(error) if error.is_refusal() => {
                return match mounts()?.find(mount)? {
                    Some(_) => Err(Problem::NoHttpPort(address)),
                    None => Ok(format!("nobody listens at {address}: no daemon runs")),
                };
            }
            Err(_) => return Err(Problem::SilentPort(address)),
        };
        let says = reply.body.trim().to_owned();
        match reply.code {
            200 if says == "ready" => Ok(format!("{address}: {says}")),
            503 if says.starts_with("not ready") => Err(Problem::NotReady { address, says }),
            _ => Err(Problem::OtherServer(address)),
        }
    }

    /// Users as whom the processes without privilege run.
    fn users(&self) -> Result<String, Problem> {
        if !is_root() {
            return Ok("not root: all processes run as you".into());
        }
        let path = self.home.dir.join("config.toml");
        let worker = load_config(&path)?.worker;
        let uid = |name: &String| match nix::unistd::User::from_name(name) {
            Ok(Some(user)) => Ok(user.uid.as_raw()),
            _ => Err(NoSuchUser(name.clone())),
        };
        check_users(Some(uid(&worker.user)?), Some(uid(&worker.runner_user)?))?;
        Ok(format!("{} and {}", worker.user, worker.runner_user))
    }

    /// Files and directories that the daemon uses, and the way there.
    fn files(&self) -> Result<String, Problem> {
        let config = load_config(&self.home.dir.join("config.toml"))?;
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
        ConfigError::Distrusted(_) => Problem::NotInitialised(error),
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

fn locked_memory() -> Result<String, Problem> {
    let capable = capabilities(None).is_ok_and(|c| c.effective.contains(CapabilitySet::IPC_LOCK));
    match getrlimit(Resource::Memlock).current {
        _ if capable => Ok("without limit (CAP_IPC_LOCK)".into()),
        None => Ok("without limit".into()),
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

fn below_mount(mount: &Path) -> Result<String, Problem> {
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

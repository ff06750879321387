//! `doctor`: findings and remedies.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clap::Args;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use serde_json::{Value, json};

use super::exit::{Code, Failure};
use super::home::Home;
use super::output::Output;
use crate::common::policy_file::load_policy;
use crate::config::Config;
use crate::process::NoSuchUser;

/// The first kernel that sends requests again to a new daemon.
const RESEND: (u32, u32) = (6, 9);

#[derive(Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    home: Home,
}

/// One thing that was looked at.
struct Finding {
    what: &'static str,
    /// What is there, or what is wrong and what to do.
    verdict: Result<String, String>,
}

impl Doctor {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), Failure> {
        let findings = [
            ("kernel", kernel()),
            ("fuse device", fuse_device()),
            ("mounting", mounting()),
            ("locked memory", locked_memory()),
            (
                "/proc",
                jarvis_fs::check_proc()
                    .map(|()| "shows every process".into())
                    .map_err(|error| error.to_string()),
            ),
            ("configuration", self.configuration()),
            ("files", self.files()),
            ("users", self.users()),
            ("mount point", mount_point(mount)),
        ]
        .map(|(what, verdict)| Finding { what, verdict });
        let json = findings.iter().map(Finding::json).collect();
        out.show(&json, || findings.iter().map(Finding::line).collect())?;
        match findings
            .iter()
            .filter(|finding| finding.verdict.is_err())
            .count()
        {
            0 => Ok(()),
            bad => Err(Failure::new(
                Code::Other,
                format!("{bad} finding(s) to look at"),
            )),
        }
    }

    fn configuration(&self) -> Result<String, String> {
        let path = self.home.dir.join("config.toml");
        let config =
            Config::load(&path).map_err(|error| format!("{error}; run: jarvisctl init"))?;
        let policy = load_policy(&config.policy.path).map_err(|error| error.to_string())?;
        Ok(format!(
            "{} and a policy of {} clients",
            path.display(),
            policy.clients()
        ))
    }

    /// Who the processes without privilege run as.
    fn users(&self) -> Result<String, String> {
        if !nix::unistd::geteuid().is_root() {
            return Ok("not root: all processes run as you".into());
        }
        let config = Config::load(&self.home.dir.join("config.toml")).map_err(|e| e.to_string())?;
        for name in [&config.worker.user, &config.worker.runner_user] {
            match nix::unistd::User::from_name(name) {
                Ok(Some(_)) => {}
                _ => return Err(NoSuchUser(name.clone()).to_string()),
            }
        }
        Ok(format!(
            "{} and {}",
            config.worker.user, config.worker.runner_user
        ))
    }

    fn files(&self) -> Result<String, String> {
        let private = [
            ("", 0o700),
            ("vault", 0o700),
            ("audit", 0o700),
            ("identity.key", 0o600),
        ];
        for (part, want) in private {
            let path = self.home.dir.join(part);
            let mode = fs::metadata(&path)
                .map_err(|error| format!("{}: {error}; run: jarvisctl init", path.display()))?
                .mode()
                & 0o7777;
            if mode & !want != 0 {
                let path = path.display();
                return Err(format!(
                    "{path} has mode {mode:04o}; run: chmod {want:04o} {path}"
                ));
            }
        }
        Ok("for nobody else to read".into())
    }
}

impl Finding {
    fn json(&self) -> Value {
        let (ok, text) = match &self.verdict {
            Ok(text) => (true, text),
            Err(text) => (false, text),
        };
        json!({"what": self.what, "ok": ok, "finding": text})
    }

    fn line(&self) -> String {
        match &self.verdict {
            Ok(text) => format!("ok    {}: {text}\n", self.what),
            Err(text) => format!("LOOK  {}: {text}\n", self.what),
        }
    }
}

fn kernel() -> Result<String, String> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= RESEND {
        return Ok(release);
    }
    Err(format!(
        "{release} is older than 6.9: a restart of the daemon will break open handles; update the kernel"
    ))
}

fn fuse_device() -> Result<String, String> {
    match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok("/dev/fuse can be opened".into()),
        Err(error) => Err(format!(
            "/dev/fuse: {error}; run: modprobe fuse (in a container: --device /dev/fuse)"
        )),
    }
}

fn mounting() -> Result<String, String> {
    if nix::unistd::geteuid().is_root() {
        return Ok("as root, for every user".into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join("fusermount3").exists());
    match found {
        true => Ok("with fusermount3, for you alone".into()),
        false => Err("not root and no fusermount3; install the package fuse3".into()),
    }
}

fn locked_memory() -> Result<String, String> {
    let capable = capabilities(None).is_ok_and(|c| c.effective.contains(CapabilitySet::IPC_LOCK));
    match getrlimit(Resource::Memlock).current {
        _ if capable => Ok("without limit (CAP_IPC_LOCK)".into()),
        None => Ok("without limit".into()),
        Some(limit) => Err(format!(
            "at most {limit} bytes; set LimitMEMLOCK=infinity, --ulimit memlock=-1 or `ulimit -l unlimited`, \
             or developer = true in config.toml"
        )),
    }
}

fn mount_point(mount: &Path) -> Result<String, String> {
    match jarvis_fs::connection(mount) {
        Err(error) => Err(error.to_string()),
        Ok(None) => Ok(format!("nothing is mounted on {}", mount.display())),
        Ok(Some(number)) => match jarvis_fs::answers(mount) {
            Some(true) => Ok(format!(
                "{} is served (connection {number})",
                mount.display()
            )),
            Some(false) => Err(format!(
                "{} is mounted and dead; starting the daemon clears it",
                mount.display()
            )),
            None => Err(format!(
                "{} is mounted and nobody answers (connection {number}): is the daemon being \
                 restarted? Who reads there waits. Start it, or give the mount up with \
                 jarvis-secretsd --config FILE --unmount",
                mount.display()
            )),
        },
    }
}

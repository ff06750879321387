//! A runner in a temporary directory, and what a worker has to talk to it.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jarvis_audit::{Certify, Identity};
use jarvis_secretsd::config::{Config, EventKind};
use jarvis_secretsd::testing::{HookError, HookName, HookPhase, HookSubject, Runner, RunnerClient};
use prometheus::{IntCounterVec, Opts};
use rustix::fs::Mode;

use crate::harness::*;

pub(crate) const ABOUT: HookSubject<'_> = HookSubject {
    name: "app/db",
    version: 2,
    kid: "db-20260101-000000",
};

const BASE: &str = "[mount]\npath = \"m\"\n[vault]\npath = \"v\"\nkey_file = \"k\"\n\
    [policy]\npath = \"p\"\n[audit]\ndir = \"a\"\nidentity = \"i\"\n";

pub(crate) struct RunnerFixture {
    dir: tempfile::TempDir,
    pub(crate) config: Config,
    pub(crate) errands: RunnerClient,
    pub(crate) counts: IntCounterVec,
    runner: Option<Runner>,
}

impl RunnerFixture {
    /// With `extra` in the configuration, where `@` is this directory.
    pub(crate) fn new(extra: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("jarvis-runner-")
            .tempdir()
            .unwrap();
        // As closed as a real one: the runner's user has to get there by fd.
        let at = |part: &str| dir.path().join(part);
        for (part, mode) in [("etc", 0o700), ("etc/hooks", 0o755), ("out", 0o755)] {
            fs::create_dir(at(part)).unwrap();
            fs::set_permissions(at(part), Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let owner = user("jarvis-runner");
        chown(at("out"), Some(owner.uid), Some(owner.gid)).unwrap();
        let text = format!("{BASE}{}", extra.replace('@', dir.path().to_str().unwrap()));
        fs::write(at("etc/config.toml"), text).unwrap();
        let config = Config::load(&at("etc/config.toml")).unwrap();
        Identity::create(&at("id"), &at("id.pub")).unwrap();
        let counts = IntCounterVec::new(Opts::new("n", "n"), &["kind", "result"]).unwrap();
        Self {
            errands: errands(&config, &counts),
            dir,
            config,
            counts,
            runner: None,
        }
    }

    /// With hooks that may take `seconds`.
    pub(crate) fn with_hooks(seconds: u32) -> Self {
        let mut fixture = Self::new(&hooks(seconds));
        fixture.spawn_runner();
        fixture
    }

    /// A new runner, which knows of its worker.
    pub(crate) fn spawn_runner(&mut self) {
        self.spawn_idle_runner();
        let socket = self.runner().link().try_clone_to_owned().unwrap();
        self.errands.connect(socket);
    }

    /// A new runner that no worker has spoken to.
    pub(crate) fn spawn_idle_runner(&mut self) {
        self.runner = None;
        let user = user("jarvis-runner");
        let host = Identity::open(&self.path("id")).unwrap().host();
        let program = Path::new(env!("CARGO_BIN_EXE_jarvis-secretsd"));
        let runner = Runner::spawn(program, Some((user.uid, user.gid)), &self.config, &host);
        self.runner = Some(runner.unwrap_or_else(|error| panic!("{error}")));
    }

    pub(crate) fn runner(&self) -> &Runner {
        self.runner.as_ref().unwrap()
    }

    pub(crate) fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join(part)
    }

    /// A file that the runner's user may write.
    pub(crate) fn out(&self, name: &str) -> PathBuf {
        self.path("out").join(name)
    }

    /// A program of root's in `etc/hooks`, where `OUT` is the directory for output.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path("etc/hooks").join(name);
        let text = text.replace("OUT", self.path("out").to_str().unwrap());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A pipe that programs can open by its name.
    pub(crate) fn fifo(&self, name: &str) -> PathBuf {
        let path = self.out(name);
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        path
    }

    pub(crate) fn run(&self, hook: &str, phase: HookPhase, new: &[u8]) -> Result<(), HookError> {
        let hook = HookName::new(hook).unwrap();
        self.errands.hook(&hook, phase, &ABOUT, None, new)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.out(name)).unwrap()
    }

    pub(crate) fn count(&self, kind: EventKind, result: &str) -> u64 {
        self.counts
            .with_label_values(&[kind.as_str(), result])
            .get()
    }
}

/// Configuration of hooks that may take `seconds`.
pub(crate) fn hooks(seconds: u32) -> String {
    format!("[hooks]\ndir = \"hooks\"\ntimeout_secs = {seconds}\n")
}

pub(crate) fn errands(config: &Config, counts: &IntCounterVec) -> RunnerClient {
    RunnerClient::new(
        Duration::from_secs(config.hooks.timeout_secs.into()),
        config
            .notify
            .iter()
            .flat_map(|n| n.events.clone())
            .collect(),
        counts.clone(),
    )
}

/// What the other end of a fifo says first.
pub(crate) fn hear(fifo: &Path) -> String {
    let mut text = String::new();
    File::open(fifo).unwrap().read_to_string(&mut text).unwrap();
    text.trim().to_owned()
}

/// Lets whoever reads the fifo go on.
pub(crate) fn release(fifo: &Path) {
    fs::OpenOptions::new().write(true).open(fifo).unwrap();
}

//! The process that has the mount and no secret.
//!
//! It mounts, keeps the device, starts workers and puts one in another's place.
//! It reads nothing that a client wrote. What a worker can ask of it is
//! [`FromWorker`], and no more: a certificate for one epoch key, the policy's
//! text, and its own replacement; at another socket, which [`programs`] answers,
//! what program a thread runs.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jarvis_audit::{Certify, Identity};
use jarvis_fs::Device;
use jarvis_sys::{Cell, Locking, SecretPage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Gid, MemfdFlags, Uid, chownat, memfd_create};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};

use crate::common::policy_file::policy_text;
use crate::config::Config;
use crate::ipc::worker::{FromWorker, Open, Start, SupervisorStats, ToWorker};
use crate::ipc::{Signature, short};
use crate::process::credential::put_credential;
use crate::process::signals::SignalSocket;
use crate::process::{Failure, is_root, text};

mod arguments;
mod backoff;
mod checkpoints;
mod programs;
mod tables;
mod worker;

pub(crate) use arguments::Arguments;
use backoff::Backoff;
use checkpoints::Witness;
use tables::Estate;
pub use worker::Runner;
use worker::{Death, Phase, Worker};

/// How often a worker has to show that it lives.
const PING: Duration = Duration::from_millis(500);
/// A worker that is silent for this long is replaced.
const SILENCE: Duration = Duration::from_secs(3);
/// A worker that takes longer to open and attach is replaced.
const ATTACH: Duration = Duration::from_secs(20);
/// When nobody could serve for this long, waiting clients get an error.
const OUTAGE: Duration = Duration::from_secs(30);
/// How long an orderly end may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// A sentence for a person.
pub(crate) fn run(config: Config, arguments: &Arguments) -> Result<(), SupervisorError> {
    start(config, arguments).map_err(SupervisorError)
}

/// Reason why the supervisor ended.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SupervisorError(String);

fn start(config: Config, arguments: &Arguments) -> Result<(), Failure> {
    protect(&config)?;
    if let Err(error) = jarvis_sys::keep_fds_from_children() {
        tracing::warn!(%error, "fds that the daemon inherited stay open in its workers");
    }
    jarvis_fs::check_proc().map_err(text)?;
    let left = match arguments.fd_store {
        true => recover(&config.mount.path)?,
        false => None,
    };
    let listener = listen(&config)?;
    worker::open_for_runner(&config)?;
    let identity = Identity::open(&config.audit.identity).map_err(text)?;
    let user = account(&config, &config.worker.user)?;
    let runner_user = account(&config, &config.worker.runner_user)?;
    let vault = config.vault.path.file_name().and_then(OsStr::to_str);
    let vault_dir = config.vault.path.parent().unwrap_or(Path::new("."));
    let directories = [
        give(&config, vault_dir, user, |name| Some(name) == vault)?,
        give(&config, &config.audit.dir, user, of_the_log)?,
    ];
    let (estate, device) = match left {
        Some((estate, fd)) => match Device::adopt(&config.mount.path, fd).map_err(text)? {
            Some(device) if config.mount.keep => (estate, Some(device)),
            device => {
                // It was taken away meanwhile, or is not to be kept any more.
                Estate::withdraw();
                device.map_or(Ok(()), Device::unmount).map_err(text)?;
                (Estate::new(estate.keys)?, None)
            }
        },
        None => (Estate::new(SecretPage::create().map_err(text)?)?, None),
    };
    // An edited policy is in force once it is loaded, not because we were restarted.
    let policy = match device {
        Some(_) => estate.policy()?,
        None => policy_text(&config.policy.path).map_err(text)?,
    };
    if policy_text(&config.policy.path).is_ok_and(|edited| edited != policy) {
        tracing::warn!("the policy was edited and is not loaded yet; run: jarvisctl policy reload");
    }
    estate.set_policy(&policy)?;
    let witness = config.audit.checkpoints.clone().map(Witness::start);
    let witness = witness.transpose().map_err(text)?;
    let mut supervisor = Supervisor {
        executable: Some(File::open("/proc/self/exe").map_err(text)?),
        previous: None,
        program: std::env::current_exe().map_err(text)?,
        adopted: device.is_some(),
        device,
        estate,
        identity,
        user,
        directories,
        listener,
        policy,
        offered: None,
        witness,
        config,
        accept_restored: arguments.accept_restored_vault,
        fd_store: arguments.fd_store,
        active: None,
        standby: None,
        runner: None,
        runner_user,
        facts: SupervisorStats::default(),
        secrets: 0,
        upgrading: false,
        fresh: true,
        announced: false,
        outage: Instant::now(),
        last: None,
        backoff: Backoff::new(),
        standby_backoff: Backoff::new(),
        runner_backoff: Backoff::new(),
        reload_pending: false,
        stopping: None,
        watchdog: sd_notify::watchdog_enabled(),
        beaten: None,
    };
    // It says "not yet" over HTTP while a person types the passphrase.
    supervisor.active = Some(supervisor.hire(true)?);
    let Supervisor { config, estate, .. } = &supervisor;
    if estate.keys.get(Cell::RootKey).is_none() {
        put_credential(config, arguments.passphrase_stdin, &estate.keys).map_err(text)?;
    }
    if supervisor.device.is_none() {
        prepare_mount_point(&config.mount.path)?;
    }
    // Until here a signal ends the process, also one that waits for a passphrase.
    let signals = Signals::watch()?;
    supervisor.supervise(&signals)
}

/// What an earlier supervisor left; what can't be used is given up.
fn recover(path: &Path) -> Result<Option<(Estate, OwnedFd)>, Failure> {
    match Estate::recover() {
        Ok(left) => Ok(left),
        Err(why) => {
            tracing::error!(%why, "the mount in the fd store cannot be taken over: mounting anew");
            Estate::withdraw();
            jarvis_fs::unmount(path).map_err(text)?;
            Ok(None)
        }
    }
}

/// The signals that the supervisor acts on.
struct Signals {
    stop: SignalSocket,
    reload: SignalSocket,
    upgrade: SignalSocket,
}

impl Signals {
    fn watch() -> Result<Self, Failure> {
        let register = |signals: &[i32]| SignalSocket::register(signals).map_err(text);
        Ok(Self {
            stop: register(&[SIGTERM, SIGINT])?,
            reload: register(&[SIGHUP])?,
            upgrade: register(&[SIGUSR2])?,
        })
    }
}

fn protect(config: &Config) -> Result<(), Failure> {
    if let Locking::KeysOnly { .. } = jarvis_sys::harden(config.developer).map_err(text)? {
        tracing::warn!("developer mode: the supervisor's memory is not locked");
    }
    if !is_root() {
        tracing::warn!(
            "not root: mounting with fusermount3; only this user can enter the mount, so neither \
             other users nor containers can be served"
        );
    }
    Ok(())
}

/// Listens before anything else, so that `/readyz` can say "not yet".
fn listen(config: &Config) -> Result<Option<TcpListener>, Failure> {
    if !config.http.enabled {
        return Ok(None);
    }
    let address = config.http.listen;
    let listener = TcpListener::bind(address).map_err(|error| {
        format!("cannot listen on {address} ({error}); change [http] listen or set enabled = false")
    })?;
    let address = listener.local_addr().map_err(text)?;
    tracing::info!(%address, "http");
    Ok(Some(listener))
}

/// Uid and gid for a child; `None` when it stays what the supervisor is.
fn account(config: &Config, name: &str) -> Result<Option<(u32, u32)>, Failure> {
    if !is_root() {
        return Ok(None);
    }
    match nix::unistd::User::from_name(name).map_err(text)? {
        Some(user) => Ok(Some((user.uid.as_raw(), user.gid.as_raw()))),
        None if config.developer => {
            tracing::warn!(user = %name, "no such user: a process stays root, without capabilities");
            Ok(None)
        }
        None => Err(no_such_user(name)),
    }
}

/// What to do about a missing account.
pub(crate) fn no_such_user(name: &str) -> Failure {
    format!(
        "there is no user `{name}`, as [worker] names it; run: useradd --system --user-group \
         --no-create-home --shell /usr/sbin/nologin {name}"
    )
}

/// Opens `directory`, which is for the worker alone, and gives it with the files
/// in it that are `meant` to the worker's user.
fn give(
    config: &Config,
    directory: &Path,
    user: Option<(u32, u32)>,
    meant: impl Fn(&str) -> bool,
) -> Result<OwnedFd, Failure> {
    let shown = directory.display();
    let failed = |error: io::Error| format!("cannot use {shown}: {error}");
    let handle = File::open(directory).map_err(failed)?;
    let Some((uid, gid)) = user else {
        return Ok(handle.into());
    };
    let metadata = handle.metadata().map_err(failed)?;
    let mode = metadata.mode() & 0o777;
    if !metadata.is_dir() || mode & 0o077 != 0 {
        return Err(format!(
            "{shown} has mode {mode:04o}, it must not be wider than 0700; run: chmod 0700 {shown}"
        ));
    }
    if metadata.uid() != 0 && metadata.uid() != uid {
        let owner = metadata.uid();
        return Err(format!(
            "{shown} belongs to uid {owner}, neither to root nor to the worker"
        ));
    }
    // What the worker may not have must not lie where it may do as it likes.
    let inside = directory.canonicalize().map_err(failed)?;
    let private = [
        Some(&config.policy.path),
        Some(&config.audit.identity),
        config.vault.key_file.as_ref(),
        config.audit.checkpoints.as_ref(),
    ];
    for path in private.into_iter().flatten() {
        if path
            .canonicalize()
            .is_ok_and(|path| path.starts_with(&inside))
        {
            let path = path.display();
            return Err(format!(
                "{path} lies in {shown}, which is for the worker alone; move one of them"
            ));
        }
    }
    let give = |name: &str, flags| {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(&handle, name, uid, gid, flags).map_err(|e| failed(e.into()))
    };
    give("", AtFlags::EMPTY_PATH)?;
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if let Some(name) = name.to_str().filter(|name| meant(name)) {
            give(name, AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(handle.into())
}

/// Segments of the audit log, and what was set aside of them.
fn of_the_log(name: &str) -> bool {
    name.ends_with(".jsonl") || name.starts_with("torn-")
}

/// Makes the mount point when it is missing and clears a dead mount on it.
fn prepare_mount_point(path: &Path) -> Result<(), Failure> {
    if jarvis_fs::clear_stale(path).map_err(text)? {
        tracing::warn!(path = %path.display(), "cleared the mount of a daemon that died");
    }
    let failed =
        |error: io::Error| format!("cannot create the mount point {}: {error}", path.display());
    let missing: Vec<_> = path.ancestors().take_while(|part| !part.exists()).collect();
    for directory in missing.into_iter().rev() {
        std::fs::create_dir(directory).map_err(failed)?;
        // Whatever the umask: everybody who may read has to get there.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory, open).map_err(failed)?;
    }
    Ok(())
}

/// `text` in a file without a name: each reader gets its own.
fn nameless(text: &str) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("jarvis-policy", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

struct Supervisor {
    config: Config,
    /// Where the program is, for an upgrade.
    program: PathBuf,
    /// What workers are started from, and while a new one is tried, the old one.
    executable: Option<File>,
    previous: Option<File>,
    identity: Identity,
    user: Option<(u32, u32)>,
    directories: [OwnedFd; 2],
    listener: Option<TcpListener>,
    estate: Estate,
    device: Option<Device>,
    /// The device was left by an earlier supervisor.
    adopted: bool,
    /// The policy in force, and the one last given to a worker that asked.
    policy: String,
    offered: Option<String>,
    /// Keeps checkpoints of the audit log.
    witness: Option<Witness>,
    accept_restored: bool,
    fd_store: bool,
    active: Option<Worker>,
    standby: Option<Worker>,
    runner: Option<Runner>,
    runner_user: Option<(u32, u32)>,
    facts: SupervisorStats,
    /// Secrets in the vault when it was last opened.
    secrets: u64,
    /// The standby is a new build, for which the active worker retires.
    upgrading: bool,
    /// Nobody has had the vault open yet.
    fresh: bool,
    announced: bool,
    /// When serving ended.
    outage: Instant,
    /// How the last worker ended.
    last: Option<(Death, String)>,
    /// When the next active worker, standby and runner may be started.
    backoff: Backoff,
    standby_backoff: Backoff,
    runner_backoff: Backoff,
    /// A SIGHUP that no worker has acted on.
    reload_pending: bool,
    stopping: Option<Instant>,
    /// How long systemd waits for a sign of life, and the last one.
    watchdog: Option<Duration>,
    beaten: Option<Instant>,
}

/// Who spoke and died: the active worker and the standby.
struct Ready {
    workers: [(bool, bool); 2],
    runner_died: bool,
}

#[derive(Clone, Copy)]
enum Role {
    Active,
    Standby,
}

impl Supervisor {
    fn supervise(mut self, signals: &Signals) -> Result<(), Failure> {
        loop {
            self.keep_staffed()?;
            let ready = self.wait(signals)?;
            if signals.stop.drain() && self.stopping.is_none() {
                self.stop();
            }
            if signals.reload.drain() {
                self.reload_pending = true;
                self.pass_reload_on();
            }
            if signals.upgrade.drain() {
                self.upgrade();
            }
            self.hear(&ready.workers)?;
            if ready.runner_died {
                tracing::warn!("the runner ended");
                self.runner = None;
                self.runner_backoff.ended(Duration::ZERO, true);
            }
            self.check_deadlines();
            if self.stopping.is_some() && self.active.is_none() {
                return self.leave();
            }
            self.check_outage()?;
        }
    }

    fn serving(&mut self) -> Option<&mut Worker> {
        self.active.as_mut().filter(|w| w.phase == Phase::Serving)
    }

    fn worker(&mut self, role: Role) -> &mut Option<Worker> {
        match role {
            Role::Active => &mut self.active,
            Role::Standby => &mut self.standby,
        }
    }

    /// Waits for a signal, a word or a death; says who spoke and who died.
    fn wait(&self, signals: &Signals) -> Result<Ready, Failure> {
        let mut fds = vec![
            PollFd::new(&signals.stop, PollFlags::IN),
            PollFd::new(&signals.reload, PollFlags::IN),
            PollFd::new(&signals.upgrade, PollFlags::IN),
        ];
        let workers = [&self.active, &self.standby];
        for worker in workers.into_iter().flatten() {
            fds.push(PollFd::from_borrowed_fd(worker.link(), PollFlags::IN));
            fds.push(PollFd::from_borrowed_fd(worker.pidfd(), PollFlags::IN));
        }
        if let Some(runner) = &self.runner {
            fds.push(PollFd::from_borrowed_fd(runner.pidfd(), PollFlags::IN));
        }
        let timeout = Timespec::try_from(self.patience()).map_err(text)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(text(errno)),
        }
        let mut events = fds.iter().skip(3).map(|fd| !fd.revents().is_empty());
        let mut of = |worker: &Option<Worker>| match worker {
            Some(_) => (events.next() == Some(true), events.next() == Some(true)),
            None => (false, false),
        };
        Ok(Ready {
            workers: [of(&self.active), of(&self.standby)],
            runner_died: events.next() == Some(true),
        })
    }

    /// How long nothing but an event needs attention.
    fn patience(&self) -> Duration {
        match (&self.active, self.backoff.left()) {
            (None, pause) if !pause.is_zero() => pause.min(PING),
            _ => PING,
        }
    }

    fn hear(&mut self, ready: &[(bool, bool); 2]) -> Result<(), Failure> {
        for (role, (spoke, died)) in [Role::Active, Role::Standby].into_iter().zip(ready) {
            if *spoke && let Some(message) = self.worker(role).as_mut().and_then(Worker::hear) {
                self.answer(role, message)?;
            }
            // What it said before it died counts.
            while *died
                && let Some(message) = self.worker(role).as_mut().and_then(Worker::last_words)
            {
                self.answer(role, message)?;
            }
            if *died && let Some(worker) = self.worker(role).take() {
                self.mourn(role, worker)?;
            }
        }
        Ok(())
    }

    fn answer(&mut self, role: Role, message: FromWorker) -> Result<(), Failure> {
        match message {
            FromWorker::Ready if self.phase(role) == Some(Phase::Starting) => {
                if let Some(worker) = self.worker(role) {
                    worker.enter(Phase::Ready);
                }
                if let (Role::Standby, true) = (role, std::mem::take(&mut self.upgrading)) {
                    self.retire("upgrade");
                }
            }
            FromWorker::Opened(secrets) if self.is_active(role, Phase::Opening) => {
                self.attach(secrets)?;
            }
            FromWorker::Serving if self.is_active(role, Phase::Attaching) => self.serves()?,
            FromWorker::Ready | FromWorker::Opened(_) | FromWorker::Serving => {
                if let Some(worker) = self.worker(role) {
                    worker.kill();
                }
            }
            FromWorker::Pong(_) => {
                if let Some(worker) = self.worker(role) {
                    worker.pinged = None;
                }
            }
            FromWorker::Certify(claim) => {
                let identity = &self.identity;
                let worker = match role {
                    Role::Active => &mut self.active,
                    Role::Standby => &mut self.standby,
                };
                let Some(worker) = worker.as_mut().filter(|w| w.phase == Phase::Opening) else {
                    return Ok(());
                };
                // A second one would let it forge a history.
                if worker.certified.replace((0, claim.epoch)).is_some() {
                    worker.kill();
                    return Ok(());
                }
                if let Some(Err(why)) = self.witness.as_ref().map(|w| w.check(&claim)) {
                    tracing::error!(%why, "audit log");
                }
                let signature = identity.certify(&claim).map_err(text)?;
                worker.say(&ToWorker::Certificate(Signature(signature)), &[]);
            }
            FromWorker::CertifySegment(claim) => {
                let serving = self.is_active(role, Phase::Serving);
                let signature = self.identity.certify_segment(&claim).map_err(text)?;
                let Some(worker) = self.worker(role) else {
                    return Ok(());
                };
                // What came before stays as it is; the last one may have failed.
                let upwards = |(segment, epoch)| claim.segment >= segment && claim.epoch > epoch;
                match serving && worker.certified.is_some_and(upwards) {
                    true => {
                        worker.certified = Some((claim.segment, claim.epoch - 1));
                        worker.say(&ToWorker::Certificate(Signature(signature)), &[]);
                    }
                    false => worker.kill(),
                }
            }
            FromWorker::Policy => {
                if let Role::Active = role {
                    self.reload_pending = false;
                }
                self.offer_policy(role);
            }
            FromWorker::Accepted => {
                if let (Role::Active, Some(policy)) = (role, self.offered.take()) {
                    self.estate.set_policy(&policy)?;
                    self.policy = policy;
                }
            }
            FromWorker::Checkpoint(note) => {
                let host = self.identity.host().to_string();
                if let (Role::Active, Some(witness)) = (role, &mut self.witness)
                    && let Err(why) = witness.keep(&note, &host)
                {
                    tracing::error!(%why, "checkpoint not kept");
                }
            }
            FromWorker::Failed(why) => {
                if let Some(worker) = self.worker(role) {
                    worker.failure = Some(short(&why));
                }
            }
            FromWorker::Ended(why) => {
                if self.stopping.is_none() {
                    self.forget_mount();
                    return Err(short(&why));
                }
            }
            FromWorker::Retired => {}
        }
        Ok(())
    }

    fn offer_policy(&mut self, role: Role) {
        let found = policy_text(&self.config.policy.path).map_err(text);
        let file = found.and_then(|policy| {
            let file = nameless(&policy).map_err(text)?;
            self.offered = Some(policy);
            Ok(file)
        });
        let Some(worker) = self.worker(role) else {
            return;
        };
        match file {
            Ok(file) => worker.say(&ToWorker::Policy(Ok(())), &[file.as_fd()]),
            Err(why) => worker.say(&ToWorker::Policy(Err(short(&why))), &[]),
        }
    }

    /// Sees to it that somebody serves and somebody stands by.
    fn keep_staffed(&mut self) -> Result<(), Failure> {
        if self.stopping.is_some() {
            return Ok(());
        }
        if self.active.is_none() && self.backoff.left().is_zero() {
            self.active = match self.standby.take() {
                Some(standby) => Some(standby),
                None => self.try_hire(Role::Active)?,
            };
        }
        if self
            .active
            .as_ref()
            .is_some_and(|w| w.phase == Phase::Ready)
        {
            self.open()?;
        }
        // The mount is served without these, too: their failure is no reason to
        // end it.
        let settled = self.serving().is_some();
        if settled
            && self.standby.is_none()
            && self.keeps_mount()
            && self.standby_backoff.left().is_zero()
        {
            self.standby = self.try_hire(Role::Standby)?;
        }
        if settled && self.runner.is_none() && self.runner_backoff.left().is_zero() {
            let host = self.identity.host();
            match Runner::spawn(&self.program(), self.runner_user, &self.config, &host) {
                Ok(runner) => self.runner = Some(runner),
                Err(error) => {
                    tracing::error!(%error, "cannot start the runner");
                    self.runner_backoff.ended(Duration::ZERO, true);
                }
            }
            self.introduce_runner();
        }
        Ok(())
    }

    /// A worker, unless there can be none just now.
    fn try_hire(&mut self, role: Role) -> Result<Option<Worker>, Failure> {
        match self.hire(false) {
            Ok(worker) => Ok(Some(worker)),
            // The first one of all: somebody is waiting for the answer.
            Err(why) if !self.announced && !self.adopted => Err(why),
            Err(why) => {
                tracing::error!(%why, "no worker");
                match role {
                    Role::Active => self.backoff.ended(Duration::ZERO, true),
                    Role::Standby => self.standby_backoff.ended(Duration::ZERO, true),
                }
                Ok(None)
            }
        }
    }

    /// Has the serving worker load the policy anew. It stays pending until one
    /// has come for the text.
    fn pass_reload_on(&mut self) {
        if self.reload_pending
            && let Some(active) = self.serving()
        {
            active.say(&ToWorker::Reload, &[]);
        }
    }

    /// Gives the active worker its end of the socket to the runner.
    fn introduce_runner(&mut self) {
        if let (Some(active), Some(runner)) = (&mut self.active, &self.runner) {
            active.say(&ToWorker::Runner, &[runner.link()]);
        }
    }

    fn hire(&mut self, alone: bool) -> Result<Worker, Failure> {
        let mut worker = Worker::spawn(&self.program())
            .map_err(|error| format!("cannot start a worker: {error}"))?;
        let start = Start {
            config: self.config.clone(),
            user: self.user,
            shared: is_root(),
            mount: self.estate.nonce(),
            started_ms: self.estate.started_ms(),
            alone,
            accept_restored: self.accept_restored && self.fresh,
            host: self.identity.host(),
        };
        let programs = programs::answer();
        let programs = programs.map_err(|e| format!("cannot answer a worker's questions: {e}"))?;
        let [vault, audit] = &self.directories;
        let mut fds = vec![
            vault.as_fd(),
            audit.as_fd(),
            self.estate.handles.fd(),
            self.estate.watch.fd(),
            self.estate.keys.fd(),
            programs.as_fd(),
        ];
        fds.extend(self.listener.as_ref().map(AsFd::as_fd));
        worker.say(&ToWorker::Start(Box::new(start)), &fds);
        Ok(worker)
    }

    /// Lets the active worker open the vault: its predecessor is dead.
    fn open(&mut self) -> Result<(), Failure> {
        let policy = nameless(&self.policy).map_err(text)?;
        let how = Open {
            fresh: self.fresh && !self.adopted,
            crashed: matches!(self.last, Some((Death::Crashed | Death::Hung, _))),
            reason: self.last.as_ref().map(|(_, why)| short(why)),
        };
        if let Some(active) = &mut self.active {
            active.enter(Phase::Opening);
            active.say(&ToWorker::Open(how), &[policy.as_fd()]);
        }
        Ok(())
    }

    /// Mounts, if nothing is mounted yet, and lets the active worker serve.
    fn attach(&mut self, secrets: u64) -> Result<(), Failure> {
        // On a new mount there is nothing to be had again.
        let resend = self.device.is_some();
        let device = match self.device.take() {
            Some(device) => device,
            None => {
                let device = Device::mount(&self.config.mount.path, is_root()).map_err(text)?;
                let keeps = self.config.mount.keep && device.resends();
                if let (true, Some(fd)) = (self.fd_store && keeps, device.fd()) {
                    self.estate.store(fd);
                }
                device
            }
        };
        if let (Some(active), Some(fd)) = (&mut self.active, device.fd()) {
            active.enter(Phase::Attaching);
            active.say(&ToWorker::Attach { resend }, &[fd]);
        }
        self.device = Some(device);
        self.secrets = secrets;
        Ok(())
    }

    fn serves(&mut self) -> Result<(), Failure> {
        let gap = self.outage.elapsed();
        self.facts.generation = self.estate.next_generation();
        if let Some(active) = &mut self.active {
            active.enter(Phase::Serving);
        }
        self.fresh = false;
        self.previous = None;
        if self.announced {
            self.facts.gap_us = u64::try_from(gap.as_micros()).unwrap_or(u64::MAX);
            let SupervisorStats {
                generation, gap_us, ..
            } = self.facts;
            tracing::warn!(generation, gap_us, "a new worker serves");
        } else {
            self.announced = true;
            self.announce()?;
        }
        let facts = self.facts;
        if let Some(active) = &mut self.active {
            active.ping(facts);
        }
        self.introduce_runner();
        self.pass_reload_on();
        Ok(())
    }

    /// Tells systemd and whoever reads standard output that secrets are served.
    fn announce(&self) -> Result<(), Failure> {
        let secrets = self.secrets;
        let path = self.config.mount.path.display();
        if !self.keeps_mount() {
            tracing::warn!(
                "a worker's death will break open files: keeping the mount needs Linux 6.9 \
                 and mount.keep = true"
            );
        }
        // Without systemd there is nobody to notify; a closed stdout is fine.
        sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
        writeln!(io::stdout(), "ready: {secrets} secrets at {path}").ok();
        tracing::info!(secrets, path = %path, "serving");
        Ok(())
    }

    fn keeps_mount(&self) -> bool {
        self.config.mount.keep && self.device.as_ref().is_none_or(Device::resends)
    }

    fn mourn(&mut self, role: Role, worker: Worker) -> Result<(), Failure> {
        let (phase, lasted) = (worker.phase, worker.since.elapsed());
        let (death, why) = worker.bury();
        let own_fault = matches!(death, Death::Crashed | Death::Hung);
        if let Role::Standby = role {
            tracing::warn!(%why, "the standby ended");
            self.standby_backoff.ended(lasted, own_fault);
            self.abandon_upgrade();
            return Ok(());
        }
        if self.stopping.is_some() {
            return Ok(());
        }
        if !self.announced && !self.adopted && death == Death::Crashed {
            // The first one could not start: nor could another.
            return Err(why);
        }
        if matches!(phase, Phase::Serving | Phase::Retiring) {
            if phase == Phase::Serving {
                self.outage = Instant::now();
            }
            match death {
                Death::Killed => self.facts.killed += 1,
                Death::Crashed => self.facts.crashed += 1,
                Death::Hung => self.facts.hung += 1,
                Death::Retired => self.facts.replaced += 1,
            }
        }
        tracing::warn!(%why, "the worker ended");
        self.last = Some((death, why));
        if !self.keeps_mount() && self.device.is_some() {
            self.remount()?;
        }
        let served = if phase == Phase::Serving {
            lasted
        } else {
            Duration::ZERO
        };
        self.backoff.ended(served, own_fault);
        if own_fault && phase != Phase::Serving {
            // Perhaps the new program is at fault.
            self.abandon_upgrade();
        }
        Ok(())
    }

    /// The program to start workers from.
    fn program(&self) -> PathBuf {
        match &self.executable {
            // Whatever is put in its place meanwhile.
            Some(file) => PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
            None => self.program.clone(),
        }
    }

    /// Back to the program that worked.
    fn abandon_upgrade(&mut self) {
        self.upgrading = false;
        if let Some(previous) = self.previous.take() {
            tracing::error!("the new program fails: workers are started from the one before");
            self.executable = Some(previous);
        }
    }

    /// Gives up the mount and makes another: for kernels that keep no requests.
    fn remount(&mut self) -> Result<(), Failure> {
        self.forget_mount();
        self.standby = None;
        let keys = self.estate.keys.fd().try_clone_to_owned().map_err(text)?;
        let before = std::mem::replace(
            &mut self.estate,
            Estate::new(SecretPage::map(keys).map_err(text)?)?,
        );
        self.estate.continue_from(&before);
        self.estate.set_policy(&self.policy)?;
        Ok(())
    }

    fn forget_mount(&mut self) {
        if self.fd_store && self.device.is_some() {
            Estate::withdraw();
        }
        if let Some(device) = self.device.take() {
            match device.unmount() {
                Ok(()) => tracing::info!("unmounted"),
                Err(error) => tracing::error!(%error, "cannot unmount"),
            }
        }
    }

    fn check_deadlines(&mut self) {
        let facts = self.facts;
        for worker in [&mut self.active, &mut self.standby].into_iter().flatten() {
            let silent = worker.pinged.is_some_and(|since| since.elapsed() > SILENCE);
            let slow = match worker.phase {
                Phase::Starting | Phase::Attaching => worker.since.elapsed() > ATTACH,
                // The first one may have a large vault to check.
                Phase::Opening => !self.fresh && worker.since.elapsed() > ATTACH,
                Phase::Retiring => worker.since.elapsed() > FAREWELL,
                Phase::Ready | Phase::Serving => false,
            };
            if silent || slow {
                tracing::error!(pid = worker.pid(), phase = ?worker.phase, "a worker does not answer");
                worker.kill();
                worker.pinged = None;
            } else if matches!(worker.phase, Phase::Ready | Phase::Serving) && worker.rested(PING) {
                worker.ping(facts);
            }
        }
        if self
            .serving()
            .is_some_and(|w| w.pinged.is_none_or(|p| p.elapsed() < SILENCE))
        {
            self.beat();
        }
    }

    /// Shows systemd's watchdog, where there is one, that all is well.
    fn beat(&mut self) {
        let Some(interval) = self.watchdog else {
            return;
        };
        if self
            .beaten
            .is_none_or(|last| last.elapsed() >= interval / 3)
        {
            self.beaten = Some(Instant::now());
            sd_notify::notify(&[sd_notify::NotifyState::Watchdog]).ok();
        }
    }

    /// Nobody can serve: better an error for those who wait than nothing.
    fn check_outage(&mut self) -> Result<(), Failure> {
        let waited_for = self.announced || self.adopted;
        let since_serving = match waited_for && self.serving().is_none() {
            true => self.outage.elapsed(),
            false => return Ok(()),
        };
        // systemd must not take the wait for a hang of the supervisor.
        self.beat();
        if since_serving < OUTAGE || self.stopping.is_some() {
            return Ok(());
        }
        self.forget_mount();
        let why = self.last.take().map(|(_, why)| why).unwrap_or_default();
        Err(format!(
            "no worker could serve for {} s: {why}",
            OUTAGE.as_secs()
        ))
    }

    /// A new worker, from the program as it is now, takes over.
    fn upgrade(&mut self) {
        if self.stopping.is_some() || self.serving().is_none() {
            return;
        }
        tracing::info!("replacing the worker");
        let new = match File::open(&self.program) {
            Ok(new) => new,
            Err(error) => {
                tracing::error!(%error, program = %self.program.display(), "the old worker stays");
                return;
            }
        };
        let before = self.executable.replace(new);
        self.previous = self.previous.take().or(before);
        self.standby = None;
        match self.hire(false) {
            Ok(worker) => {
                self.standby = Some(worker);
                self.upgrading = true;
            }
            Err(why) => {
                tracing::error!(%why, "the old worker stays");
                self.abandon_upgrade();
            }
        }
    }

    fn phase(&self, role: Role) -> Option<Phase> {
        let worker = match role {
            Role::Active => &self.active,
            Role::Standby => &self.standby,
        };
        worker.as_ref().map(|worker| worker.phase)
    }

    fn is_active(&self, role: Role, phase: Phase) -> bool {
        matches!(role, Role::Active) && self.active.as_ref().is_some_and(|w| w.phase == phase)
    }

    fn retire(&mut self, why: &str) {
        if let Some(active) = &mut self.active {
            active.say(&ToWorker::Retire(why.into()), &[]);
            active.enter(Phase::Retiring);
            active.pinged = None;
            self.outage = Instant::now();
        }
    }

    fn stop(&mut self) {
        self.stopping = Some(Instant::now());
        self.standby = None;
        self.runner = None;
        // Without RESEND nobody could take it over.
        if !self.fd_store || !self.keeps_mount() {
            self.forget_mount();
        }
        match &mut self.active {
            Some(active) if active.phase >= Phase::Opening => self.retire("stop"),
            // It has nothing open that could be closed in order.
            _ => self.active = None,
        }
    }

    fn leave(mut self) -> Result<(), Failure> {
        if let Some(witness) = self.witness.take() {
            witness.finish();
        }
        sd_notify::notify(&[sd_notify::NotifyState::Stopping]).ok();
        tracing::info!("stopped");
        Ok(())
    }
}

#[cfg(test)]
mod tests;

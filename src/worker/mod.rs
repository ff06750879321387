//! The process that has the secrets and nothing else.
//!
//! It is started with one end of a socket pair as its standard input, gives up
//! what it does not need, and waits for the supervisor's word. It can be
//! replaced at any instant.

use std::fs::File;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use jarvis_audit::{
    Certify, EpochClaim, HostId, KeyError, Log, OpenError, Opening, SegmentClaim, SegmentLimits,
};
use jarvis_fs::{Backend, FileSystem, HandleLimits, HandleTable, InFlight, Server};
use jarvis_sys::{Cell, Locking, SecretPage, SharedWords};
use jarvis_vault::{Credential, LockedVault, Probe, SecretBytes, Vault, VaultError};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};

use crate::common::policy_file::{read_policy, unreadable};
use crate::ipc::programs::ExeQuestions;
use crate::ipc::runner::Event;
use crate::ipc::worker::{FromWorker, Open, Start, SupervisorChannel, ToWorker};
use crate::ipc::{Signature, short, take_stdin};
use crate::process::privileges::drop_privileges;
use crate::process::{Failure, spawn, start_logging, text};
use crate::worker::commit::journal::Journal;
use crate::worker::gate::{Gate, Parts, PolicySource, Settings};
use crate::worker::http::Readiness;
use crate::worker::identity::exe::ExeLookup;
use crate::worker::metrics::Metrics;

pub(crate) mod audit;
pub(crate) mod commit;
pub(crate) mod control;
pub(crate) mod gate;
pub(crate) mod http;
pub(crate) mod identity;
pub(crate) mod metrics;
pub(crate) mod request;
pub(crate) mod runner_client;
pub mod sandbox;
pub(crate) mod scheduler;
pub(crate) mod tree;

/// How often deleted secrets whose window is over are looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(3600);
/// How often the supervisor is told how far the audit log has come.
const CHECKPOINTS: Duration = Duration::from_secs(10);
/// A request that takes longer is stuck, and with it its thread.
const STUCK: Duration = Duration::from_secs(5);
/// How long a worker that was killed may take to die.
const LAST_MOMENTS: Duration = Duration::from_secs(2);
/// How long after a segment could not be ended it is tried again.
const ROTATE_AGAIN: Duration = Duration::from_secs(10);
/// How long the supervisor may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs a worker; the supervisor's socket is its standard input.
#[must_use]
pub(crate) fn main() -> ExitCode {
    crate::process::abort_on_panic();
    // A name for ps; without one it would be a number.
    rustix::thread::set_name(c"jarvis-worker").ok();
    let link = match take_stdin() {
        Ok(link) => Arc::new(link),
        Err(error) => return complain(&format!("only the supervisor starts a worker ({error})")),
    };
    match run(&link) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell when this fails too.
            link.send(&FromWorker::Failed(short(&failure)), &[]).ok();
            ExitCode::FAILURE
        }
    }
}

fn complain(failure: &str) -> ExitCode {
    writeln!(io::stderr(), "jarvis-secretsd worker: {failure}").ok();
    ExitCode::FAILURE
}

/// What the supervisor handed over.
struct Estate {
    start: Start,
    vault: PathBuf,
    audit: PathBuf,
    handles: OwnedFd,
    watch: OwnedFd,
    keys: SecretPage,
    programs: OwnedFd,
    listener: Option<TcpListener>,
}

/// Those of the vault and of the audit log: while they are open their paths
/// under `/proc/self/fd` are valid.
type Directories = [OwnedFd; 2];

fn run(link: &Arc<SupervisorChannel>) -> Result<(), Failure> {
    let (message, fds) = link.receive().map_err(text)?;
    let ToWorker::Start(start) = message else {
        return Err("the first message was not a start".into());
    };
    start_logging(start.config.logging.level);
    let (estate, directories) = Estate::take(*start, fds)?;
    let paths = estate.shown_paths();
    give_up_privileges(&estate, &directories)?;
    let readiness = Readiness::default();
    Worker {
        link: link.clone(),
        readiness,
        policies: PolicyCourier::start(link.clone(), estate.start.config.policy.path.clone()),
        certificates: Desk::default(),
        noted: Noted::default(),
        state: State::Waiting(Box::new(estate)),
    }
    .obey()
    .map_err(|failure| {
        let shown = |text: String, (inner, outer): &(String, String)| text.replace(inner, outer);
        paths.iter().fold(failure, shown)
    })
}

impl Estate {
    fn take(start: Start, fds: Vec<OwnedFd>) -> Result<(Self, Directories), Failure> {
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or("the start message lacks fds");
        let (vault, audit) = (next()?, next()?);
        let (handles, watch, keys) = (next()?, next()?, next()?);
        let programs = next()?;
        let file = start.config.vault.path.file_name().unwrap_or_default();
        // The directories above may be closed to the worker's user.
        let below =
            |directory: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        let estate = Self {
            vault: below(&vault).join(file),
            audit: below(&audit),
            handles,
            watch,
            keys: SecretPage::map(keys).map_err(text)?,
            programs,
            listener: fds.next().map(TcpListener::from),
            start,
        };
        Ok((estate, [vault, audit]))
    }
}

impl Estate {
    /// What to say in a message instead of the paths that only this process has.
    fn shown_paths(&self) -> [(String, String); 2] {
        let config = &self.start.config;
        let pair =
            |inner: &Path, outer: &Path| (inner.display().to_string(), outer.display().to_string());
        let directory = |path: &Path| path.parent().unwrap_or(Path::new("")).to_owned();
        [
            pair(&directory(&self.vault), &directory(&config.vault.path)),
            pair(&self.audit, &config.audit.dir),
        ]
    }
}

/// From here on the process has one user's rights, a few files and a few calls.
fn give_up_privileges(estate: &Estate, directories: &Directories) -> Result<(), Failure> {
    let start = &estate.start;
    let keep_lock = sandbox::lift_memory_limit();
    match jarvis_sys::harden(start.config.developer).map_err(text)? {
        Locking::All => {}
        Locking::KeysOnly { limit } => tracing::warn!(
            limit_bytes = limit,
            "developer mode: only keys are locked in memory, values may reach swap"
        ),
    }
    drop_privileges(start.user, keep_lock).map_err(text)?;
    sandbox::enter(directories)
}

enum State {
    Waiting(Box<Estate>),
    Open(Box<(Estate, Arc<Gate>)>),
    Serving(Arc<Gate>),
    Gone,
}

struct Worker {
    link: Arc<SupervisorChannel>,
    readiness: Readiness,
    policies: PolicyCourier,
    certificates: Desk<[u8; 64]>,
    noted: Noted,
    state: State,
}

impl Worker {
    fn obey(mut self) -> Result<(), Failure> {
        if let State::Waiting(estate) = &mut self.state
            && estate.start.alone
            && let Some(listener) = estate.listener.take()
        {
            http::start(&self.readiness, listener).map_err(text)?;
        }
        self.say(&FromWorker::Ready)?;
        loop {
            let (message, mut fds) = self.link.receive().map_err(text)?;
            match message {
                ToWorker::Ping(facts) => {
                    if let State::Serving(gate) = &self.state {
                        gate.learn(facts);
                        if gate.watch.longest() >= STUCK {
                            continue;
                        }
                    }
                    self.say(&FromWorker::Pong(facts.ping))?;
                }
                ToWorker::Open(how) => {
                    let policy = fds.pop().ok_or("no policy came with the order to open")?;
                    self.open(&how, policy)?;
                }
                ToWorker::Attach { resend } => {
                    let device = fds.pop().ok_or("no device to attach to")?;
                    self.attach(&device, resend)?;
                }
                ToWorker::Policy(found) => self.policies.deliver(found, fds.pop()),
                ToWorker::Reload => self.reload(),
                ToWorker::Runner => {
                    if let (State::Serving(gate), Some(end)) = (&self.state, fds.pop()) {
                        gate.errands.connect(end);
                        gate.scheduler.look();
                    }
                }
                ToWorker::Retire(reason) => {
                    self.retire(&reason);
                    return self.say(&FromWorker::Retired);
                }
                ToWorker::Certificate(Signature(signature)) => {
                    self.certificates.deliver(signature);
                }
                ToWorker::Start(_) => return Err("an unexpected message".into()),
            }
        }
    }

    fn say(&self, message: &FromWorker) -> Result<(), Failure> {
        self.link.send(message, &[]).map_err(text)
    }

    fn open(&mut self, how: &Open, policy: OwnedFd) -> Result<(), Failure> {
        let State::Waiting(estate) = std::mem::replace(&mut self.state, State::Gone) else {
            return Err("asked to open twice".into());
        };
        let config = &estate.start.config;
        let policy = read_policy(&config.policy.path, policy.into()).map_err(text)?;
        let (locked, probe) = unlock(&estate, how)?;
        let (audit, recorded) = self.open_audit(&estate, &probe, how)?;
        let vault = locked.start(probe).map_err(text)?;
        hand_over(&estate.keys, &vault)?;
        let words = SharedWords::map(estate.handles.try_clone().map_err(text)?).map_err(text)?;
        let limits = HandleLimits {
            handles: config.mount.handles_per_uid,
            pending: config.mount.pending_opens_per_uid,
        };
        let handles = Arc::new(HandleTable::new(words, limits).map_err(text)?);
        let words = SharedWords::map(estate.watch.try_clone().map_err(text)?).map_err(text)?;
        let watch = InFlight::new(words, how.crashed).map_err(text)?;
        let gate = Arc::new(Gate::new(Parts {
            journal: Journal::load(&vault, estate.start.mount, handles.clone()).map_err(text)?,
            vault,
            policy,
            policy_source: self.policies.source(),
            audit,
            notary: Box::new(Notary {
                link: self.link.clone(),
                host: estate.start.host,
                certificates: self.certificates.clone(),
            }),
            handles,
            metrics: Metrics::new().map_err(text)?,
            settings: Settings::from(config),
            programs: ExeLookup::new(ExeQuestions::from(
                estate.programs.try_clone().map_err(text)?,
            )),
            started_ms: estate.start.started_ms,
            watch: Arc::new(watch),
            recorded,
        }));
        gate.settle()
            .map_err(|_| "the audit log cannot take the records of the last run".to_owned())?;
        self.say(&FromWorker::Opened(gate.vault.counts().secrets))?;
        self.state = State::Open(Box::new((*estate, gate)));
        Ok(())
    }

    fn attach(&mut self, device: &OwnedFd, resend: bool) -> Result<(), Failure> {
        let State::Open(open) = std::mem::replace(&mut self.state, State::Gone) else {
            return Err("asked to attach before it was asked to open".into());
        };
        let (estate, gate) = *open;
        let backend = Backend {
            tree: gate.clone(),
            control: gate.clone(),
            callers: gate.clone(),
            refusals: gate.clone(),
        };
        let fs = FileSystem::new(backend, gate.handles.clone(), gate.watch.clone());
        let threads = estate.start.config.mount.threads;
        let server = Server::new(fs.map_err(text)?, estate.start.shared, threads).map_err(text)?;
        if resend {
            jarvis_fs::resend(device.as_fd())
                .map_err(|e| format!("the kernel does not send requests again ({e})"))?;
        }
        jarvis_sys::replace_fd(server.fd(), device.as_fd()).map_err(text)?;
        let link = self.link.clone();
        std::thread::Builder::new()
            .name("session".into())
            .spawn(move || {
                let end = match server.run() {
                    Ok(()) => "the mount was taken away".to_owned(),
                    Err(error) => format!("the mount failed: {error}"),
                };
                // The supervisor may be the one who took it away.
                link.send(&FromWorker::Ended(short(&end)), &[]).ok();
            })
            .map_err(text)?;
        // Before the supervisor tells the world.
        self.readiness.set(&gate);
        self.say(&FromWorker::Serving)?;
        if let Some(listener) = estate.listener {
            http::start(&self.readiness, listener).map_err(text)?;
        }
        keep_house(&gate)?;
        scheduler::start(&gate, estate.audit.clone())?;
        look_after_log(&gate, &self.link, &self.noted)?;
        keep_segments(&gate, &self.link, &self.noted)?;
        audit::detector::recall(&gate, estate.audit).map_err(text)?;
        self.state = State::Serving(gate);
        Ok(())
    }

    fn reload(&self) {
        if let State::Serving(gate) = &self.state {
            let gate = gate.clone();
            // It asks for the policy's text, which this thread must receive.
            std::thread::spawn(move || {
                if let Err(error) = gate.reload(None) {
                    tracing::error!(%error, "policy refused, the old one stays");
                }
            });
        }
    }

    fn retire(&mut self, reason: &str) {
        self.readiness.clear();
        let gate = match std::mem::replace(&mut self.state, State::Gone) {
            State::Serving(gate) => gate,
            State::Open(open) => open.1,
            State::Waiting(_) | State::Gone => return,
        };
        gate.retire(reason);
        note(&gate, &self.link, &self.noted);
    }

    /// Opens the log, which writes its start record, unless the vault is older.
    fn open_audit(
        &self,
        estate: &Estate,
        probe: &Probe,
        how: &Open,
    ) -> Result<(Log, u64), Failure> {
        let tail = Log::inspect(&estate.audit).map_err(text)?;
        let recorded = tail.map_or(0, |tail| tail.vault_seq.min(probe.seq()));
        let opening = Opening {
            version: env!("CARGO_PKG_VERSION"),
            // What the log has, not what the vault has: the difference is owed.
            vault_seq: recorded,
            reason: how.reason.as_deref(),
            accept_older_vault: estate.start.accept_restored,
            // It may have ended because a sync failed.
            new_segment: how.crashed,
            segment_limits: segment_limits(&estate.start.config.audit),
        };
        let certifier = Certifier {
            link: &self.link,
            host: estate.start.host,
        };
        let open = || Log::open(&estate.audit, &certifier, opening);
        let log = match open() {
            Err(OpenError::InUse(segment)) if unlocked(&segment) => open(),
            result => result,
        };
        Ok((log.map_err(text)?, recorded))
    }
}

fn unlock(estate: &Estate, how: &Open) -> Result<(LockedVault, Probe), Failure> {
    let locked = lock_vault(estate, how)?;
    if let Some(root) = estate.keys.get(Cell::RootKey)
        && let Ok(root) = root.as_slice().try_into()
    {
        let probe = locked.resume(root).map_err(text)?;
        return Ok((locked, probe));
    }
    let credential = estate.keys.get(Cell::Credential);
    let credential = credential.ok_or("there is nothing to unlock the vault with")?;
    let credential = match credential.split_first() {
        Some((b'k', key)) => Credential::KeyFile(SecretBytes::new(key.to_vec())),
        Some((b'p', phrase)) => Credential::Passphrase(SecretBytes::new(phrase.to_vec())),
        _ => return Err("there is nothing to unlock the vault with".into()),
    };
    let probe = locked.unlock(&credential).map_err(text)?;
    Ok((locked, probe))
}

fn lock_vault(estate: &Estate, how: &Open) -> Result<LockedVault, Failure> {
    let path = &estate.vault;
    let open = |path: &Path| match how.fresh {
        true => LockedVault::open(path),
        false => LockedVault::reopen(path),
    };
    match open(path) {
        // Perhaps a worker whose supervisor was killed, in its last moments.
        Err(VaultError::InUse { .. }) if unlocked(path) => open(path).map_err(text),
        result => result.map_err(text),
    }
}

/// Waits a while for whoever has `path` locked to die.
fn unlocked(path: &Path) -> bool {
    let path = path.to_owned();
    let (freed, wait) = channel();
    std::thread::spawn(move || {
        let lock = |file: &File| flock(file, FlockOperation::LockExclusive);
        let got = File::open(path).is_ok_and(|file| lock(&file).is_ok());
        // Nobody may be waiting any more.
        freed.send(got).ok();
    });
    wait.recv_timeout(LAST_MOMENTS).unwrap_or(false)
}

/// Leaves the root key for the next worker; what unlocked it is done with.
fn hand_over(keys: &SecretPage, vault: &Vault) -> Result<(), Failure> {
    if keys.get(Cell::RootKey).is_none() {
        keys.put(Cell::RootKey, vault.root_key()).map_err(text)?;
    }
    keys.wipe(Cell::Credential);
    Ok(())
}

fn keep_house(gate: &Arc<Gate>) -> Result<(), Failure> {
    let gate = gate.clone();
    let started = spawn("housekeeping", move || {
        loop {
            gate.housekeep();
            std::thread::sleep(HOUSEKEEPING);
        }
    });
    started.map_err(text)
}

/// Records denials that were only counted, and tells the supervisor how far the
/// audit log has come, while it grows.
fn look_after_log(
    gate: &Arc<Gate>,
    link: &Arc<SupervisorChannel>,
    noted: &Noted,
) -> Result<(), Failure> {
    let (gate, link, noted) = (gate.clone(), link.clone(), noted.clone());
    let started = spawn("checkpoints", move || {
        loop {
            gate.tell_overdue();
            note(&gate, &link, &noted);
            std::thread::sleep(CHECKPOINTS);
        }
    });
    started.map_err(text)
}

/// The last record that the supervisor was told of; locked from a checkpoint to
/// its note, for notes must not go back.
type Noted = Arc<Mutex<u64>>;

/// Tells the supervisor how far the audit log has come, if it has.
fn note(gate: &Gate, link: &SupervisorChannel, noted: &Noted) {
    let mut noted = noted.lock();
    let checkpoint = gate.checkpoint();
    if checkpoint.seq != *noted {
        *noted = checkpoint.seq;
        let text = checkpoint.to_string();
        gate.errands.notify(Event::checkpoint(&text));
        // Without a supervisor this process ends soon.
        link.send(&FromWorker::Checkpoint(text), &[]).ok();
    }
}

fn segment_limits(audit: &crate::config::Audit) -> SegmentLimits {
    SegmentLimits {
        bytes: u64::from(audit.segment_mb) * 1024 * 1024,
        age: Duration::from_secs(u64::from(audit.segment_hours) * 3600),
    }
}

/// Ends segments of the audit log when it is time, and removes old ones.
fn keep_segments(
    gate: &Arc<Gate>,
    link: &Arc<SupervisorChannel>,
    noted: &Noted,
) -> Result<(), Failure> {
    let (gate, link, noted) = (gate.clone(), link.clone(), noted.clone());
    let started = spawn("segments", move || {
        loop {
            if let Err(error) = gate.prune_audit() {
                tracing::error!(%error, "old audit records stay");
            }
            if gate.await_segment_end(HOUSEKEEPING) {
                match gate.rotate_segment() {
                    Ok(_) => note(&gate, &link, &noted),
                    Err(error) => {
                        tracing::error!(%error, "the audit log goes on in its segment");
                        std::thread::sleep(ROTATE_AGAIN);
                    }
                }
            }
        }
    });
    started.map_err(text)
}

/// The supervisor signs with the host's identity.
struct Certifier<'l> {
    link: &'l SupervisorChannel,
    host: HostId,
}

impl Certify for Certifier<'_> {
    fn host(&self) -> HostId {
        self.host
    }

    fn certify(&self, claim: &EpochClaim) -> Result<[u8; 64], KeyError> {
        let failed = |error: io::Error| KeyError::NotCertified(error.to_string());
        self.link
            .send(&FromWorker::Certify(*claim), &[])
            .map_err(failed)?;
        loop {
            match self.link.receive().map_err(failed)?.0 {
                ToWorker::Certificate(Signature(signature)) => return Ok(signature),
                ToWorker::Ping(facts) => {
                    let pong = FromWorker::Pong(facts.ping);
                    self.link.send(&pong, &[]).map_err(failed)?;
                }
                _ => return Err(KeyError::NotCertified("the supervisor refused".into())),
            }
        }
    }

    fn certify_segment(&self, _claim: &SegmentClaim) -> Result<[u8; 64], KeyError> {
        Err(KeyError::NotCertified("nothing is served yet".into()))
    }
}

/// Where a thread gets the supervisor's answer to what it asked.
struct Desk<T> {
    deliveries: Sender<T>,
    arrived: Arc<Mutex<Receiver<T>>>,
}

impl<T> Default for Desk<T> {
    fn default() -> Self {
        let (deliveries, arrived) = channel();
        Self {
            deliveries,
            arrived: Arc::new(Mutex::new(arrived)),
        }
    }
}

impl<T> Clone for Desk<T> {
    fn clone(&self) -> Self {
        Self {
            deliveries: self.deliveries.clone(),
            arrived: self.arrived.clone(),
        }
    }
}

impl<T> Desk<T> {
    fn deliver(&self, answer: T) {
        // Who asked may have given up.
        self.deliveries.send(answer).ok();
    }

    /// Sends `question` and waits for its answer; one asks at a time.
    fn ask(&self, link: &SupervisorChannel, question: &FromWorker) -> Result<T, String> {
        let arrived = self.arrived.lock();
        // What came too late for an earlier question.
        while arrived.try_recv().is_ok() {}
        link.send(question, &[])
            .map_err(|error| error.to_string())?;
        arrived.recv_timeout(PATIENCE).map_err(|e| e.to_string())
    }
}

/// The same while the worker serves, when another thread hears the supervisor.
struct Notary {
    link: Arc<SupervisorChannel>,
    host: HostId,
    certificates: Desk<[u8; 64]>,
}

impl Certify for Notary {
    fn host(&self) -> HostId {
        self.host
    }

    fn certify(&self, _claim: &EpochClaim) -> Result<[u8; 64], KeyError> {
        Err(KeyError::NotCertified("the start is over".into()))
    }

    fn certify_segment(&self, claim: &SegmentClaim) -> Result<[u8; 64], KeyError> {
        let question = FromWorker::CertifySegment(*claim);
        let answer = self.certificates.ask(&self.link, &question);
        answer.map_err(KeyError::NotCertified)
    }
}

type PolicyFile = Result<OwnedFd, String>;

/// Fetches the policy's text from the supervisor, which alone may read it.
struct PolicyCourier {
    link: Arc<SupervisorChannel>,
    path: PathBuf,
    desk: Desk<PolicyFile>,
}

impl PolicyCourier {
    fn start(link: Arc<SupervisorChannel>, path: PathBuf) -> Self {
        Self {
            link,
            path,
            desk: Desk::default(),
        }
    }

    fn deliver(&self, found: Result<(), String>, file: Option<OwnedFd>) {
        let file = found.and_then(|()| file.ok_or_else(|| "it came without its file".into()));
        self.desk.deliver(file);
    }

    fn source(&self) -> PolicySource {
        let (link, path, desk) = (self.link.clone(), self.path.clone(), self.desk.clone());
        Box::new(move || {
            let file = desk.ask(&link, &FromWorker::Policy).and_then(|file| file);
            match file {
                Ok(file) => read_policy(&path, file.into()).inspect(|_| {
                    link.send(&FromWorker::Accepted, &[]).ok();
                }),
                Err(why) => Err(unreadable(&path, io::Error::other(why))),
            }
        })
    }
}

//! From a worker's first message to all of its parts: rights are given up, vault and
//! audit log opened.
//!
//! Runs in: the worker.
//! Touches: the credential and the root key (PLAINTEXT), vault, audit log.
//! Imported by: mod.rs of the worker.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jarvis_audit::LogHead;
use jarvis_fs::{Backend, HandleLimits, HandleTable, InFlight, RequestBuffers, RequestMemory};
use jarvis_policy::Policy;
use jarvis_sys::{Cell, Locking, SecretPage, SharedWords};
use jarvis_vault::{Credential, LockedVault, Probe, SecretBytes, Vault, VaultError, VaultPlace};

use super::error::WorkerError;
use super::log_opening::{LogToOpen, find_log, unlocked};
use super::sandbox;
use crate::common::clock::{boot_id, keep_time};
use crate::common::policy_file::{LoadError, read_policy};
use crate::common::subordinate_ids::SubordinateIds;
use crate::ipc::programs::ThreadQuestions;
use crate::ipc::worker::{Open, Start};
use crate::process::privileges::drop_privileges;
use crate::worker::audit::AuditTrail;
use crate::worker::audit::outage::FoundLog;
use crate::worker::authorization::Authorization;
use crate::worker::commit::{CommitParts, Committer, Journal};
use crate::worker::control::ControlService;
use crate::worker::gate::Gate;
use crate::worker::identity::{Callers, ThreadClient};
use crate::worker::maintenance::MaintenanceParts;
use crate::worker::metrics::Metrics;
use crate::worker::places::Places;
use crate::worker::runner_client::RunnerClient;
use crate::worker::scheduler::SchedulerParts;
use crate::worker::secrets::Secrets;
use crate::worker::settings::Settings;
use crate::worker::status::Status;
use crate::worker::supervisor_client::SupervisorClient;
use crate::worker::tree::SecretTree;
use crate::worker::witness::time_mark;

/// Resources that the supervisor handed over with the first message.
pub(super) struct StartResources {
    pub(super) start: Start,
    vault: PathBuf,
    /// The directory of the audit log.
    pub(super) log: PathBuf,
    handles: OwnedFd,
    in_flight: OwnedFd,
    keys: SecretPage,
    requests: OwnedFd,
    /// The end of the audit log, as the last worker left it.
    log_head: Arc<LogHead>,
    programs: OwnedFd,
    /// Id of the system's boot.
    boot: [u8; 16],
    pub(super) places: Arc<Places>,
}

/// The directories of the vault and of the audit log: while they are open their paths
/// under `/proc/self/fd` are valid.
pub(super) type Directories = [OwnedFd; 2];

impl StartResources {
    /// Takes the `fds` of a start message.
    ///
    /// # Errors
    /// When fds are missing or are not what they must be.
    pub(super) fn take(
        start: Start,
        fds: Vec<OwnedFd>,
    ) -> Result<(Self, Directories), WorkerError> {
        let mut fds = fds.into_iter();
        let mut next = || {
            fds.next()
                .ok_or(WorkerError::Protocol("the start message lacks fds"))
        };
        let (vault, log) = (next()?, next()?);
        let (handles, in_flight, keys, requests) = (next()?, next()?, next()?, next()?);
        let log_head = LogHead::map(next()?)?;
        let programs = next()?;
        let file = start.config.vault.path.file_name().unwrap_or_default();
        // The directories above may be closed to the worker's user.
        let below =
            |directory: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        let resources = Self {
            vault: below(&vault).join(file),
            log: below(&log),
            handles,
            in_flight,
            keys: SecretPage::map(keys)?,
            requests,
            log_head: Arc::new(log_head),
            programs,
            boot: boot_id()?,
            places: Arc::new(Places::new(
                start.config_path.clone(),
                &start.config,
                start.host,
            )),
            start,
        };
        Ok((resources, [vault, log]))
    }

    /// Paths that only this process has, each with the one to show in its place.
    pub(super) fn shown_paths(&self) -> [(String, String); 2] {
        let config = &self.start.config;
        let pair =
            |inner: &Path, outer: &Path| (inner.display().to_string(), outer.display().to_string());
        let directory = |path: &Path| path.parent().unwrap_or(Path::new("")).to_owned();
        [
            pair(&directory(&self.vault), &directory(&config.vault.path)),
            pair(&self.log, &config.audit.dir),
        ]
    }

    /// Gives up all rights but those of one user, a few files and a few calls.
    ///
    /// # Errors
    /// Then nothing may be served.
    pub(super) fn give_up_privileges(&self, directories: &Directories) -> Result<(), WorkerError> {
        let keep_lock = sandbox::lift_memory_limit();
        match jarvis_sys::harden(self.start.config.developer)? {
            Locking::All => {}
            Locking::KeysOnly { limit } => tracing::warn!(
                limit_bytes = limit,
                "developer mode: only keys are locked in memory, values may reach swap"
            ),
        }
        drop_privileges(self.start.user, keep_lock)?;
        Ok(sandbox::enter(directories)?)
    }
}

/// A worker's parts once vault and audit log are open.
pub(super) struct WorkerParts {
    pub(super) authorization: Arc<Authorization>,
    pub(super) audit: Arc<AuditTrail>,
    pub(super) committer: Arc<Committer>,
    pub(super) secrets: Arc<Secrets>,
    pub(super) status: Arc<Status>,
    pub(super) runner: Arc<RunnerClient>,
    pub(super) tables: SharedTables,
    pub(super) maintenance: MaintenanceParts,
    /// The vault's last commit when it was opened: rotations that began up to it were
    /// another worker's.
    opened_seq: u64,
    metrics: Arc<Metrics>,
    settings: Arc<Settings>,
    callers: Arc<Callers>,
}

impl WorkerParts {
    /// Opens vault and audit log, and builds the parts. Records that the last worker
    /// owed are written before anything is served.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub(super) fn open(
        resources: &StartResources,
        how: &Open,
        policy: OwnedFd,
        supervisor: &Arc<SupervisorClient>,
    ) -> Result<Self, WorkerError> {
        let config = &resources.start.config;
        let policy = read_policy(&config.policy.path, policy.into())?;
        match SubordinateIds::load() {
            Ok(ids) => ids.put_in_force(),
            Err(error) if how.fresh => return Err(LoadError::from(error).into()),
            // A mount that is in use goes on; the policy can't be loaded anew like this.
            Err(error) => tracing::error!(%error, "nobody's subordinate ids are known"),
        }
        let (locked, probe) = unlock(resources, how)?;
        keep_time(probe.witness().clock.map(time_mark), resources.boot);
        let place = LogToOpen {
            start: &resources.start,
            path: &resources.log,
            head: &resources.log_head,
        };
        let found = find_log(place, &probe, how, supervisor)?;
        let vault = locked.start(probe)?;
        hand_over(&resources.keys, &vault)?;
        let tables = SharedTables::map(resources, how)?;
        let stores = Stores {
            journal: Journal::load(&vault, resources.start.mount, tables.handles.clone())?,
            vault: Arc::new(vault),
            found,
        };
        let parts = Self::build(resources, policy, stores, tables, supervisor)?;
        let flushed = parts.committer.flush_outbox();
        // Later ones serve nonetheless: who asks is told at once that nothing is released.
        if flushed.is_err() && how.fresh {
            return Err(WorkerError::RecordsOwed);
        }
        if resources.start.accepted.lost_log {
            // Before anything is served: the next worker goes on with this log.
            let begun = parts.committer.begin_witness_anew();
            begun.map_err(|_| WorkerError::RecordsOwed)?;
        }
        Ok(parts)
    }

    fn build(
        resources: &StartResources,
        policy: Policy,
        stores: Stores,
        tables: SharedTables,
        supervisor: &Arc<SupervisorClient>,
    ) -> Result<Self, WorkerError> {
        let start = &resources.start;
        let settings = Arc::new(Settings::from(&start.config));
        let metrics = Arc::new(Metrics::new()?);
        let runner = Arc::new(RunnerClient::new(
            settings.hooks.limit,
            settings.hooks.wanted_events.clone(),
            metrics.service.notifications.clone(),
        ));
        let audit = Arc::new(AuditTrail::new(
            stores.found,
            resources.shown_paths()[1].clone().into(),
            Box::new(supervisor.segment_signer(start.host)),
            metrics.clone(),
            runner.clone(),
            settings.clone(),
        ));
        let vault = stores.vault;
        let opened_seq = vault.counts().seq;
        let secrets = Arc::new(Secrets::new(
            vault.clone(),
            metrics.clone(),
            settings.clone(),
        ));
        let authorization = Arc::new(Authorization::new(
            policy,
            supervisor.policy_source(start.config.policy.path.clone()),
            audit.clone(),
            secrets.clone(),
            metrics.clone(),
        ));
        let committer = Arc::new(Committer::new(CommitParts {
            vault,
            secrets: secrets.clone(),
            audit: audit.clone(),
            runner: runner.clone(),
            metrics: metrics.clone(),
            settings: settings.clone(),
            handles: tables.handles.clone(),
            journal: stores.journal,
        }));
        let status = Arc::new(Status::new(
            start.started_ms,
            secrets.clone(),
            metrics.clone(),
            tables.handles.clone(),
            tables.in_flight.clone(),
            runner.clone(),
            audit.clone(),
        ));
        let programs = ThreadClient::new(ThreadQuestions::from(resources.programs.try_clone()?));
        let reads_groups = authorization.clone();
        let reads_groups = Box::new(move || reads_groups.policy().reads_groups());
        Ok(Self {
            maintenance: MaintenanceParts {
                secrets: secrets.clone(),
                committer: committer.clone(),
                audit: audit.clone(),
                metrics: metrics.clone(),
                runner: runner.clone(),
                supervisor: supervisor.clone(),
            },
            callers: Callers::new(programs, reads_groups),
            authorization,
            audit,
            committer,
            secrets,
            status,
            runner,
            tables,
            opened_seq,
            metrics,
            settings,
        })
    }

    /// The parts behind the file system, of a daemon that has what it has in `places`.
    pub(super) fn backend(&self, places: Arc<Places>) -> Backend<SecretTree> {
        let gate = Gate {
            committer: self.committer.clone(),
            secrets: self.secrets.clone(),
            authorization: self.authorization.clone(),
            callers: self.callers.clone(),
            audit: self.audit.clone(),
            metrics: self.metrics.clone(),
            settings: self.settings.clone(),
        };
        let tree = Arc::new(SecretTree {
            gate,
            secrets: self.secrets.clone(),
            authorization: self.authorization.clone(),
            audit: self.audit.clone(),
            metrics: self.metrics.clone(),
            started_ms: self.status.started_ms(),
        });
        Backend {
            control: Arc::new(ControlService {
                authorization: self.authorization.clone(),
                secrets: self.secrets.clone(),
                committer: self.committer.clone(),
                audit: self.audit.clone(),
                status: self.status.clone(),
                metrics: self.metrics.clone(),
                settings: self.settings.clone(),
                places,
                in_flight: self.tables.in_flight.clone(),
            }),
            callers: self.callers.clone(),
            refusals: tree.clone(),
            tree,
        }
    }

    /// The parts of the scheduler.
    pub(super) fn scheduler(&self) -> SchedulerParts {
        SchedulerParts {
            secrets: self.secrets.clone(),
            committer: self.committer.clone(),
            audit: self.audit.clone(),
            runner: self.runner.clone(),
            settings: self.settings.clone(),
            opened_seq: self.opened_seq,
        }
    }
}

/// Vault and audit log, open.
struct Stores {
    vault: Arc<Vault>,
    journal: Journal,
    found: FoundLog,
}

/// The tables that outlive a worker.
pub(super) struct SharedTables {
    pub(super) handles: Arc<HandleTable>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) requests: Arc<RequestBuffers>,
}

impl SharedTables {
    fn map(resources: &StartResources, how: &Open) -> Result<Self, WorkerError> {
        let mount = &resources.start.config.mount;
        let limits = HandleLimits {
            handles: mount.handles_per_uid,
            pending: mount.pending_opens_per_uid,
        };
        let words = SharedWords::map(resources.handles.try_clone()?)?;
        let handles = Arc::new(HandleTable::new(words, limits)?);
        let words = SharedWords::map(resources.in_flight.try_clone()?)?;
        let in_flight = Arc::new(InFlight::new(words, how.crashed)?);
        let requests = RequestMemory::map(resources.requests.try_clone()?)?;
        Ok(Self {
            handles,
            in_flight,
            requests: RequestBuffers::new(requests),
        })
    }
}

fn unlock(resources: &StartResources, how: &Open) -> Result<(LockedVault, Probe), WorkerError> {
    let locked = lock_vault(resources, how)?;
    if let Some(root) = resources.keys.get(Cell::RootKey)
        && let Ok(root) = root.as_slice().try_into()
    {
        let probe = locked.resume(root, slot_of(resources))?;
        return Ok((locked, probe));
    }
    let credential = resources.keys.get(Cell::Credential);
    let credential = credential.ok_or(WorkerError::NothingToUnlock)?;
    let credential = match credential.split_first() {
        Some((b'k', key)) => Credential::KeyFile(SecretBytes::new(key.to_vec())),
        Some((b'p', phrase)) => Credential::Passphrase(SecretBytes::new(phrase.to_vec())),
        _ => return Err(WorkerError::NothingToUnlock),
    };
    let probe = locked.unlock(&credential)?;
    Ok((locked, probe))
}

fn lock_vault(resources: &StartResources, how: &Open) -> Result<LockedVault, WorkerError> {
    let path = &resources.vault;
    let place = || VaultPlace {
        path: path.clone(),
        shown: resources.start.config.vault.path.clone(),
        directory: resources.start.vault_directory.clone(),
    };
    let open = || {
        if how.fresh {
            LockedVault::open(place())
        } else {
            LockedVault::reopen(place())
        }
    };
    Ok(match open() {
        // Perhaps a worker whose supervisor was killed, in its last moments.
        Err(VaultError::InUse { .. }) if unlocked(path) => open()?,
        result => result?,
    })
}

/// The key slot that an earlier worker opened; none of a release before this one left it.
fn slot_of(resources: &StartResources) -> Option<u8> {
    match resources.keys.get(Cell::Credential)?.as_slice() {
        &[b's', slot] => Some(slot),
        _ => None,
    }
}

/// Leaves the root key for the next worker. The credential that unlocked it is done with: in
/// its place stands which slot it opened.
fn hand_over(keys: &SecretPage, vault: &Vault) -> Result<(), WorkerError> {
    if keys.get(Cell::RootKey).is_none() {
        keys.put(Cell::RootKey, vault.root_key())?;
    }
    keys.wipe(Cell::Credential);
    if let Some(slot) = vault.slot() {
        keys.put(Cell::Credential, &[b's', slot])?;
    }
    Ok(())
}

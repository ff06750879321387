//! Authorise, record, release: the one path to plaintext.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jarvis_audit::{
    Action, AppendError, Certify, Checkpoint, Durability, Event, Log, Outcome, PruneError,
    RotationError, Thresholds,
};
use jarvis_fs::{Caller, FsError, HandleTable, HeaderIds, InFlight, KernelIds, ThreadIds};
use jarvis_policy::{Decision, Policy, Rule, Verb};
use jarvis_vault::{
    NewVersion, Node, Secret, SecretBytes, Vault, VaultError, Version, VersionState,
};
use jiff::SignedDuration;
use parking_lot::{Mutex, MutexGuard, RwLock};
use rustix::io::Errno;

use crate::common::clock::{DAY_MS, HOUR_MS, now, now_ms};
use crate::common::policy_file::LoadError;
use crate::config::{Config, EventKind, ReadDurability};
use crate::ipc::runner as ipc_runner;
use crate::ipc::worker::Facts;
use crate::worker::audit::denial_limit::Denials;
use crate::worker::audit::detector::Suspicions;
use crate::worker::commit::change::{Change, Kind};
use crate::worker::commit::journal::Journal;
use crate::worker::control;
use crate::worker::identity::exe::ExeLookup;
use crate::worker::metrics::{Gauges, Metrics};
use crate::worker::runner_client::RunnerClient;
use crate::worker::scheduler::Bell;

/// Everything a request may need, and the order in which it is asked.
pub(crate) struct Gate {
    pub(crate) vault: Vault,
    policies: RwLock<Policies>,
    /// The kernel tells a thread's ids without `/proc`.
    brief: AtomicBool,
    programs: ExeLookup,
    policy_source: PolicySource,
    audit: Log,
    notary: Notary,
    pub(crate) handles: Arc<HandleTable>,
    pub(crate) metrics: Metrics,
    pub(crate) settings: Settings,
    pub(crate) started_ms: i64,
    pub(crate) journal: Journal,
    pub(crate) errands: RunnerClient,
    pub(crate) watch: Arc<InFlight>,
    facts: Mutex<Facts>,
    /// Commits whose records are written; what every other record carries.
    recorded: AtomicU64,
    /// A commit's record could not be written yet.
    owed: AtomicBool,
    /// Held from a commit to its record: a later commit's record confirms all
    /// earlier ones, so they must be written in their order.
    pub(crate) changing: Mutex<()>,
    retiring: AtomicBool,
    /// Grows with every revocation.
    pub(crate) fences: AtomicU64,
    pub(crate) scheduler: Bell,
    /// The vault's last commit when this worker opened it.
    pub(crate) opened_seq: u64,
    denials: Denials,
    pub(crate) suspicions: Suspicions,
    /// The last record that this process found, or wrote as it began.
    pub(crate) recall_until: u64,
}

/// The policy in force, and what it follows.
#[derive(Default)]
struct Policies {
    current: Arc<Policy>,
    /// The last one in force that did not ask for groups: it decides about
    /// callers that were identified without them before a reload.
    groupless: Arc<Policy>,
}

impl Policies {
    fn followed_by(self, policy: Policy) -> Self {
        let current = Arc::new(policy);
        Self {
            groupless: match current.reads_groups() {
                true => self.groupless,
                false => current.clone(),
            },
            current,
        }
    }
}

/// What of the configuration matters after the start.
pub(crate) struct Settings {
    pub(crate) life_ms: i64,
    pub(crate) grace_ms: i64,
    /// Interval of rotations by schedule, of those that have none of their own.
    pub(crate) rotate_every_ms: Option<i64>,
    /// When they may happen.
    pub(crate) windows: Option<String>,
    /// Warnings that a version's life ends, in milliseconds before, the first first.
    pub(crate) warnings_ms: Vec<i64>,
    /// How long a revocation can be approved and executed.
    pub(crate) revocation_ms: i64,
    pub(crate) keep: usize,
    pub(crate) recovery_ms: i64,
    pub(crate) durability: Durability,
    /// How long audit records are kept, where that is not for ever.
    pub(crate) retention: Option<SignedDuration>,
    pub(crate) thresholds: Thresholds,
    /// How long a hook may take.
    pub(crate) hook_limit: Duration,
    /// What somebody wants to be notified of.
    pub(crate) wanted: Vec<EventKind>,
}

impl Settings {
    pub(crate) fn from(config: &Config) -> Self {
        Self {
            life_ms: i64::from(config.rotation.expiry_days) * DAY_MS,
            grace_ms: i64::from(config.rotation.grace_days) * DAY_MS,
            rotate_every_ms: config.rotation.schedule_days.map(|d| i64::from(d) * DAY_MS),
            windows: config.rotation.windows.clone(),
            warnings_ms: config.rotation.warnings_ms(),
            revocation_ms: i64::from(config.rotation.revocation_hours) * HOUR_MS,
            keep: config.rotation.keep_versions,
            recovery_ms: i64::from(config.rotation.recovery_days) * DAY_MS,
            durability: match config.audit.durability {
                ReadDurability::Write => Durability::Write,
                ReadDurability::Sync => Durability::Sync,
            },
            retention: match config.audit.retention_days {
                0 => None,
                days => Some(SignedDuration::from_hours(i64::from(days) * 24)),
            },
            thresholds: config.audit.suspicion.thresholds(),
            hook_limit: Duration::from_secs(config.hooks.timeout_secs.into()),
            wanted: config
                .notify
                .iter()
                .flat_map(|n| n.events.clone())
                .collect(),
        }
    }
}

/// A snapshot as the file system holds it.
pub(crate) struct Snapshot(pub(crate) SecretBytes);

impl AsRef<[u8]> for Snapshot {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

/// Where the policy comes from.
pub(crate) type PolicySource = Box<dyn Fn() -> Result<Policy, LoadError> + Send + Sync>;

/// Who certifies the keys of segments.
pub(crate) type Notary = Box<dyn Certify + Send + Sync>;

/// The parts of a gate.
pub(crate) struct Parts {
    pub(crate) vault: Vault,
    pub(crate) policy: Policy,
    pub(crate) policy_source: PolicySource,
    pub(crate) audit: Log,
    pub(crate) notary: Notary,
    pub(crate) handles: Arc<HandleTable>,
    pub(crate) metrics: Metrics,
    pub(crate) settings: Settings,
    pub(crate) programs: ExeLookup,
    pub(crate) started_ms: i64,
    pub(crate) journal: Journal,
    pub(crate) watch: Arc<InFlight>,
    /// The sequence number up to which the audit log has the vault's commits.
    pub(crate) recorded: u64,
}

/// The policy's view of a caller.
pub(crate) fn subject(caller: &Caller) -> jarvis_policy::Caller<'_> {
    jarvis_policy::Caller {
        uid: caller.uid,
        gid: caller.gid,
        groups: caller.groups.as_deref().unwrap_or_default(),
        containerized: caller.containerized,
    }
}

/// Client and rule of a decision, for a record.
pub(crate) fn rule_of<'p>(decision: &Decision<'p>) -> (Option<&'p str>, &'p str) {
    match decision.rule() {
        Rule::Allow { client, pattern } | Rule::Deny { client, pattern } => (Some(client), pattern),
        Rule::Default => (None, "default"),
    }
}

impl Gate {
    pub(crate) fn new(parts: Parts) -> Self {
        let opened_seq = parts.vault.counts().seq;
        Self {
            vault: parts.vault,
            policies: RwLock::new(Policies::default().followed_by(parts.policy)),
            brief: AtomicBool::new(true),
            programs: parts.programs,
            policy_source: parts.policy_source,
            recall_until: parts.audit.checkpoint().seq,
            audit: parts.audit,
            notary: parts.notary,
            handles: parts.handles,
            errands: RunnerClient::new(
                parts.settings.hook_limit,
                parts.settings.wanted.clone(),
                parts.metrics.notifications.clone(),
            ),
            metrics: parts.metrics,
            suspicions: Suspicions::new(parts.settings.thresholds),
            settings: parts.settings,
            started_ms: parts.started_ms,
            journal: parts.journal,
            watch: parts.watch,
            facts: Mutex::default(),
            recorded: AtomicU64::new(parts.recorded),
            owed: AtomicBool::new(true),
            changing: Mutex::new(()),
            retiring: AtomicBool::new(false),
            fences: AtomicU64::new(0),
            scheduler: Bell::default(),
            opened_seq,
            denials: Denials::default(),
        }
    }

    /// The policy in force.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policies.read().current.clone()
    }

    /// The policy to judge `caller` by: the one in force, unless it asks for
    /// groups and the caller was identified without them, under the last one
    /// that did not.
    pub(crate) fn policy_for(&self, caller: &Caller) -> Arc<Policy> {
        let policies = self.policies.read();
        match caller.groups {
            Some(_) => policies.current.clone(),
            None => policies.groupless.clone(),
        }
    }

    /// The thread's ids, where nothing depends on its groups.
    pub(crate) fn brief_thread(&self, tid: u32) -> Option<ThreadIds> {
        if !self.brief.load(Ordering::Relaxed) || self.policy().reads_groups() {
            return None;
        }
        match jarvis_sys::thread(tid) {
            Ok(thread) => Some(ThreadIds {
                process: thread.process,
                real: (thread.uids.real, thread.gids.real),
                fs: (thread.uids.fs, thread.gids.fs),
                kernel_ids: KernelIds {
                    cgroup: thread.cgroup,
                    thread: thread.number,
                },
            }),
            // `/proc` will tell whether it vanished or the kernel is too old.
            Err(Errno::SRCH) => None,
            Err(_) => {
                self.brief.store(false, Ordering::Relaxed);
                None
            }
        }
    }

    /// Replaces the policy by the file's; a refused file changes nothing. Both
    /// are recorded.
    ///
    /// # Errors
    /// [`LoadError`].
    pub(crate) fn reload(&self, actor: Option<&Caller>) -> Result<usize, LoadError> {
        let loaded = (self.policy_source)();
        let failure = loaded.as_ref().err().map(ToString::to_string);
        let event = Event {
            result: if failure.is_some() {
                Outcome::Failed
            } else {
                Outcome::Ok
            },
            reason: failure.as_deref().or(Some("reload")),
            ..self.event(Action::Policy, actor)
        };
        self.append(&event, Durability::Sync).ok();
        let policy = loaded?;
        let clients = policy.clients();
        let mut policies = self.policies.write();
        *policies = std::mem::take(&mut *policies).followed_by(policy);
        drop(policies);
        tracing::info!(clients, "policy loaded");
        Ok(clients)
    }

    /// How far the audit log has come.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        self.audit.checkpoint()
    }

    /// Waits until the audit log's segment is to end, at most `limit`; gives
    /// whether it is.
    pub(crate) fn await_segment_end(&self, limit: Duration) -> bool {
        self.audit.await_segment_end(limit)
    }

    /// Ends the audit log's segment; gives the number of the next.
    ///
    /// # Errors
    /// [`RotationError`].
    pub(crate) fn rotate_segment(&self) -> Result<u32, RotationError> {
        self.audit.rotate_segment(&*self.notary)
    }

    /// Removes what is older than the retention.
    ///
    /// # Errors
    /// [`PruneError`].
    pub(crate) fn prune_audit(&self) -> Result<usize, PruneError> {
        match self.settings.retention {
            None => Ok(0),
            Some(retention) => self.audit.prune(now() - retention),
        }
    }

    /// A record's common part.
    pub(crate) fn event<'a>(&self, action: Action, caller: Option<&'a Caller>) -> Event<'a> {
        let workload = caller.and_then(|c| c.workload.as_deref());
        Event {
            unit: workload.and_then(|workload| workload.unit.as_deref()),
            container: workload.and_then(|workload| workload.container.as_deref()),
            uid: caller.map(|c| c.uid),
            gid: caller.map(|c| c.gid),
            pid: caller.map(|c| c.pid),
            ..Event::new(action, Outcome::Ok, self.recorded.load(Ordering::Acquire))
        }
    }

    /// Records `event`, and what is suspicious about it.
    ///
    /// # Errors
    /// [`FsError::Io`] when the record was not written.
    pub(crate) fn append(&self, event: &Event<'_>, durability: Durability) -> Result<(), FsError> {
        self.append_raw(event, durability).map_err(|error| {
            tracing::error!(%error, "audit record not written");
            FsError::Io
        })?;
        self.consider(event);
        Ok(())
    }

    fn append_raw(&self, event: &Event<'_>, durability: Durability) -> Result<(), AppendError> {
        let result = self.audit.append(event, durability);
        if let Err(error) = &result {
            self.check_serving();
            if matches!(error, AppendError::Poisoned) {
                // Another worker opens the log anew and finds what is owed; this
                // one can do nothing any more.
                tracing::error!(%error, "ending the worker");
                std::process::abort();
            }
        }
        match &result {
            Ok(_) => self.metrics.audit_records.inc(),
            Err(_) => self.metrics.audit_errors.inc(),
        }
        result.map(|_| ())
    }

    /// Tells whoever wants to know.
    pub(crate) fn announce(&self, change: &Change) {
        let kind = match change.action {
            Kind::Rotate => EventKind::Rotation,
            Kind::Expiry => EventKind::Expiry,
            Kind::Revoke if change.fences => EventKind::Revocation,
            Kind::Revoke if change.wanted => EventKind::ApprovalWanted,
            _ => return,
        };
        let mut event = ipc_runner::Event::new(kind);
        if let Some(name) = &change.name {
            event = event.secret(name);
        }
        if let (Some(version), Some(kid)) = (change.version, &change.kid) {
            event = event.version(version, kid);
        }
        if let Some(actor) = &change.actor {
            event = event.actor(actor.uid);
        }
        if let Some(reason) = &change.reason {
            event = event.reason(reason);
        }
        self.errands.notify(event);
    }

    /// Records the changes of commit `seq`, or remembers that they are owed.
    pub(crate) fn record_changes(&self, seq: u64, changes: &[Change]) -> Result<(), AppendError> {
        let result = self.append_changes(seq, changes, false);
        match &result {
            Ok(()) => self.confirm(seq),
            Err(_) => self.owed.store(true, Ordering::Release),
        }
        result
    }

    fn append_changes(&self, seq: u64, changes: &[Change], late: bool) -> Result<(), AppendError> {
        for (index, change) in changes.iter().enumerate() {
            // Only the last record claims the commit: a crash before it makes
            // the whole commit's records come again, marked as recovered.
            let last = index + 1 == changes.len();
            let actor = change.actor.as_ref();
            let event = Event {
                name: change.name.as_deref(),
                id: change.id,
                version: change.version,
                kid: change.kid.as_deref(),
                uid: actor.map(|a| a.uid),
                gid: actor.map(|a| a.gid),
                pid: actor.map(|a| a.pid),
                unit: actor.and_then(|a| a.unit.as_deref()),
                container: actor.and_then(|a| a.container.as_deref()),
                client: actor.map(|a| a.client.as_str()).filter(|c| !c.is_empty()),
                rule: actor.map(|a| a.rule.as_str()),
                reason: change.reason.as_deref(),
                result: match change.failed {
                    true => Outcome::Failed,
                    false => Outcome::Ok,
                },
                recovered: late,
                ..Event::new(
                    change.action.action(),
                    Outcome::Ok,
                    if last { seq } else { seq.saturating_sub(1) },
                )
            };
            self.append_raw(&event, Durability::Sync)?;
        }
        Ok(())
    }

    fn confirm(&self, seq: u64) {
        self.recorded.fetch_max(seq, Ordering::AcqRel);
        self.vault.confirm_recorded(seq);
    }

    /// Writes the records of commits that have none: after a crash between the
    /// two, or once a failing audit log works again. Until then nothing is
    /// released.
    ///
    /// # Errors
    /// [`FsError::Io`] when a record still cannot be written.
    pub(crate) fn settle(&self) -> Result<(), FsError> {
        if !self.owed.load(Ordering::Acquire) {
            return Ok(());
        }
        let turn = self.changing.lock();
        self.settle_locked(&turn)
    }

    /// The same for who makes a change: no other commit stands without its record
    /// meanwhile.
    ///
    /// # Errors
    /// [`FsError::Io`].
    pub(crate) fn settle_locked(&self, _turn: &MutexGuard<'_, ()>) -> Result<(), FsError> {
        if !self.owed.load(Ordering::Acquire) {
            return Ok(());
        }
        let recorded = self.recorded.load(Ordering::Acquire);
        let pending = self
            .vault
            .pending_notes(recorded)
            .map_err(|e| self.trouble(&e))?;
        for commit in pending.chunk_by(|a, b| a.seq == b.seq) {
            let changes: Vec<Change> = commit
                .iter()
                .filter_map(|pending| serde_json::from_slice(&pending.note).ok())
                .collect();
            let Some(seq) = commit.first().map(|pending| pending.seq) else {
                continue;
            };
            self.append_changes(seq, &changes, true).map_err(|error| {
                tracing::error!(%error, "audit record not written");
                FsError::Io
            })?;
            self.confirm(seq);
        }
        self.owed.store(false, Ordering::Release);
        Ok(())
    }

    /// What the configuration says of a new version by `by_uid`.
    pub(crate) fn put<'a>(
        &self,
        by_uid: u32,
        pinned: &'a dyn Fn(u64, u32) -> bool,
    ) -> NewVersion<'a> {
        NewVersion {
            life_ms: self.settings.life_ms,
            keep: self.settings.keep,
            pinned,
            ..NewVersion::by(by_uid, now_ms())
        }
    }

    /// A failure below: for the log in full, for the caller as EIO.
    pub(crate) fn trouble(&self, error: &VaultError) -> FsError {
        self.metrics.vault_errors.inc();
        if matches!(error, VaultError::Damaged { .. }) {
            self.metrics.crypto_errors.inc();
        }
        tracing::error!(%error, "vault");
        FsError::Io
    }

    pub(crate) fn node(&self, ino: u64) -> Result<Arc<Node>, FsError> {
        match self.vault.node(ino) {
            Ok(Some(node)) => Ok(node),
            Ok(None) => Err(FsError::NotFound),
            Err(error) => Err(self.trouble(&error)),
        }
    }

    pub(crate) fn allows(&self, caller: &Caller, verb: Verb, ino: u64) -> bool {
        self.node(ino).is_ok_and(|node| {
            let policy = self.policy_for(caller);
            policy.decide(&subject(caller), verb, &node.path).allowed()
        })
    }

    /// Records a refusal; that it is one does not depend on the record.
    pub(crate) fn deny(&self, event: Event<'_>) {
        self.refuse(FsError::Denied, event);
    }

    /// The same, where the caller is told `why`.
    pub(crate) fn refuse(&self, why: FsError, event: Event<'_>) {
        self.metrics.decided(false);
        if let Some(uid) = event.uid {
            let admission = self.denials.admit(uid, Instant::now());
            if let Some(count) = admission.counted {
                self.record_counted(uid, count);
            }
            if !admission.record {
                return;
            }
        }
        let event = Event {
            action: Action::Deny,
            result: Outcome::Denied,
            errno: Some(why.code()),
            ..event
        };
        // A refusal stands also when it cannot be recorded; `append` logs that.
        self.append(&event, Durability::Write).ok();
    }

    fn record_counted(&self, uid: u32, count: u64) {
        let event = Event {
            result: Outcome::Denied,
            uid: Some(uid),
            errno: Some(FsError::Denied.code()),
            reason: Some("denials that were not recorded one by one"),
            count: Some(count),
            ..self.event(Action::Limit, None)
        };
        self.append(&event, Durability::Write).ok();
    }

    /// Asks the policy; a refusal is recorded.
    pub(crate) fn authorise_read<'p>(
        &self,
        policy: &'p Policy,
        caller: &Caller,
        node: &Node,
    ) -> Result<Decision<'p>, FsError> {
        let decision = policy.decide(&subject(caller), Verb::Read, &node.path);
        if decision.allowed() {
            self.metrics.decided(true);
            return Ok(decision);
        }
        let (client, rule) = rule_of(&decision);
        self.deny(Event {
            name: Some(&node.path),
            id: Some(node.id),
            client,
            rule: Some(rule),
            reason: Some(Verb::Read.as_str()),
            ..self.event(Action::Deny, Some(caller))
        });
        Err(FsError::Denied)
    }

    /// What `version` of `secret` is good for now.
    pub(crate) fn state_of(&self, secret: &Secret, version: &Version) -> VersionState {
        let grace = secret.settings.grace_ms.unwrap_or(self.settings.grace_ms);
        version.state(now_ms(), grace)
    }

    /// Decrypts a version (the current one unless a number is `wanted`) and lets
    /// `release` decide over it; a version pruned in between is looked up again.
    pub(crate) fn with_version<T>(
        &self,
        ino: u64,
        wanted: Option<u32>,
        release: impl FnOnce(&Node, &Version, SecretBytes) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        for _ in 0..3 {
            let node = self.node(ino)?;
            let secret = node.live_secret().ok_or(FsError::NotFound)?;
            let current = self.servable(secret, wanted)?;
            match self.vault.value(&node, current.number) {
                Ok(Some(value)) => {
                    self.metrics.decryptions.inc();
                    return release(&node, current, value);
                }
                Ok(None) => {}
                Err(error) => return Err(self.trouble(&error)),
            }
        }
        Err(FsError::Io)
    }

    /// The version that an open gets now.
    fn servable<'s>(
        &self,
        secret: &'s Secret,
        wanted: Option<u32>,
    ) -> Result<&'s Version, FsError> {
        let version = match wanted {
            Some(number) => secret.version(number),
            None => secret.newest(),
        };
        let version = version.ok_or(FsError::NotFound)?;
        let over = version.expires_ms <= now_ms() && secret.settings.refuse_expired;
        match self.state_of(secret, version) {
            VersionState::Revoked => Err(FsError::Revoked),
            VersionState::Current | VersionState::Grace if over => Err(FsError::Expired),
            VersionState::Current | VersionState::Grace => Ok(version),
            VersionState::Retired | VersionState::Deprecated | VersionState::Destroyed => {
                Err(FsError::NotFound)
            }
        }
    }

    pub(crate) fn record_read(
        &self,
        caller: &Caller,
        decision: &Decision<'_>,
        (node, version): (&Node, &Version),
        resent: bool,
    ) -> Result<(), FsError> {
        let (client, rule) = rule_of(decision);
        let exe = self.programs.exe_at_first_read(caller, node.id);
        let event = Event {
            name: Some(&node.path),
            id: Some(node.id),
            version: Some(version.number),
            kid: Some(&version.kid),
            exe: exe.as_deref(),
            client,
            rule: Some(rule),
            resent,
            ..self.event(Action::Read, Some(caller))
        };
        self.append(&event, self.settings.durability)
    }

    /// Destroys what was deleted longer ago than the recovery window, and counts
    /// what has expired.
    pub(crate) fn housekeep(&self) {
        let (now, mut expired) = (now_ms(), 0);
        let walk = self.vault.walk(jarvis_vault::ROOT, &mut |_, secret| {
            expired += i64::from(secret.current().is_some_and(|v| v.expires_ms <= now));
        });
        match walk {
            Ok(()) => self.metrics.expired.set(expired),
            Err(error) => drop(self.trouble(&error)),
        }
        if let Err(error) = control::purge_expired(self) {
            tracing::error!(error = %error.message, "housekeeping");
        }
    }

    pub(crate) fn gauges(&self) -> Gauges {
        let stale = |&(ino, version): &(u64, u32)| {
            let node = self.node(ino).ok();
            let current = node.as_ref().and_then(|n| n.live_secret()?.current());
            current.is_none_or(|current| current.number != version)
        };
        Gauges {
            secrets: self.vault.counts().secrets,
            handles: self.handles.open() as u64,
            stale: self.handles.versions().filter(stale).count() as u64,
            resent: self.watch.resent(),
            facts: *self.facts.lock(),
        }
    }

    /// Writes the stop record. Who asks for anything from here on gets no
    /// answer: the kernel will ask the next worker.
    pub(crate) fn retire(&self, reason: &str) {
        self.tell_counted(self.denials.drain());
        self.retiring.store(true, Ordering::Release);
        let recorded = self.recorded.load(Ordering::Acquire);
        if let Err(error) = self.audit.stop(recorded, Some(reason)) {
            tracing::error!(%error, "no stop record");
        }
    }

    /// Records what was only counted in windows that are over.
    pub(crate) fn tell_overdue(&self) {
        self.tell_counted(self.denials.drain_over(Instant::now()));
    }

    fn tell_counted(&self, counted: Vec<(u32, u64)>) {
        for (uid, count) in counted {
            self.record_counted(uid, count);
        }
    }

    /// Does not return once the worker retires; the process ends soon.
    pub(crate) fn check_serving(&self) {
        while self.retiring.load(Ordering::Acquire) {
            std::thread::park();
        }
    }

    /// What the supervisor counted.
    pub(crate) fn learn(&self, facts: Facts) {
        *self.facts.lock() = facts;
    }

    pub(crate) fn uptime_secs(&self) -> u64 {
        u64::try_from(now_ms().saturating_sub(self.started_ms) / 1000).unwrap_or_default()
    }
}

impl Gate {
    /// A record about somebody whose identity is only claimed.
    pub(crate) fn claimed<'a>(&self, action: Action, claim: HeaderIds) -> Event<'a> {
        Event {
            uid: Some(claim.uid),
            gid: Some(claim.gid),
            pid: Some(claim.tid),
            ..self.event(action, None)
        }
    }
}

//! The audit trail: every record that a worker writes passes here, and plaintext is
//! released against one ([`Recorded`]).
//!
//! Runs in: the worker.
//! Touches: the audit log's directory. No vault, no value.
//! Imported by: secrets (for the token), authorization, commit, gate, control, scheduler, tree,
//! maintenance.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use jarvis_audit::{
    Action, AppendError, Certify, Checkpoint, ClockJump, Durability, Event, FIRST_NAMESPACE,
    HostId, Log, Outcome, PruneError, RecordMark, RotationError,
};
use jarvis_fs::{Caller, FsError, HeaderIds, NamespaceOwner};
use jarvis_policy::{Decision, Rule};

use crate::common::clock::{later, rfc3339, settled_ms, timestamp};
use crate::common::timeline::{TimeEvent, TimeEventKind};
use crate::worker::metrics::Metrics;
use crate::worker::runner_client::RunnerClient;
use crate::worker::settings::Settings;

mod denial_limit;
pub(crate) mod detector;
pub(crate) mod outage;
mod untold;

use denial_limit::{CountedDenials, DenialLimit};
use detector::DetectorFeed;
use outage::{FoundLog, LogState, RecordError};

/// How long to wait for a log that is not open before looking at it again.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// Certifies the keys of segments.
pub(crate) type Signer = Box<dyn Certify + Send + Sync>;

/// Proof that a release of plaintext of one secret stands in the audit log. Only
/// [`AuditTrail`] makes one.
pub(crate) struct Recorded {
    secret: u64,
}

impl Recorded {
    /// Id of the secret that the record is about.
    pub(crate) fn secret(&self) -> u64 {
        self.secret
    }
}

/// The version of a secret that a record is about.
#[derive(Clone, Copy)]
pub(crate) struct RecordSubject<'a> {
    pub(crate) name: &'a str,
    /// The secret's id, its inode number.
    pub(crate) id: u64,
    pub(crate) version: u32,
    pub(crate) kid: &'a str,
}

impl<'a> RecordSubject<'a> {
    fn of<'e>(self, event: Event<'e>) -> Event<'e>
    where
        'a: 'e,
    {
        Event {
            name: Some(self.name),
            id: Some(self.id),
            version: Some(self.version),
            kid: Some(self.kid),
            ..event
        }
    }
}

/// How a read was decided and by whom it is made.
pub(crate) struct ReadDecision<'a> {
    pub(crate) client: Option<&'a str>,
    pub(crate) rule: &'a str,
    /// The program of the caller, where it was asked for.
    pub(crate) exe: Option<&'a str>,
    /// The kernel had sent the request to an earlier worker.
    pub(crate) resent: bool,
}

/// The audit log as one worker writes it.
pub(crate) struct AuditTrail {
    /// Empty until the log can be opened.
    log: OnceLock<Log>,
    state: LogState,
    signer: Signer,
    metrics: Arc<Metrics>,
    runner: Arc<RunnerClient>,
    settings: Arc<Settings>,
    /// Sequence number of the vault up to which commits have their records: every
    /// record carries it, so that the next worker knows what is owed.
    recorded_seq: AtomicU64,
    /// Set once the stop record is about to be written: no record may follow it.
    retiring: AtomicBool,
    denials: DenialLimit,
    detector: DetectorFeed,
}

/// Client and rule of a decision, for a record.
pub(crate) fn rule_of<'p>(decision: &Decision<'p>) -> (Option<&'p str>, &'p str) {
    match decision.rule() {
        Rule::Allow { client, pattern } | Rule::Deny { client, pattern } => (Some(client), pattern),
        Rule::Default => (None, "default"),
    }
}

impl AuditTrail {
    /// The trail into the log that was `found`; `names`: the log's directory as this
    /// process names it, and as others do.
    pub(crate) fn new(
        found: FoundLog,
        names: [String; 2],
        signer: Signer,
        metrics: Arc<Metrics>,
        runner: Arc<RunnerClient>,
        settings: Arc<Settings>,
    ) -> Self {
        let (log, recorded_seq, opener, failure) = match found {
            FoundLog::Open(opened) => (opened.log.into(), opened.recorded_seq, None, None),
            FoundLog::Failing(opener, error) => (OnceLock::new(), 0, Some(opener), Some(error)),
        };
        // Of a log that is not open yet all is another worker's.
        let found_seq = log.get().map_or(u64::MAX, Log::last_seq);
        metrics.service.audit_log_ready.set(1);
        let trail = Self {
            detector: DetectorFeed::new(settings.audit.thresholds, found_seq),
            log,
            state: LogState::new(opener, names),
            signer,
            metrics,
            runner,
            settings,
            recorded_seq: AtomicU64::new(recorded_seq),
            retiring: AtomicBool::new(false),
            denials: DenialLimit::default(),
        };
        if let Some(error) = failure {
            trail.begin_outage(&error);
        }
        trail
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
            account: caller
                .and_then(Caller::foreign)
                .map(NamespaceOwner::account),
            ..Event::new(action, Outcome::Ok, self.recorded_seq())
        }
    }

    /// A record's common part, about somebody whose identity is only claimed.
    pub(crate) fn claimed<'a>(&self, action: Action, header: HeaderIds) -> Event<'a> {
        Event {
            uid: Some(header.uid),
            gid: Some(header.gid),
            pid: Some(header.tid),
            ..self.event(action, None)
        }
    }

    /// Records `event`, and what is suspicious about it.
    ///
    /// # Errors
    /// [`FsError::Io`] when the record was not written.
    pub(crate) fn append(&self, event: &Event<'_>, durability: Durability) -> Result<(), FsError> {
        self.note(
            self.log()
                .and_then(|log| Ok(log.append(event, durability)?)),
        )
        .map_err(|_| FsError::Io)?;
        self.consider(event);
        Ok(())
    }

    /// Records `event` about a change, in which nothing suspicious is looked for; durably,
    /// and if it is `urgent`, with the room that is kept for revocations.
    ///
    /// # Errors
    /// [`RecordError`].
    pub(crate) fn append_change(
        &self,
        event: &Event<'_>,
        urgent: bool,
    ) -> Result<RecordMark, RecordError> {
        self.note(self.log().and_then(|log| {
            let written = match event {
                event if urgent => log.append_urgent(event),
                event => log.append_durable(event),
            };
            Ok(written?)
        }))
    }

    /// Counts a record that was written, or was not.
    fn note<T>(&self, result: Result<T, RecordError>) -> Result<T, RecordError> {
        match &result {
            Ok(_) => self.metrics.service.audit_records.inc(),
            Err(error) => {
                self.check_serving();
                self.metrics.service.audit_errors.inc();
                self.note_failure(error);
            }
        }
        result
    }

    /// The last record, which is on disk when this returns.
    ///
    /// # Errors
    /// [`RecordError`].
    pub(crate) fn durable_mark(&self) -> Result<RecordMark, RecordError> {
        Ok(self.log()?.durable_mark()?)
    }

    /// Id of the host whose log it is.
    pub(crate) fn host(&self) -> HostId {
        self.signer.host()
    }

    /// Records a read before anything is released.
    ///
    /// # Errors
    /// [`FsError::Io`] when the record was not written: nothing may be released.
    pub(crate) fn read(
        &self,
        caller: &Caller,
        subject: RecordSubject<'_>,
        decision: &ReadDecision<'_>,
    ) -> Result<Recorded, FsError> {
        let event = subject.of(Event {
            exe: decision.exe,
            client: decision.client,
            rule: Some(decision.rule),
            resent: decision.resent,
            ..self.event(Action::Read, Some(caller))
        });
        self.append(&event, self.settings.audit.durability)?;
        Ok(Recorded { secret: subject.id })
    }

    /// The token for a handle in the table: no handle gets there before its read is
    /// recorded.
    pub(crate) fn read_of_handle(&self, secret: u64) -> Recorded {
        Recorded { secret }
    }

    /// Records the export of `subjects`, all versions of one secret, before they leave.
    ///
    /// # Errors
    /// [`FsError::Io`] when a record was not written: nothing may be released.
    pub(crate) fn export(
        &self,
        caller: &Caller,
        secret: u64,
        subjects: &[RecordSubject<'_>],
        (client, rule): (&str, &str),
    ) -> Result<Recorded, FsError> {
        for subject in subjects {
            let event = subject.of(Event {
                client: Some(client),
                rule: Some(rule),
                ..self.event(Action::Export, Some(caller))
            });
            self.append(&event, Durability::Sync)?;
        }
        Ok(Recorded { secret })
    }

    /// The token for values that go to the hook of a rotation: the commit that made
    /// the new version wait is recorded, and with it that its hook gets both values.
    ///
    /// # Errors
    /// [`FsError::Io`] while commit `seq` has no record.
    pub(crate) fn hook(&self, secret: u64, seq: u64) -> Result<Recorded, FsError> {
        if self.recorded_seq() < seq {
            return Err(FsError::Io);
        }
        Ok(Recorded { secret })
    }

    /// The token for a comparison, of which only whether and where two versions differ
    /// leaves the daemon: never a value.
    pub(crate) fn comparison(&self, secret: u64) -> Recorded {
        Recorded { secret }
    }

    /// Records a refusal; that it is one does not depend on the record.
    pub(crate) fn deny(&self, event: Event<'_>) {
        self.refuse(FsError::Denied, event);
    }

    /// Records a refusal of which the caller is told `why`.
    pub(crate) fn refuse(&self, why: FsError, event: Event<'_>) {
        self.metrics.decided(false);
        if let Some(account) = event.account.or(event.uid) {
            let admission = self.denials.admit(account, Instant::now());
            self.record_counted(admission.counted);
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

    /// Records denials that were only counted in windows that are over.
    pub(crate) fn record_overdue(&self) {
        self.record_counted(self.denials.drain_over(Instant::now()));
    }

    fn record_counted(&self, counted: Vec<CountedDenials>) {
        for CountedDenials { uid, denials } in counted {
            let reason = match uid {
                Some(_) => "denials that were not recorded one by one",
                None => "denials of several users that were not recorded one by one",
            };
            let event = Event {
                result: Outcome::Denied,
                uid: uid.filter(|&uid| uid < FIRST_NAMESPACE),
                account: uid.filter(|&number| number >= FIRST_NAMESPACE),
                errno: Some(FsError::Denied.code()),
                reason: Some(reason),
                count: Some(denials),
                ..self.event(Action::Limit, None)
            };
            self.append(&event, Durability::Write).ok();
        }
    }

    /// Sequence number of the vault up to which commits have their records.
    pub(crate) fn recorded_seq(&self) -> u64 {
        self.recorded_seq.load(Ordering::Acquire)
    }

    /// Notes that commits up to `seq` have their records.
    pub(crate) fn set_recorded(&self, seq: u64) {
        self.recorded_seq.fetch_max(seq, Ordering::AcqRel);
    }

    /// How far the audit log has come, on disk.
    ///
    /// # Errors
    /// [`RecordError`].
    pub(crate) fn checkpoint(&self) -> Result<Checkpoint, RecordError> {
        Ok(self.log()?.checkpoint()?)
    }

    /// Waits until the audit log's segment is to end, at most `limit`; gives whether
    /// it is.
    pub(crate) fn await_segment_end(&self, limit: Duration) -> bool {
        match self.log.get() {
            Some(log) => log.await_segment_end(limit),
            None => {
                std::thread::sleep(OPEN_AGAIN);
                false
            }
        }
    }

    /// Ends the audit log's segment; gives the number of the next.
    ///
    /// # Errors
    /// [`RotationError`].
    pub(crate) fn rotate_segment(&self) -> Result<u32, RotationError> {
        let log = self.log.get().ok_or(AppendError::Closed)?;
        log.rotate_segment(&*self.signer)
    }

    /// Removes what is older than the retention.
    ///
    /// # Errors
    /// [`PruneError`].
    pub(crate) fn prune(&self) -> Result<usize, PruneError> {
        match (self.settings.audit.retention, self.log.get()) {
            (Some(retention), Some(log)) => log.prune(later(timestamp(settled_ms()), -retention)),
            _ => Ok(0),
        }
    }

    /// Records a jump of the clock, or that its time is believed now.
    ///
    /// # Errors
    /// [`FsError::Io`] when the record was not written.
    pub(crate) fn clock(&self, told: TimeEvent) -> Result<(), FsError> {
        let (from, to) = (rfc3339(told.from_ms), rfc3339(told.to_ms));
        let reason = match told.kind {
            TimeEventKind::Ahead => "the clock jumped ahead",
            TimeEventKind::Doubted => {
                "the clock jumped far ahead: nothing is destroyed or rotated by it before it has stood \
                 for a day"
            }
            TimeEventKind::Back => "the clock went back: what is over stays over",
            TimeEventKind::Settled => "the time is believed: it has stood for a day",
        };
        tracing::warn!(from, to, "{reason}");
        let event = Event {
            reason: Some(reason),
            clock: Some(&ClockJump { from, to }),
            ..self.event(Action::Clock, None)
        };
        self.append(&event, Durability::Sync)
    }

    /// Writes the stop record. Who asks for anything from here on gets no answer: the
    /// kernel will ask the next worker.
    pub(crate) fn retire(&self, reason: &str) {
        self.record_counted(self.denials.drain());
        self.retiring.store(true, Ordering::Release);
        if let Some(log) = self.log.get()
            && let Err(error) = log.stop(self.recorded_seq(), Some(reason))
        {
            tracing::error!(%error, "no stop record");
        }
    }

    /// Does not return once the worker retires; the process ends soon.
    pub(crate) fn check_serving(&self) {
        while self.retiring.load(Ordering::Acquire) {
            std::thread::park();
        }
    }
}

//! Carrying out control requests.

use std::sync::atomic::Ordering;

use jarvis_audit::{Action, Event};
use jarvis_fs::{Answer, Caller, FsError, RequestOrigin};
use jarvis_policy::Verb;
use jarvis_vault::{
    KidPrecondition, NameError, NewVersion, SecretName, SlotInfo, Txn, VaultError, WriteOutcome,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::common::clock::now_ms;
use crate::common::policy_file::LoadError;
use crate::worker::commit::change::{Actor, Change, Kind};
use crate::worker::gate::{Gate, rule_of, subject};
use crate::worker::request::{Malformed, Operation, Parsed, Question, parse};

pub(crate) mod lifecycle;

/// A refused request: for the caller as errno and as JSON.
pub(crate) struct Failure {
    error: FsError,
    code: &'static str,
    pub(crate) message: String,
}

/// What an operation answers with.
#[derive(Serialize)]
struct Done<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
    action: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revocation: Option<u64>,
    /// The version that waits for its hook.
    #[serde(skip_serializing_if = "Option::is_none")]
    pending: Option<u32>,
}

/// Parses and carries out one write.
pub(crate) fn run(gate: &Gate, caller: &Caller, bytes: &[u8], origin: RequestOrigin) -> Answer {
    if let Some(answer) = repeated(gate, origin) {
        return answer;
    }
    let result = parse(bytes)
        .map_err(Failure::from)
        .and_then(|parsed| match parsed {
            Parsed::Ask(question) => Ok(success(&ask(gate, caller, &question)?, Vec::new())),
            Parsed::One(operation) => change(gate, caller, vec![operation], origin, &|changes| {
                changes.first().map_or(Value::Null, |c| json!(done(c)))
            }),
            Parsed::Batch(operations) => change(gate, caller, operations, origin, &|changes| {
                json!(changes.iter().map(done).collect::<Vec<_>>())
            }),
        });
    result.unwrap_or_else(Failure::answer)
}

fn success(result: &Value, changed: Vec<u64>) -> Answer {
    Answer {
        body: line(&json!({"ok": true, "result": result})),
        error: None,
        changed,
        fenced: Vec::new(),
    }
}

/// The answer to a request that an earlier worker carried out.
fn repeated(gate: &Gate, origin: RequestOrigin) -> Option<Answer> {
    let (body, changed) = gate
        .journal
        .replay(origin.request)
        .filter(|_| origin.resent)?;
    // Its record may have been lost with that worker.
    match gate.settle() {
        Ok(()) => Some(Answer {
            body,
            error: None,
            changed,
            fenced: Vec::new(),
        }),
        Err(_) => Some(not_recorded().answer()),
    }
}

/// The answer to a request that is not carried out.
pub(crate) fn refuse(error: FsError, message: &str) -> Answer {
    let code = match error {
        FsError::TooLong => "too_long",
        FsError::Busy => "busy",
        _ => "unavailable",
    };
    Failure::new(error, code, message).answer()
}

fn ask(gate: &Gate, caller: &Caller, question: &Question) -> Result<Value, Failure> {
    let policy = gate.policy();
    // Who may open the control file may ask how the daemon is.
    if let Some(verb) = question
        .needs()
        .filter(|v| !policy.grants(&subject(caller), *v))
    {
        return Err(denied(gate, caller, verb, None, (None, "default")));
    }
    match question {
        Question::Status => Ok(status(gate)),
        Question::Versions(name) => lifecycle::versions(gate, caller, name),
        Question::Diff { name, from, to } => lifecycle::diff(gate, caller, name, (*from, *to)),
        Question::HistoryExport { name, credential } => {
            lifecycle::export(gate, caller, name, credential)
        }
        Question::Schedule => lifecycle::schedule(gate, caller),
        Question::Revocations => lifecycle::revocations(gate, caller),
        Question::Revocation(id) => lifecycle::revocation(gate, caller, *id),
        Question::Reload => Ok(json!({"clients": gate.reload(Some(caller))?})),
        Question::AuditRotate => match gate.rotate_segment() {
            Ok(segment) => Ok(json!({"segment": segment})),
            Err(error) => {
                tracing::error!(%error, "the audit log goes on in its segment");
                let message = "the segment could not be ended; see the daemon's log";
                Err(Failure::new(FsError::Io, "io", message))
            }
        },
        Question::Checkpoint => Ok(json!({"note": gate.checkpoint().to_string()})),
        Question::KeyList => {
            let slots = gate.vault.slots().map_err(|e| Failure::vault(gate, &e))?;
            let slot = |s: &SlotInfo| json!({"slot": s.number, "kind": s.kind, "detail": s.detail});
            Ok(slots.iter().map(slot).collect())
        }
        Question::Explain {
            name,
            verb,
            uid,
            gid,
            groups,
        } => {
            let somebody = jarvis_policy::Caller {
                uid: *uid,
                gid: *gid,
                groups,
                containerized: false,
            };
            let decision = policy.decide(&somebody, *verb, name.as_str());
            Ok(json!({"allowed": decision.allowed(), "rule": decision.rule().to_string()}))
        }
    }
}

fn done(change: &Change) -> Done<'_> {
    Done {
        name: change.name.as_deref(),
        version: change.version,
        kid: change.kid.as_deref(),
        action: change.action,
        note: change.reason.as_deref(),
        revocation: change.revocation,
        pending: change.begins,
    }
}

fn status(gate: &Gate) -> Value {
    let counts = gate.vault.counts();
    let gauges = gate.gauges();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_secs": gate.uptime_secs(),
        "secrets_count": counts.secrets,
        "vault_seq": counts.seq,
        "open_handles": gauges.handles,
        "policy_clients": gate.policy().clients(),
        "audit_records": gate.metrics.audit_records.get(),
        "audit_errors": gate.metrics.audit_errors.get(),
        "runner": gate.errands.alive(),
        "worker_generation": gauges.facts.generation,
        "opens_limited": gate.metrics.limited.with_label_values(&["caller"]).get(),
    })
}

/// Decides every operation, commits them together, and records each.
fn change(
    gate: &Gate,
    caller: &Caller,
    operations: Vec<Operation>,
    origin: RequestOrigin,
    result: &dyn Fn(&[Change]) -> Value,
) -> Result<Answer, Failure> {
    let mut authorised = Vec::with_capacity(operations.len());
    for operation in operations {
        let actor = authorise(gate, caller, &operation)?;
        authorised.push((operation, actor));
    }
    let mut answer = None;
    commit(gate, |txn| {
        let mut changes = Vec::new();
        for (operation, actor) in &authorised {
            let made = apply(gate, txn, operation, caller.uid)?;
            let derived = txn.derived_changes().into_iter();
            let derived = derived.map(|(name, outcome)| Change::along(&name, outcome));
            for mut change in made.into_iter().chain(derived) {
                change.actor = Some(actor.clone());
                changes.push(change);
            }
        }
        let changed = changes.iter().filter_map(|c| c.id).collect();
        let success = answer.insert(success(&result(&changes), changed));
        success.fenced = fenced(&changes);
        let kept = (&*success.body, &*success.changed);
        gate.journal.enter(txn, origin, kept)?;
        Ok(changes)
    })?;
    // `commit` has run the closure when it succeeds.
    answer.ok_or_else(not_recorded)
}

/// Commits what `change` did with a note of it, then records it. Without the
/// record the caller gets an error although the change is made: the note
/// brings the record later, and nothing is released before.
pub(crate) fn commit(
    gate: &Gate,
    change: impl FnOnce(&mut Txn<'_>) -> Result<Vec<Change>, VaultError>,
) -> Result<(), Failure> {
    let turn = gate.changing.lock();
    gate.settle_locked(&turn).map_err(|_| unrecordable())?;
    let (seq, changes) = gate
        .vault
        .write(|txn| -> Result<_, VaultError> {
            let changes = change(txn)?;
            for change in &changes {
                txn.note(&serde_json::to_vec(change).unwrap_or_default())?;
            }
            Ok((txn.seq(), changes))
        })
        .map_err(|error| Failure::vault(gate, &error))?;
    // Before anybody is told that it is done.
    if changes.iter().any(|change| change.fences) {
        gate.fences.fetch_add(1, Ordering::AcqRel);
    }
    gate.journal.committed();
    for change in &changes {
        match (change.begins, change.id) {
            (Some(_), Some(id)) => gate.scheduler.begun(id),
            _ if matches!(change.action, Kind::Configure) => gate.scheduler.look(),
            _ => {}
        }
    }
    for change in &changes {
        count(gate, change.action);
        gate.announce(change);
    }
    gate.record_changes(seq, &changes)
        .map_err(|_| not_recorded())
}

/// Secrets whose open handles must not be read any more.
fn fenced(changes: &[Change]) -> Vec<u64> {
    let fenced = changes.iter().filter(|change| change.fences);
    fenced.filter_map(|change| change.id).collect()
}

fn not_recorded() -> Failure {
    Failure::new(
        FsError::Io,
        "not_recorded",
        "the change is made, but its audit record cannot be written yet; see the daemon's log",
    )
}

fn unrecordable() -> Failure {
    Failure::new(
        FsError::Io,
        "audit_unavailable",
        "the audit log cannot be written, so nothing was changed; see the daemon's log",
    )
}

fn count(gate: &Gate, action: Kind) {
    if matches!(action, Kind::Create | Kind::Update | Kind::Rotate) {
        gate.metrics.encryptions.inc();
    }
    match action {
        Kind::Create => gate.metrics.created.inc(),
        Kind::Rotate => gate.metrics.rotated.inc(),
        Kind::Update
        | Kind::Delete
        | Kind::Restore
        | Kind::Purge
        | Kind::Key
        | Kind::Configure
        | Kind::Revoke
        | Kind::Approve
        | Kind::Expiry => {}
    }
}

fn authorise(gate: &Gate, caller: &Caller, operation: &Operation) -> Result<Actor, Failure> {
    let (verb, name) = operation.needs();
    let told = match operation {
        Operation::Life(life) => life
            .revocation()
            .map(|id| lifecycle::revocation_subject(gate, caller, life, id))
            .transpose()?,
        _ => None,
    };
    let (verb, name) = match &told {
        Some((verb, name)) => (*verb, Some(name)),
        None => (verb, name),
    };
    let policy = gate.policy();
    let subject = subject(caller);
    let Some(name) = name else {
        return match policy.grants(&subject, verb) {
            true => Ok(Actor::new(caller, "", verb.as_str())),
            false => Err(denied(gate, caller, verb, None, (None, "default"))),
        };
    };
    let decision = policy.decide(&subject, verb, name.as_str());
    let (client, rule) = rule_of(&decision);
    if decision.allowed() {
        gate.metrics.decided(true);
        return Ok(Actor::new(caller, client.unwrap_or_default(), rule));
    }
    Err(denied(gate, caller, verb, Some(name), (client, rule)))
}

fn denied(
    gate: &Gate,
    caller: &Caller,
    verb: Verb,
    name: Option<&SecretName>,
    (client, rule): (Option<&str>, &str),
) -> Failure {
    gate.deny(Event {
        name: name.map(SecretName::as_str),
        client,
        rule: Some(rule),
        reason: Some(verb.as_str()),
        ..gate.event(Action::Deny, Some(caller))
    });
    let message = match name {
        Some(name) => format!("the policy does not let uid {} {verb} `{name}`", caller.uid),
        None => format!(
            "the policy does not give uid {} the verb {verb}",
            caller.uid
        ),
    };
    Failure::new(FsError::Denied, "denied", message)
}

impl Actor {
    fn new(caller: &Caller, client: &str, rule: &str) -> Self {
        Self {
            uid: caller.uid,
            gid: caller.gid,
            pid: caller.pid,
            unit: caller
                .workload
                .as_ref()
                .and_then(|workload| workload.unit.clone()),
            container: caller
                .workload
                .as_ref()
                .and_then(|workload| workload.container.clone()),
            client: client.to_owned(),
            rule: rule.to_owned(),
        }
    }
}

fn apply(
    gate: &Gate,
    txn: &mut Txn<'_>,
    operation: &Operation,
    by_uid: u32,
) -> Result<Vec<Change>, VaultError> {
    let now_ms = now_ms();
    let pinned = |ino, version| gate.handles.pins(ino, version);
    let put = gate.put(by_uid, &pinned);
    let change = match operation {
        Operation::Set {
            name,
            value,
            kind,
            if_kid,
            cached,
        } => {
            let if_kid = match if_kid.as_deref() {
                None => KidPrecondition::Any,
                Some("none") => KidPrecondition::Absent,
                Some(kid) => KidPrecondition::Current(kid),
            };
            let put = NewVersion {
                kind: kind.as_ref(),
                cached: *cached,
                if_kid,
                ..put
            };
            let outcome = txn.set(name, value.expose(), &put)?;
            Change::new(written(&outcome, Kind::Update), name, outcome)
        }
        Operation::Generate { name, kind } => {
            let outcome = txn.generate(name, kind, &put)?;
            Change::new(written(&outcome, Kind::Rotate), name, outcome)
        }
        Operation::Rotate(name) => rotate(txn, name, &put)?,
        Operation::Life(life) => return lifecycle::apply(gate, txn, life, &put),
        Operation::Delete(name) => {
            let outcome = txn.delete(name, by_uid, now_ms)?;
            Change::new(Kind::Delete, name, outcome)
        }
        Operation::Restore(name) => {
            let not_before = now_ms.saturating_sub(gate.settings.recovery_ms);
            let outcome = txn.restore(name, not_before)?;
            Change::new(Kind::Restore, name, outcome)
        }
        Operation::Purge(name) => {
            let ids = txn.purge(name)?;
            let purged = ids.into_iter();
            return Ok(purged
                .map(|id| Change::purged(name.as_str(), id, "request"))
                .collect());
        }
        Operation::KeyAdd(credential) => {
            let slot = txn.add_slot(credential)?;
            Change::by_itself(Kind::Key, format!("slot {slot} added"))
        }
        Operation::KeyRemove(slot) => {
            txn.remove_slot(*slot)?;
            Change::by_itself(Kind::Key, format!("slot {slot} removed"))
        }
    };
    Ok(vec![change])
}

/// A new value now, or one that waits for its hook.
pub(crate) fn rotate(
    txn: &mut Txn<'_>,
    name: &SecretName,
    put: &NewVersion<'_>,
) -> Result<Change, VaultError> {
    if !txn.has_hook(name)? {
        let outcome = txn.rotate(name, put)?;
        return Ok(Change {
            reason: put.why.map(str::to_owned),
            ..Change::new(Kind::Rotate, name, outcome)
        });
    }
    let (outcome, pending) = txn.begin_rotation(name, put)?;
    let change = Change::new(Kind::Configure, name, outcome);
    Ok(Change {
        reason: Some(format!("rotation to version {} begun", pending.number)),
        begins: Some(pending.number),
        ..change
    })
}

fn written(outcome: &WriteOutcome, otherwise: Kind) -> Kind {
    if outcome.created {
        Kind::Create
    } else {
        otherwise
    }
}

/// Destroys what was deleted longer ago than the recovery window.
pub(crate) fn purge_expired(gate: &Gate) -> Result<(), Failure> {
    let before = now_ms().saturating_sub(gate.settings.recovery_ms);
    let mut due = false;
    let look = gate.vault.deleted(|node| {
        due |= matches!(&node.body, jarvis_vault::Body::Secret(s)
            if s.deleted.is_some_and(|d| d.at_ms < before));
    });
    look.map_err(|error| Failure::vault(gate, &error))?;
    if !due {
        return Ok(());
    }
    commit(gate, |txn| {
        let purged = txn.purge_expired(before)?;
        let change =
            |(name, id): &(Box<str>, u64)| Change::purged(name, *id, "recovery window over");
        Ok(purged.iter().map(change).collect())
    })
}

impl Failure {
    fn new(error: FsError, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            error,
            code,
            message: message.into(),
        }
    }

    /// What the vault says is for the caller when the caller can do something
    /// about it; the rest is for the log.
    fn vault(gate: &Gate, error: &VaultError) -> Self {
        let (errno, code) = match error {
            VaultError::Name(NameError::LongSegment(..) | NameError::TooDeep(_)) => {
                (FsError::NameTooLong, "name_too_long")
            }
            VaultError::Name(_)
            | VaultError::Option { .. }
            | VaultError::Value(_)
            | VaultError::KeyFileLength { .. }
            | VaultError::PassphraseLength { .. } => (FsError::Invalid, "invalid"),
            VaultError::NotFound(_)
            | VaultError::NoSuchSlot(_)
            | VaultError::NoSuchVersion { .. }
            | VaultError::NoSuchRevocation(_) => (FsError::NotFound, "not_found"),
            VaultError::TooManyConsumers(_) => (FsError::NotSupported, "too_many_consumers"),
            VaultError::Unusable { .. } => (FsError::NotSupported, "unusable"),
            VaultError::RotationPending(_) => (FsError::Busy, "rotation_pending"),
            VaultError::NoRotation(_) => (FsError::Conflict, "no_rotation"),
            VaultError::WrongStatus { .. } => (FsError::Conflict, "wrong_status"),
            VaultError::SamePerson(_) => (FsError::Denied, "same_person"),
            VaultError::LastSlot(_) => (FsError::NotSupported, "last_slot"),
            VaultError::NoFreeSlot => (FsError::NotSupported, "no_free_slot"),
            VaultError::IsDirectory(_) => (FsError::IsDirectory, "is_directory"),
            VaultError::NotDirectory(_) => (FsError::NotDirectory, "not_directory"),
            VaultError::TooLarge { .. } => (FsError::TooLong, "too_long"),
            VaultError::Conflict { .. } => (FsError::Conflict, "conflict"),
            VaultError::NoGenerator(_) => (FsError::NotSupported, "no_generator"),
            VaultError::Occupied(_) => (FsError::Exists, "exists"),
            VaultError::NotAVault { .. }
            | VaultError::NotAHistory { .. }
            | VaultError::Newer { .. }
            | VaultError::Damaged { .. }
            | VaultError::WrongPassphrase { .. }
            | VaultError::WrongKeyFile { .. }
            | VaultError::NoSlot { .. }
            | VaultError::SlotParameters { .. }
            | VaultError::InUse { .. }
            | VaultError::TooWide { .. }
            | VaultError::Exists { .. }
            | VaultError::Io { .. }
            | VaultError::Store(_)
            | VaultError::Keys(_) => {
                let errno = gate.trouble(error);
                return Self::new(errno, "io", "the vault failed; see the daemon's log");
            }
        };
        Self::new(errno, code, error.to_string())
    }

    fn answer(self) -> Answer {
        let error = json!({"code": self.code, "message": self.message});
        Answer {
            body: line(&json!({"ok": false, "error": error})),
            error: Some(self.error),
            changed: Vec::new(),
            fenced: Vec::new(),
        }
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Invalid(message) => Self::new(FsError::Invalid, "invalid", message),
            Malformed::NameTooLong(message) => {
                Self::new(FsError::NameTooLong, "name_too_long", message)
            }
            Malformed::TooLong(message) => Self::new(FsError::TooLong, "too_long", message),
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self::new(FsError::Invalid, "policy", error.to_string())
    }
}

fn line(value: &Value) -> Vec<u8> {
    let mut body = value.to_string().into_bytes();
    body.push(b'\n');
    body
}

//! What happens to secrets by itself: rotations by schedule, hooks, warnings.
//!
//! One thread looks at all of them, does what is due, and sleeps until the next
//! thing is, a request wakes it, or a while has passed (the clock may be set).

use std::collections::{HashMap, HashSet};
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jarvis_audit::{Action, Durability, Event, Outcome};
use jarvis_vault::{NewVersion, Node, ROOT, Secret, SecretName, VaultError};
use parking_lot::{Condvar, Mutex};

use crate::common::calendar::due_ms;
use crate::common::clock::{now_ms, rfc3339};
use crate::config::EventKind;
use crate::ipc::runner as ipc_runner;
use crate::process::{Failure, text};
use crate::worker::commit::change::{Change, Kind};
use crate::worker::control::{self, lifecycle};
use crate::worker::gate::Gate;

mod adoption;
mod hooks;

use hooks::Carried;

/// The longest sleep.
const MOST_MS: i64 = 60_000;
/// Time until a waiting value is looked at again when there was no runner.
const RUNNER_AGAIN_MS: i64 = 1000;
/// How often it is looked who has which version.
const ADOPTION: Duration = Duration::from_secs(3600);
/// A rotation that failed is tried again after this time.
const AGAIN_MS: i64 = 15 * 60_000;

/// Wakes the scheduler.
#[derive(Default)]
pub(crate) struct Bell {
    calls: Mutex<Calls>,
    changed: Condvar,
}

#[derive(Default)]
struct Calls {
    look: bool,
    begun: Vec<u64>,
    /// Secrets whose hooks are at work.
    working: HashSet<u64>,
    /// Those whose rotation failed, and why; a rollback is owed.
    doomed: HashMap<u64, String>,
}

impl Bell {
    /// Something may be due that was not.
    pub(crate) fn look(&self) {
        self.calls.lock().look = true;
        self.changed.notify_one();
    }

    /// A rotation of this secret was begun.
    pub(crate) fn begun(&self, id: u64) {
        self.calls.lock().begun.push(id);
        self.changed.notify_one();
    }

    /// Waits for a call, at most `limit`.
    fn wait(&self, limit: Duration) -> Calls {
        let mut calls = self.calls.lock();
        if !calls.look && calls.begun.is_empty() {
            calls.look |= self.changed.wait_for(&mut calls, limit).timed_out();
        }
        Calls {
            look: mem::take(&mut calls.look),
            begun: mem::take(&mut calls.begun),
            ..Calls::default()
        }
    }

    /// Takes secret `id` for work, unless somebody has it, and the failure after
    /// which a rollback is owed.
    fn take(&self, id: u64) -> Option<Option<String>> {
        let mut calls = self.calls.lock();
        let free = calls.working.insert(id);
        free.then(|| calls.doomed.remove(&id))
    }

    fn give_back(&self, id: u64, doomed: Option<String>) {
        let mut calls = self.calls.lock();
        calls.working.remove(&id);
        calls.doomed.extend(doomed.map(|why| (id, why)));
    }
}

/// Starts the scheduler; `audit` is the directory of the log.
///
/// # Errors
/// When no thread can be had.
pub(crate) fn start(gate: &Arc<Gate>, audit: PathBuf) -> Result<(), Failure> {
    let mut scheduler = Scheduler {
        gate: gate.clone(),
        failed: HashMap::new(),
        audit,
        adoption: None,
    };
    let thread = std::thread::Builder::new().name("scheduler".into());
    let started = thread.spawn(move || {
        let mut calls = Calls {
            look: true,
            ..Calls::default()
        };
        let mut sleep = MOST_MS;
        loop {
            if calls.look {
                sleep = scheduler.round();
            }
            for id in calls.begun {
                if scheduler.carry_out(id) {
                    sleep = sleep.min(RUNNER_AGAIN_MS);
                }
            }
            calls = scheduler.gate.scheduler.wait(duration(sleep));
        }
    });
    started.map(drop).map_err(text)
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}

struct Scheduler {
    gate: Arc<Gate>,
    /// When what failed is tried again, Unix milliseconds.
    failed: HashMap<u64, i64>,
    audit: PathBuf,
    /// When it was last looked who has which version.
    adoption: Option<Instant>,
}

/// What a look at everything found.
#[derive(Default)]
struct Found {
    due: Vec<(u64, Box<str>)>,
    warnings: Vec<Warning>,
    /// Secrets with a value that waits for its hook.
    pending: Vec<u64>,
    /// When the next thing is due, Unix milliseconds.
    next_ms: Option<i64>,
}

struct Warning {
    id: u64,
    version: u32,
    /// How many have been due so far.
    count: u8,
    expires_ms: i64,
}

impl Found {
    fn later(&mut self, at_ms: i64) {
        self.next_ms = Some(self.next_ms.map_or(at_ms, |next| next.min(at_ms)));
    }
}

impl Scheduler {
    /// Does what is due; gives how long to sleep, in milliseconds.
    fn round(&mut self) -> i64 {
        let now = now_ms();
        let mut found = Found::default();
        let walk = self.gate.vault.walk(ROOT, &mut |node, secret| {
            self.look_for_rotation(node, secret, now, &mut found);
            found
                .pending
                .extend(secret.pending.as_ref().map(|_| node.id));
            self.look_for_warnings(node.id, secret, now, &mut found);
        });
        if let Err(error) = walk {
            // What was found is due all the same.
            self.gate.trouble(&error);
        }
        for warning in &found.warnings {
            self.warn(warning, now);
        }
        for (id, name) in mem::take(&mut found.due) {
            self.rotate(id, &name);
        }
        // That takes a while, and there is no hurry.
        if self.adoption.is_none_or(|last| last.elapsed() >= ADOPTION) {
            self.adoption = Some(Instant::now());
            adoption::end_graces(&self.gate, &self.audit);
        }
        let next = found.next_ms.map_or(MOST_MS, |next| next - now_ms());
        let next = next.clamp(0, MOST_MS);
        let waits = found
            .pending
            .iter()
            .filter(|&&id| self.carry_out(id))
            .count();
        match waits {
            0 => next,
            _ => next.min(RUNNER_AGAIN_MS),
        }
    }

    /// Has the hook of secret `id` run, in a thread of its own; gives whether
    /// there is no runner for it yet.
    fn carry_out(&self, id: u64) -> bool {
        let gate = self.gate.clone();
        if !gate.errands.is_connected() {
            return true;
        }
        let Some(doomed) = gate.scheduler.take(id) else {
            return false;
        };
        let owed = doomed.clone();
        let hook = std::thread::Builder::new().name("hook".into());
        let started = hook.spawn(move || {
            let (waits, doomed) = match hooks::carry_out(&gate, id, doomed) {
                Carried::Settled => (false, None),
                Carried::Waits => (true, None),
                Carried::Doomed(why) => (true, Some(why)),
            };
            gate.scheduler.give_back(id, doomed);
            if waits {
                // Perhaps with the next runner.
                std::thread::sleep(duration(RUNNER_AGAIN_MS));
                gate.scheduler.begun(id);
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "a hook cannot be run");
            self.gate.scheduler.give_back(id, owed);
        }
        false
    }

    fn look_for_rotation(&self, node: &Node, secret: &Secret, now: i64, found: &mut Found) {
        let every = self.gate.settings.rotate_every_ms;
        let Some(due) = due_ms(node.id, secret, every).filter(|_| secret.pending.is_none()) else {
            return;
        };
        let due = self
            .failed
            .get(&node.id)
            .map_or(due, |again| due.max(*again));
        match due <= now {
            true if lifecycle::in_window(&self.gate, secret, now) => {
                found.due.push((node.id, node.path.clone()));
            }
            // The window is looked for every minute.
            true => {}
            false => found.later(due),
        }
    }

    fn look_for_warnings(&self, id: u64, secret: &Secret, now: i64, found: &mut Found) {
        let Some(current) = secret.current() else {
            return;
        };
        let mut count = 0;
        for before in &self.gate.settings.warnings_ms {
            match current.expires_ms.saturating_sub(*before) {
                at if at <= now => count += 1,
                at => {
                    found.later(at);
                    break;
                }
            }
        }
        if count > current.warned {
            found.warnings.push(Warning {
                id,
                version: current.number,
                count,
                expires_ms: current.expires_ms,
            });
        }
    }

    fn warn(&self, warning: &Warning, now: i64) {
        let over = warning.expires_ms <= now;
        let when = rfc3339(warning.expires_ms);
        let reason = match over {
            true => format!("expired at {when}"),
            false => format!("expires at {when}"),
        };
        let warned = control::commit(&self.gate, |txn| {
            let outcome = txn.warned(warning.id, warning.version, warning.count)?;
            let change = |outcome: jarvis_vault::WriteOutcome| Change {
                id: Some(warning.id),
                version: Some(warning.version),
                kid: Some(outcome.kid),
                name: txn.name_of(warning.id).ok().flatten(),
                ..Change::by_itself(Kind::Expiry, reason.clone())
            };
            Ok(outcome.map(change).into_iter().collect())
        });
        if let Err(error) = warned {
            tracing::error!(error = %error.message, "warning not given");
        }
    }

    fn rotate(&mut self, id: u64, name: &str) {
        let rotated = self.try_rotate(name);
        match rotated {
            Ok(()) => drop(self.failed.remove(&id)),
            Err(why) => {
                self.failed.insert(id, now_ms().saturating_add(AGAIN_MS));
                rotation_failed(&self.gate, Some(name), id, &why);
            }
        }
    }

    fn try_rotate(&self, name: &str) -> Result<(), String> {
        let name = SecretName::parse(name).map_err(|error| error.to_string())?;
        let gate = &self.gate;
        let rotated = control::commit(gate, |txn| {
            let pinned = |ino, version| gate.handles.pins(ino, version);
            let put = NewVersion {
                why: Some("schedule"),
                ..gate.put(rustix::process::geteuid().as_raw(), &pinned)
            };
            let change = control::rotate(txn, &name, &put)?;
            let derived = txn.derived_changes().into_iter();
            let derived = derived.map(|(name, outcome)| Change::along(&name, outcome));
            Ok::<_, VaultError>(std::iter::once(change).chain(derived).collect())
        });
        rotated.map_err(|failure| failure.message)
    }
}

/// Tells and counts that a secret has no new value.
pub(crate) fn rotation_failed(gate: &Gate, name: Option<&str>, id: u64, why: &str) {
    gate.metrics.rotation_failures.inc();
    tracing::error!(name, why, "rotation failed");
    let event = Event {
        result: Outcome::Failed,
        name,
        id: Some(id),
        reason: Some(why),
        ..gate.event(Action::Rotate, None)
    };
    gate.append(&event, Durability::Sync).ok();
    let told = ipc_runner::Event::new(EventKind::RotationFailed).reason(why);
    gate.errands.notify(match name {
        Some(name) => told.secret(name),
        None => told,
    });
}

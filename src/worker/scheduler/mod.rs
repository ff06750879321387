//! The scheduler: rotations by schedule, their hooks, warnings.
//!
//! One thread looks at all secrets when it starts, when a setting changes, and at least
//! every minute: it rotates what is due inside its calendar windows, warns before versions
//! expire, and ends graces early where that was asked for and the audit log shows that every
//! reader has the new version.
//!
//! *Rotation with a hook.* The new value is committed as a version that waits; `prepare`,
//! `apply` and `verify` run; then it becomes current in a second commit. Whatever fails in
//! between is followed by `rollback` and the waiting value is dropped. A worker that finds a
//! value waiting that an earlier one began does not know how far its hook came and rolls it
//! back. So after any death one of two things holds: the new version is current, or the old
//! one is and the hook's rollback has run, or its failure is in the record. Other writes of
//! the secret are refused meanwhile.
//!
//! A rotation that failed may owe a rollback: its hook's runner was gone. The reason
//! is remembered with the secret ([`permits::RotationPermits`]) until a runner has undone
//! it, so that one death in between loses neither the rollback nor its record: the next
//! worker finds the waiting value and rolls it back because it did not begin it.
//!
//! Runs in: the worker, on threads of its own.
//! Touches: PLAINTEXT to the pipes of hooks (hooks.rs).
//! Imported by: mod.rs of the worker.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jarvis_vault::{NewVersion, Node, Secret, SecretName, VaultError};

use crate::common::clock::{now_ms, rfc3339, settled_ms};
use crate::process::spawn;
use crate::worker::commit::change::{Change, ChangeKind};
use crate::worker::commit::{CommitError, rotate, with_derived};
use crate::worker::due::{due_ms, in_window};

mod adoption;
mod hooks;
mod parts;
mod permits;

use hooks::HookOutcome;
pub(crate) use parts::SchedulerParts;
use permits::RotationPermits;

/// The longest sleep, in milliseconds.
const MOST_MS: i64 = 60_000;
/// Time until a waiting value is looked at again when there was no runner.
const RUNNER_AGAIN_MS: i64 = 1000;
/// How often it is looked who has which version.
const ADOPTION: Duration = Duration::from_secs(3600);
/// A rotation that failed is tried again after this time.
const AGAIN_MS: i64 = 15 * 60_000;

/// Starts the scheduler; `log` is the directory of the audit log.
///
/// # Errors
/// When no thread can be had.
pub(crate) fn start(parts: SchedulerParts, log: PathBuf) -> io::Result<()> {
    let mut scheduler = Scheduler {
        parts: Arc::new(parts),
        permits: Arc::default(),
        failed: HashMap::new(),
        log,
        adoption: None,
    };
    spawn("scheduler", move || scheduler.run())
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}

struct Scheduler {
    parts: Arc<SchedulerParts>,
    permits: Arc<RotationPermits>,
    /// When what failed is tried again, Unix milliseconds.
    failed: HashMap<u64, i64>,
    /// Directory of the audit log.
    log: PathBuf,
    /// When it was last looked who has which version.
    adoption: Option<Instant>,
}

/// Findings of a look at all secrets.
#[derive(Default)]
struct RoundFindings {
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

impl RoundFindings {
    fn later(&mut self, at_ms: i64) {
        self.next_ms = Some(self.next_ms.map_or(at_ms, |next| next.min(at_ms)));
    }
}

impl Scheduler {
    fn run(&mut self) {
        let mut sleep = self.round();
        loop {
            let calls = self.parts.committer.wake().wait(duration(sleep));
            if calls.look {
                sleep = self.round();
            }
            for id in calls.begun {
                if self.carry_out(id) {
                    sleep = sleep.min(RUNNER_AGAIN_MS);
                }
            }
        }
    }

    /// Does what is due by a time that is beyond doubt; gives how long to sleep, in
    /// milliseconds.
    fn round(&mut self) -> i64 {
        let now = settled_ms();
        let mut found = RoundFindings::default();
        let walk = self.parts.secrets.walk(&mut |node, secret| {
            self.look_for_rotation(node, secret, now, &mut found);
            found
                .pending
                .extend(secret.pending.as_ref().map(|_| node.id));
            self.look_for_warnings(node.id, secret, now, &mut found);
        });
        // A value may wait for its hook in a deleted secret, too: until it is settled,
        // no new value can be set.
        let deleted = self.parts.secrets.deleted(|node| {
            let waits = hooks::waiting(node).map(|_| node.id);
            found.pending.extend(waits);
        });
        for error in [walk, deleted].into_iter().filter_map(Result::err) {
            // What was found is due all the same.
            self.parts.secrets.vault_failed(&error);
        }
        for warning in &found.warnings {
            self.warn(warning, now);
        }
        for (id, name) in std::mem::take(&mut found.due) {
            self.rotate(id, &name);
        }
        // That takes a while, and there is no hurry.
        if self.adoption.is_none_or(|last| last.elapsed() >= ADOPTION) {
            self.adoption = Some(Instant::now());
            adoption::end_graces(&self.parts, &self.log);
        }
        let next = found
            .next_ms
            .map_or(MOST_MS, |next| next.saturating_sub(settled_ms()));
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
        let parts = self.parts.clone();
        if !parts.runner.is_connected() {
            return true;
        }
        let Some(mut permit) = RotationPermits::take(&self.permits, id) else {
            return false;
        };
        let started = spawn("hook", move || {
            let outcome = hooks::carry_out(&parts, id, permit.rollback_owed());
            let waits = match outcome {
                HookOutcome::Settled => {
                    permit.settled();
                    false
                }
                HookOutcome::Waits => true,
                HookOutcome::RollbackOwed(why) => {
                    permit.owe_rollback(why);
                    true
                }
            };
            drop(permit);
            if waits {
                // Perhaps with the next runner.
                std::thread::sleep(duration(RUNNER_AGAIN_MS));
                parts.committer.wake().begun(id);
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "a hook cannot be run");
        }
        false
    }

    fn look_for_rotation(&self, node: &Node, secret: &Secret, now: i64, found: &mut RoundFindings) {
        let every = self.parts.settings.rotation.every_ms;
        let Some(due) = due_ms(node.id, secret, every).filter(|_| secret.pending.is_none()) else {
            return;
        };
        let due = self
            .failed
            .get(&node.id)
            .map_or(due, |again| due.max(*again));
        if due > now {
            found.later(due);
        } else if in_window(&self.parts.settings, secret, now_ms()) {
            found.due.push((node.id, node.path.clone()));
        }
        // Else the window is looked for every minute.
    }

    fn look_for_warnings(&self, id: u64, secret: &Secret, now: i64, found: &mut RoundFindings) {
        let Some(current) = secret.current() else {
            return;
        };
        let mut count = 0;
        for before in &self.parts.settings.rotation.warnings_ms {
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
        let reason = if over {
            format!("expired at {when}")
        } else {
            format!("expires at {when}")
        };
        let warned = self.parts.committer.commit(|txn| {
            let outcome = txn.warned(warning.id, warning.version, warning.count)?;
            let change = |outcome: jarvis_vault::WriteOutcome| Change {
                id: Some(warning.id),
                version: Some(warning.version),
                kid: Some(outcome.kid),
                name: txn.name_of(warning.id).ok().flatten(),
                ..Change::by_itself(ChangeKind::Expiry, reason.clone())
            };
            Ok(outcome.map(change).into_iter().collect())
        });
        if let Err(error) = warned {
            tracing::error!(%error, "warning not given");
        }
    }

    fn rotate(&mut self, id: u64, name: &str) {
        let rotated = self.try_rotate(name);
        match rotated {
            Ok(()) => drop(self.failed.remove(&id)),
            Err(why) => {
                self.failed
                    .insert(id, settled_ms().saturating_add(AGAIN_MS));
                let committer = &self.parts.committer;
                committer.rotation_failed(Some(name), id, &why.to_string());
            }
        }
    }

    fn try_rotate(&self, name: &str) -> Result<(), CommitError> {
        let name = SecretName::parse(name).map_err(VaultError::from)?;
        let committer = &self.parts.committer;
        let by_uid = rustix::process::geteuid().as_raw();
        committer.commit(|txn| {
            let new = NewVersion {
                why: Some("schedule"),
                ..committer.version_defaults(by_uid)
            };
            let change = rotate(txn, &name, &new)?;
            Ok(with_derived(txn, vec![change]))
        })
    }
}

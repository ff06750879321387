//! The audit log is opened when a worker begins, or later.
//!
//! Runs in: the worker.
//! Touches: the audit log.
//! Imported by: startup.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use jarvis_audit::{KeyError, Log, LogHead, OpenError, Opening, SegmentLimits, StartKey};
use jarvis_vault::Probe;
use rustix::fs::{FlockOperation, flock};

use super::error::WorkerError;
use crate::common::clock::now;
use crate::config::AuditConfig;
use crate::ipc::worker::{Open, Start};
use crate::worker::audit::outage::{FoundLog, LogOpener, OpenFailure, OpenedLog};
use crate::worker::supervisor_client::SupervisorClient;
use crate::worker::witness::known_records;

/// How long a worker that was killed may take to die.
const DEATH_LIMIT: Duration = Duration::from_secs(2);

/// Where the log is, and how it is to be.
#[derive(Clone, Copy)]
pub(super) struct LogToOpen<'a> {
    pub(super) start: &'a Start,
    /// The log's directory.
    pub(super) path: &'a Path,
    /// The log's end as the last worker left it.
    pub(super) head: &'a Arc<LogHead>,
}

/// Opens the log, or gives what opens it later: only a daemon that begins refuses to
/// begin without its log.
pub(super) fn find_log(
    place: LogToOpen<'_>,
    probe: &Probe,
    how: &Open,
    supervisor: &Arc<SupervisorClient>,
) -> Result<FoundLog, WorkerError> {
    let mut opener = log_opener(place, probe, how, supervisor)?;
    match opener() {
        Ok(opened) => Ok(FoundLog::Open(opened)),
        Err(failure) if how.fresh => Err(failure.error.into()),
        Err(failure) => Ok(FoundLog::Failing(opener, failure.error)),
    }
}

/// Opens the log, which writes its start record, unless the vault that was probed is older
/// or knows a record that the log has not.
fn log_opener(
    LogToOpen { start, path, head }: LogToOpen<'_>,
    probe: &Probe,
    how: &Open,
    supervisor: &Arc<SupervisorClient>,
) -> Result<LogOpener, WorkerError> {
    let key = StartKey::generate().map_err(OpenError::from)?;
    let (dir, reason) = (path.to_owned(), how.reason.clone());
    let head = head.clone();
    let (accepted, vault_seq) = (start.accepted, probe.seq());
    let known = known_records(start.host, &probe.witness(), start.kept);
    let segment_limits = segment_limits(&start.config.audit);
    let signer = supervisor.start_signer(start.host);
    // The last worker may have ended because a sync failed; so may a try to open it here.
    let mut new_segment = how.crashed;
    let mut open = move || {
        let tail = Log::inspect(&dir, Some(&head))?;
        // What the log has, not what the vault has: the difference is owed.
        let recorded_seq = tail.map_or(0, |tail| tail.vault_seq.min(vault_seq));
        let opening = Opening {
            version: env!("CARGO_PKG_VERSION"),
            vault_seq: recorded_seq,
            reason: reason.as_deref(),
            accept_older_vault: accepted.restored_vault,
            known: &known,
            head: Some(&head),
            accept_lost_log: accepted.lost_log,
            clock: Some(now),
            new_segment,
            segment_limits,
        };
        let open = || Log::open_under(&dir, &signer, opening, &key);
        let log = match open() {
            Err(OpenError::InUse(segment)) if unlocked(&segment) => open(),
            result => result,
        };
        new_segment |= matches!(log, Err(OpenError::Start(_)));
        Ok(OpenedLog {
            log: log?,
            recorded_seq,
        })
    };
    let dir = path.to_owned();
    Ok(Box::new(move || {
        open().map_err(|error| OpenFailure {
            // Its one certificate is for another start, and the disk is not to blame.
            is_final: matches!(error, OpenError::Key(KeyError::NotCertified(_)))
                && Log::probe_in(&dir).is_ok(),
            error,
        })
    }))
}

fn segment_limits(audit: &AuditConfig) -> SegmentLimits {
    SegmentLimits {
        bytes: u64::from(audit.segment_mb) * 1024 * 1024,
        age: Duration::from_secs(u64::from(audit.segment_hours) * 3600),
    }
}

/// Waits a while for whoever has `path` locked to die.
pub(super) fn unlocked(path: &Path) -> bool {
    let path = path.to_owned();
    let (freed, wait) = channel();
    std::thread::spawn(move || {
        let lock = |file: &File| flock(file, FlockOperation::LockExclusive);
        let got = File::open(path).is_ok_and(|file| lock(&file).is_ok());
        // Nobody may be waiting any more.
        freed.send(got).ok();
    });
    wait.recv_timeout(DEATH_LIMIT).unwrap_or(false)
}

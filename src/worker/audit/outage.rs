//! The audit log as it fails and comes back.
//!
//! While the log takes no records nothing is released or changed, and who asks is told so at
//! once; listings and attributes go on. Revocations take effect nevertheless, and their
//! records are owed. [`AuditTrail::keep`], called several times a second, finds a fault also
//! when nobody asks for anything, and its end: a record of the outage that could be written.
//! A file that somebody took away is followed by another segment; a log that could not be
//! opened when the worker began is opened then. Only a log whose content on disk is not
//! known (a sync failed) needs another worker, for which it is time once the disk takes
//! writes again: there is somebody to answer at every moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jarvis_audit::{Action, AppendError, Durability, Event, Log, LogFault, OpenError};
use parking_lot::Mutex;

use crate::worker::audit::AuditTrail;

/// How often the log is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often a log that fails is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// A log that was opened, and the vault's commits that it has.
pub(crate) struct OpenedLog {
    pub(crate) log: Log,
    pub(crate) recorded_seq: u64,
}

/// Why the log was not opened.
pub(crate) struct OpenFailure {
    pub(crate) error: OpenError,
    /// This worker can't open it any more: it has used up what it needs for that.
    pub(crate) is_final: bool,
}

/// Opens the log; asked again until it succeeds.
pub(crate) type LogOpener = Box<dyn FnMut() -> Result<OpenedLog, OpenFailure> + Send>;

/// The log as a worker finds it when it begins.
pub(crate) enum FoundLog {
    Open(OpenedLog),
    /// The log can't be opened yet.
    Failing(LogOpener, OpenError),
}

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// The log could not be opened yet.
    #[error("the audit log is not open")]
    NotOpen,
    /// The path of the log's directory leads elsewhere, or nowhere.
    #[error("the directory of the audit log is not in its place")]
    DirectoryMissing,
    /// The log refused.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// State of the log after a look at it.
pub(crate) enum LogHealth {
    /// The log takes records.
    Working,
    /// The log takes records again: what is owed can be written.
    Recovered,
    /// The log takes none, or not all.
    Failing,
    /// The log must be opened anew, by another worker; why.
    Spent(String),
}

impl LogHealth {
    /// When to look again.
    pub(crate) fn pause(&self) -> Duration {
        match self {
            Self::Working | Self::Recovered => LOOK,
            Self::Failing | Self::Spent(_) => AGAIN,
        }
    }
}

/// A time in which the log takes no records.
struct Outage {
    why: String,
    began: Instant,
    /// Records that were not written.
    refused: u64,
}

/// Faults of the log, as far as they are known.
pub(super) struct LogState {
    opener: Mutex<Option<LogOpener>>,
    outage: Mutex<Option<Outage>>,
    /// The supervisor does not find the log's directory by its path.
    directory_missing: AtomicBool,
    /// Locked while somebody looks at the log.
    looking: Mutex<()>,
    /// The log's directory as this process names it, and as others do.
    names: [String; 2],
}

impl LogState {
    pub(super) fn new(opener: Option<LogOpener>, names: [String; 2]) -> Self {
        Self {
            opener: Mutex::new(opener),
            outage: Mutex::new(None),
            directory_missing: AtomicBool::new(false),
            looking: Mutex::new(()),
            names,
        }
    }
}

/// Why the log takes no records, and who can change that.
enum Fault {
    Passing(String),
    Spent(String),
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self::Passing(why)
    }
}

impl AuditTrail {
    /// Why the log takes no records, or not all; `None` while it does.
    pub(crate) fn fault(&self) -> Option<String> {
        let outage = self.state.outage.lock();
        outage.as_ref().map(|outage| outage.why.clone())
    }

    /// Notes whether the supervisor finds the log's directory in its place.
    pub(crate) fn set_directory_missing(&self, missing: bool) {
        let before = self.state.directory_missing.swap(missing, Ordering::AcqRel);
        if missing && !before {
            self.begin_outage(&RecordError::DirectoryMissing);
        }
    }

    /// The log, if it is open and in its place.
    pub(super) fn log(&self) -> Result<&Log, RecordError> {
        if self.state.directory_missing.load(Ordering::Acquire) {
            return Err(RecordError::DirectoryMissing);
        }
        self.log.get().ok_or(RecordError::NotOpen)
    }

    /// Makes sure, as far as that can be known, that a change could be recorded.
    ///
    /// # Errors
    /// Why it could not.
    pub(crate) fn demand_records(&self) -> Result<(), String> {
        let failing = || {
            self.fault()
                .unwrap_or_else(|| "see the daemon's log".into())
        };
        // To open it may take longer than a request may.
        self.log().map_err(|_| failing())?;
        match self.keep() {
            LogHealth::Working | LogHealth::Recovered => Ok(()),
            LogHealth::Failing => Err(failing()),
            LogHealth::Spent(why) => Err(why),
        }
    }

    /// Looks at the log and does what can be done for it.
    pub(crate) fn keep(&self) -> LogHealth {
        self.check_serving();
        let _turn = self.state.looking.lock();
        match self.examine() {
            Ok(()) if self.fault().is_none() => LogHealth::Working,
            Ok(()) => self.end_outage(),
            Err(Fault::Passing(why)) => {
                self.begin_outage(&why);
                LogHealth::Failing
            }
            Err(Fault::Spent(why)) => LogHealth::Spent(why),
        }
    }

    fn examine(&self) -> Result<(), Fault> {
        let log = match self.log() {
            Ok(log) => log,
            Err(RecordError::NotOpen) => return self.open_log(),
            Err(error) => return Err(error.to_string().into()),
        };
        match log.check() {
            Ok(()) => Ok(()),
            Err(fault @ LogFault::Displaced { .. }) => {
                self.begin_outage(&fault);
                let begun = log.begin_anew(&*self.signer);
                begun.map_err(|error| format!("{fault}; {error}"))?;
                Ok(())
            }
            Err(fault @ LogFault::Poisoned) => {
                self.begin_outage(&fault);
                log.probe().map_err(|error| format!("{fault}; {error}"))?;
                Err(Fault::Spent(fault.to_string()))
            }
            Err(fault) => Err(fault.to_string().into()),
        }
    }

    fn open_log(&self) -> Result<(), Fault> {
        let mut opener = self.state.opener.lock();
        let Some(open) = opener.as_mut() else {
            return Ok(());
        };
        match open() {
            Ok(opened) => {
                self.set_recorded(opened.recorded_seq);
                self.log.set(opened.log).ok();
                *opener = None;
                Ok(())
            }
            Err(failure) if failure.is_final => Err(Fault::Spent(failure.error.to_string())),
            Err(failure) => Err(failure.error.to_string().into()),
        }
    }

    /// Notes that a record was not written.
    pub(super) fn note_failure(&self, error: &RecordError) {
        if matches!(
            error,
            RecordError::Append(AppendError::TooLong | AppendError::Closed)
        ) {
            tracing::error!(%error, "audit record not written");
            return;
        }
        if self.fault().is_none() {
            self.begin_outage(error);
        }
        if let Some(outage) = &mut *self.state.outage.lock() {
            outage.refused += 1;
        }
    }

    pub(super) fn begin_outage(&self, why: &dyn std::fmt::Display) {
        let [inner, outer] = &self.state.names;
        let why = why.to_string().replace(inner, outer);
        let mut outage = self.state.outage.lock();
        if let Some(outage) = &mut *outage {
            outage.why = why;
            return;
        }
        self.metrics.service.audit_log_ready.set(0);
        tracing::error!(
            %why,
            "the audit log takes no records: nothing is released or changed until it does"
        );
        *outage = Some(Outage {
            why,
            began: Instant::now(),
            refused: 0,
        });
    }

    /// Records the outage, with which it is over.
    fn end_outage(&self) -> LogHealth {
        let (why, refused) = match &*self.state.outage.lock() {
            None => return LogHealth::Working,
            Some(outage) => {
                let seconds = outage.began.elapsed().as_secs();
                let why = format!("no records for {seconds} s: {}", outage.why);
                (why, outage.refused)
            }
        };
        let event = Event {
            reason: Some(&why),
            count: Some(refused),
            ..self.event(Action::Repair, None)
        };
        let written = self
            .log()
            .and_then(|log| Ok(log.append(&event, Durability::Sync)?));
        if written.is_err() {
            return LogHealth::Failing;
        }
        *self.state.outage.lock() = None;
        self.metrics.service.audit_log_ready.set(1);
        tracing::warn!(%why, "the audit log takes records again");
        LogHealth::Recovered
    }
}

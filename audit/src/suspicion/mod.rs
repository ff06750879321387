//! What looks suspicious, told from records alone.
//!
//! The detector has no clock and does no I/O: it is fed what the log says, in the
//! log's order, and gives what it finds. The daemon feeds it as records are
//! written, `jarvisctl` with a log's history; both find the same.
//!
//! Whoever makes records can't make it grow: everything kept is bounded, and what
//! was not asked for longest is given up first.

use std::collections::HashMap;
use std::fmt;

use jiff::Timestamp;
use rustix::io::Errno;

use crate::event::{Action, Event, Outcome};
use crate::read::Record;

mod aging;

use aging::AgingMap;

/// Most denials that a [`Thresholds`] can ask for: each is remembered.
pub const MAX_DENIALS: u32 = 100;
/// Most secrets that a [`Thresholds`] can ask for: each is remembered.
pub const MAX_BULK_SECRETS: u32 = 500;

/// Secrets whose readers are known; about 13 MiB when all have many.
const SECRETS: usize = 65_536;
/// Readers known of one secret. One that has more is everybody's: nobody is new.
const READERS: usize = 32;
/// Uids whose denials are watched.
const DENIED: usize = 4096;
/// Uids whose reads are watched; about 2 MiB when all read many secrets, 18 MiB
/// at [`MAX_BULK_SECRETS`].
const READING: usize = 1024;

/// So many events within such a time; 0 events: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// Number of events.
    pub count: u32,
    /// Length of the window.
    pub seconds: u32,
}

impl Threshold {
    /// Whether two times (milliseconds) are in one window. A clock that was put
    /// back, or two records that changed places, don't matter.
    fn spans(self, a: i64, b: i64) -> bool {
        a.abs_diff(b) < u64::from(self.seconds) * 1000
    }

    fn capped(self, most: u32) -> Self {
        Self {
            count: self.count.min(most),
            ..self
        }
    }
}

/// From when on something is suspicious.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Denials of one uid; at most [`MAX_DENIALS`].
    pub denials: Threshold,
    /// Different secrets that one uid reads; at most [`MAX_BULK_SECRETS`].
    pub bulk: Threshold,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            denials: Threshold {
                count: 5,
                seconds: 600,
            },
            bulk: Threshold {
                count: 50,
                seconds: 60,
            },
        }
    }
}

/// What is suspicious about something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// One uid was refused many times.
    DenialBurst,
    /// A secret that others read was read by a uid that never had.
    NewReader,
    /// One uid read many different secrets.
    BulkRead,
    /// A handle was read by another user than its opener.
    HandlePassed,
}

impl FindingKind {
    /// All there are.
    pub const ALL: [Self; 4] = [
        Self::DenialBurst,
        Self::NewReader,
        Self::BulkRead,
        Self::HandlePassed,
    ];

    /// The word as it stands in records and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DenialBurst => "denial_burst",
            Self::NewReader => "new_reader",
            Self::BulkRead => "bulk_read",
            Self::HandlePassed => "handle_passed",
        }
    }
}

/// Something suspicious; displayed, it is the reason of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// Who did it.
    pub uid: u32,
    /// Id of the secret, where it is about one.
    pub id: Option<u64>,
    /// How many events make it suspicious.
    pub count: u64,
    /// Within how many seconds; 0 where time doesn't matter.
    pub seconds: u32,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, count, seconds) = (self.kind.as_str(), self.count, self.seconds);
        match self.kind {
            FindingKind::DenialBurst => write!(f, "{kind}: {count} in {seconds} s"),
            FindingKind::BulkRead => write!(f, "{kind}: {count} secrets in {seconds} s"),
            FindingKind::NewReader => write!(f, "{kind}: only others had read it"),
            FindingKind::HandlePassed => write!(f, "{kind}: another user opened it"),
        }
    }
}

/// What is found in one record: nothing, most of the time.
pub type Findings = [Option<Finding>; 2];

/// What of a record matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    at_ms: i64,
    uid: u32,
    id: Option<u64>,
    act: ObservedAct,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ObservedAct {
    Read { id: u64 },
    Denied { times: u64 },
    Passed { refused: bool },
}

impl Observation {
    /// What `event`, recorded at `time`, has for the detector, if anything.
    #[must_use]
    pub fn of(event: &Event<'_>, time: Timestamp) -> Option<Self> {
        // Not the handles and pending opens of the caps: those are EMFILE.
        let refused =
            event.result == Outcome::Denied && event.errno == Some(Errno::ACCESS.raw_os_error());
        let act = match (event.action, event.result, event.id) {
            (Action::Read, Outcome::Ok, Some(id)) => ObservedAct::Read { id },
            (Action::SharedHandle, ..) => ObservedAct::Passed { refused },
            _ if refused => ObservedAct::Denied {
                times: event.count.unwrap_or(1),
            },
            _ => return None,
        };
        Some(Self {
            at_ms: time.as_millisecond(),
            uid: event.uid?,
            id: event.id,
            act,
        })
    }

    /// The same of a record that stands in a log.
    #[must_use]
    pub fn of_record(record: &Record) -> Option<Self> {
        let event = Event {
            uid: record.uid,
            id: record.id,
            errno: record.errno,
            count: record.count,
            ..Event::new(record.action, record.result, record.vault_seq)
        };
        // Times are parsed for the few records that matter.
        Self::of(&event, Timestamp::UNIX_EPOCH)?;
        Self::of(&event, record.time.parse().ok()?)
    }
}

/// Remembers what it saw, within bounds.
pub struct Detector {
    thresholds: Thresholds,
    readers: AgingMap<u64, Vec<u32>>,
    denied: AgingMap<u32, DenialWindow>,
    reading: AgingMap<u32, ReadWindow>,
}

impl Detector {
    /// One that has seen nothing.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds: Thresholds {
                denials: thresholds.denials.capped(MAX_DENIALS),
                bulk: thresholds.bulk.capped(MAX_BULK_SECRETS),
            },
            readers: AgingMap::new(SECRETS),
            denied: AgingMap::new(DENIED),
            reading: AgingMap::new(READING),
        }
    }

    /// What is suspicious about `seen`, given all before it.
    pub fn observe(&mut self, seen: &Observation) -> Findings {
        match seen.act {
            ObservedAct::Read { id } => [self.reader(seen, id), self.bulk(seen, id)],
            ObservedAct::Denied { times } => [self.denial(seen, times), None],
            ObservedAct::Passed { refused } => {
                let passed = Finding {
                    kind: FindingKind::HandlePassed,
                    uid: seen.uid,
                    id: seen.id,
                    count: 1,
                    seconds: 0,
                };
                let denial = refused.then(|| self.denial(seen, 1)).flatten();
                [Some(passed), denial]
            }
        }
    }

    /// The first reader of a secret is whom it was made for; each one after it is
    /// told once.
    fn reader(&mut self, seen: &Observation, id: u64) -> Option<Finding> {
        let readers = self.readers.entry(id);
        if readers.contains(&seen.uid) || readers.len() >= READERS {
            return None;
        }
        readers.push(seen.uid);
        (readers.len() > 1).then_some(Finding {
            kind: FindingKind::NewReader,
            uid: seen.uid,
            id: Some(id),
            count: 1,
            seconds: 0,
        })
    }

    fn denial(&mut self, seen: &Observation, times: u64) -> Option<Finding> {
        let threshold = self.thresholds.denials;
        if threshold.count == 0 {
            return None;
        }
        let burst = self.denied.entry(seen.uid);
        let count = burst.add(seen.at_ms, times, threshold)?;
        Some(Finding {
            kind: FindingKind::DenialBurst,
            uid: seen.uid,
            id: None,
            count,
            seconds: threshold.seconds,
        })
    }

    fn bulk(&mut self, seen: &Observation, id: u64) -> Option<Finding> {
        let threshold = self.thresholds.bulk;
        if threshold.count == 0 {
            return None;
        }
        let bulk = self.reading.entry(seen.uid);
        let count = bulk.add(seen.at_ms, id, threshold)?;
        Some(Finding {
            kind: FindingKind::BulkRead,
            uid: seen.uid,
            id: None,
            count,
            seconds: threshold.seconds,
        })
    }
}

/// Denials of one uid.
#[derive(Default)]
struct DenialWindow {
    /// When it was told last; until the window after that is over, nothing counts.
    told_ms: Option<i64>,
    /// Fewer than the threshold, for each stands for at least one.
    recent: Vec<(i64, u64)>,
}

impl DenialWindow {
    fn add(&mut self, now_ms: i64, times: u64, threshold: Threshold) -> Option<u64> {
        if self.told_ms.is_some_and(|at| threshold.spans(at, now_ms)) {
            return None;
        }
        self.recent.retain(|(at, _)| threshold.spans(*at, now_ms));
        self.recent.push((now_ms, times));
        let total = self
            .recent
            .iter()
            .fold(0_u64, |sum, (_, times)| sum.saturating_add(*times));
        if total < u64::from(threshold.count) {
            return None;
        }
        *self = Self {
            told_ms: Some(now_ms),
            ..Self::default()
        };
        Some(total)
    }
}

/// Reads of one uid.
#[derive(Default)]
struct ReadWindow {
    /// As in [`DenialWindow`].
    told_ms: Option<i64>,
    /// When each secret was read last; never more than the threshold.
    secrets: HashMap<u64, i64>,
}

impl ReadWindow {
    fn add(&mut self, now_ms: i64, id: u64, threshold: Threshold) -> Option<u64> {
        if self.told_ms.is_some_and(|at| threshold.spans(at, now_ms)) {
            return None;
        }
        self.secrets.insert(id, now_ms);
        let enough = usize::try_from(threshold.count).unwrap_or(usize::MAX);
        if self.secrets.len() < enough {
            return None;
        }
        // Old ones are looked for only when there could be enough new ones.
        self.secrets.retain(|_, at| threshold.spans(*at, now_ms));
        let total = self.secrets.len();
        if total < enough {
            return None;
        }
        *self = Self {
            told_ms: Some(now_ms),
            ..Self::default()
        };
        Some(total as u64)
    }
}

#[cfg(test)]
mod tests;

//! Observations: the part of a record that the detector looks at.

use jiff::Timestamp;
use rustix::io::Errno;

use crate::event::{Action, Event, FIRST_NAMESPACE, Outcome};
use crate::record::Record;

/// A record as the detector sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Time of the record in milliseconds since 1970.
    pub(super) at_ms: i64,
    /// The caller, or the owner of the user namespace that it is in.
    pub(super) uid: u32,
    pub(super) id: Option<u64>,
    pub(super) activity: Activity,
}

/// The user to whom `event` is ascribed. A namespace that root made has another number
/// after each start of its container: its users are themselves.
fn answerable(event: &Event<'_>) -> Option<u32> {
    let owner = event
        .account
        .filter(|&account| account < FIRST_NAMESPACE || account == u32::MAX);
    owner.or(event.uid)
}

/// Activity of a caller that can be suspicious.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    Read { id: u64 },
    Denied { times: u64 },
    HandlePassed { refused: bool },
}

impl Observation {
    /// The observation in `event`, recorded at `time`, if there is anything for the
    /// detector.
    #[must_use]
    pub fn of(event: &Event<'_>, time: Timestamp) -> Option<Self> {
        // Not the handles and pending opens of the caps: those are EMFILE.
        let refused =
            event.result == Outcome::Denied && event.errno == Some(Errno::ACCESS.raw_os_error());
        let activity = match (event.action, event.result, event.id) {
            (Action::Read, Outcome::Ok, Some(id)) => Activity::Read { id },
            (Action::SharedHandle, ..) => Activity::HandlePassed { refused },
            _ if refused => Activity::Denied {
                times: event.count.unwrap_or(1),
            },
            _ => return None,
        };
        Some(Self {
            at_ms: time.as_millisecond(),
            uid: answerable(event)?,
            id: event.id,
            activity,
        })
    }

    /// The observation in a record that stands in a log.
    #[must_use]
    pub fn of_record(record: &Record) -> Option<Self> {
        let event = Event {
            uid: record.uid,
            account: record.account,
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

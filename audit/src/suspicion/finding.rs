//! Findings: what is told of suspicious records.

use std::fmt;

/// Kind of suspicious activity.
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
    /// Kind of activity.
    pub kind: FindingKind,
    /// User whose activity it is.
    pub uid: u32,
    /// Id of the secret, where it is about one.
    pub id: Option<u64>,
    /// Number of events that make it suspicious.
    pub count: u64,
    /// Seconds within which they happened; 0 where time doesn't matter.
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

/// Findings in one record: none, most of the time.
pub type Findings = [Option<Finding>; 2];

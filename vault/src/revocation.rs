//! Revocations as they are stored: reason, severity, status, and who did what.

use serde::{Deserialize, Serialize};

use crate::record::NodeId;

/// Reason for taking a secret out of service.
///
/// Stored by its position, as severity and status are: a new variant goes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationReason {
    /// Something happened that touches the secret.
    SecurityIncident,
    /// Access by somebody who should not have it.
    UnauthorisedAccess,
    /// The leave of somebody who knew the secret.
    EmployeeTermination,
    /// Handling against the rules.
    PolicyViolation,
    /// A suspicion that somebody knows the secret.
    SuspectedCompromise,
    /// A machine that had it is not trusted any more.
    SystemBreach,
    /// Any other reason.
    ManualRequest,
}

/// Urgency of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Due some day.
    Low,
    /// Due this week.
    Medium,
    /// Due today.
    High,
    /// Due now.
    Critical,
}

/// Status of a revocation: how far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RevocationStatus {
    /// Waits for another one to agree.
    Requested,
    /// Agreed to, not yet carried out.
    Approved,
    /// Refused or withdrawn.
    Rejected,
    /// Carried out.
    Executed,
}

/// The uid that took a step of a revocation, and the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActedBy {
    /// The uid, by the kernel's word.
    pub uid: u32,
    /// Time of the step, Unix milliseconds.
    pub at_ms: i64,
}

/// A revocation. Those that are over are kept for a while: the audit log has them all.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Revocation {
    /// Number of the revocation, from 1.
    pub id: u64,
    /// Id of the secret.
    pub secret: NodeId,
    /// Name of the secret.
    pub name: Box<str>,
    /// Reason for it.
    pub reason: RevocationReason,
    /// Urgency of it.
    pub severity: Severity,
    /// Note in the requester's words.
    pub note: Option<Box<str>>,
    /// Status it has come to.
    pub status: RevocationStatus,
    /// The request.
    pub requested: ActedBy,
    /// The agreement or refusal.
    pub decided: Option<ActedBy>,
    /// The execution.
    pub executed: Option<ActedBy>,
    /// True if it was carried out without a second person.
    pub immediate: bool,
    /// Time until which it can be approved and executed, Unix milliseconds.
    pub expires_ms: i64,
}

impl Revocation {
    /// True if it still waits for somebody, but waited too long.
    #[must_use]
    pub fn is_expired(&self, now_ms: i64) -> bool {
        self.waits() && now_ms >= self.expires_ms
    }

    /// True if it can still be decided or executed.
    #[must_use]
    pub fn is_open(&self, now_ms: i64) -> bool {
        self.waits() && now_ms < self.expires_ms
    }

    fn waits(&self) -> bool {
        matches!(
            self.status,
            RevocationStatus::Requested | RevocationStatus::Approved
        )
    }
}

//! Taking a secret out of service: who asked, who agreed, what was done.

use serde::{Deserialize, Serialize};

use crate::record::NodeId;

/// Why a secret is taken out of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationReason {
    /// Something happened.
    SecurityIncident,
    /// Somebody had it who should not.
    UnauthorisedAccess,
    /// Somebody left who knew it.
    EmployeeTermination,
    /// It was handled against the rules.
    PolicyViolation,
    /// Somebody may know it.
    SuspectedCompromise,
    /// A machine that had it is not trusted any more.
    SystemBreach,
    /// None of these.
    ManualRequest,
}

/// How urgent it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Some day.
    Low,
    /// This week.
    Medium,
    /// Today.
    High,
    /// Now.
    Critical,
}

/// How far a revocation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RevocationStatus {
    /// Somebody else must agree.
    Requested,
    /// Somebody did.
    Approved,
    /// Somebody refused.
    Rejected,
    /// It is done.
    Executed,
}

/// Who did something, and when (Unix milliseconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActedBy {
    /// By the kernel's word.
    pub uid: u32,
    /// Unix milliseconds.
    pub at_ms: i64,
}

/// One revocation; it is never forgotten.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Revocation {
    /// Counts from 1.
    pub id: u64,
    /// The secret.
    pub secret: NodeId,
    /// Its name.
    pub name: Box<str>,
    /// Why.
    pub reason: RevocationReason,
    /// How urgent.
    pub severity: Severity,
    /// More, in the requester's words.
    pub note: Option<Box<str>>,
    /// How far it has come.
    pub status: RevocationStatus,
    /// Who asked.
    pub requested: ActedBy,
    /// Who agreed or refused.
    pub decided: Option<ActedBy>,
    /// Who carried it out.
    pub executed: Option<ActedBy>,
    /// Carried out without a second person.
    pub immediate: bool,
    /// Until when it can be approved and executed.
    pub expires_ms: i64,
}

impl Revocation {
    /// Whether it still waits for somebody, but waited too long.
    #[must_use]
    pub fn is_expired(&self, now_ms: i64) -> bool {
        matches!(
            self.status,
            RevocationStatus::Requested | RevocationStatus::Approved
        ) && now_ms >= self.expires_ms
    }
}

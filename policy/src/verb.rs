//! VerbSet: all that a policy can allow.

use std::fmt;
use std::str::FromStr;

/// Something a caller may do with a secret or with the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Open and read.
    Read,
    /// See the name and metadata.
    List,
    /// Set, generate, delete, restore, purge.
    Write,
    /// Have a new value generated.
    Rotate,
    /// Ask for a secret to be taken out of service, and do so once somebody else agrees.
    Revoke,
    /// Take a secret out of service at once, without a second person.
    Emergency,
    /// Approve somebody else's revocation.
    Approve,
    /// Read the audit log.
    Audit,
    /// Reload and examine the policy.
    Policy,
    /// Manage key slots.
    Key,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 10] = [
        Self::Read,
        Self::List,
        Self::Write,
        Self::Rotate,
        Self::Revoke,
        Self::Emergency,
        Self::Approve,
        Self::Audit,
        Self::Policy,
        Self::Key,
    ];

    /// True if the verb is about the whole vault, not about one secret: only a client that is
    /// allowed everything can have it.
    #[must_use]
    pub fn is_about_vault(self) -> bool {
        match self {
            Self::Audit | Self::Policy | Self::Key => true,
            Self::Read
            | Self::List
            | Self::Write
            | Self::Rotate
            | Self::Revoke
            | Self::Emergency
            | Self::Approve => false,
        }
    }

    /// The verb as it stands in a policy.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::List => "list",
            Self::Write => "write",
            Self::Rotate => "rotate",
            Self::Revoke => "revoke",
            Self::Emergency => "emergency",
            Self::Approve => "approve",
            Self::Audit => "audit",
            Self::Policy => "policy",
            Self::Key => "key",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Verb {
    type Err = UnknownVerb;

    fn from_str(text: &str) -> Result<Self, UnknownVerb> {
        Self::ALL
            .into_iter()
            .find(|verb| verb.as_str() == text)
            .ok_or(UnknownVerb)
    }
}

/// A word is no verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown verb")]
pub struct UnknownVerb;

/// A set of verbs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VerbSet(u16);

impl VerbSet {
    pub(crate) fn one(verb: Verb) -> Self {
        Self(1 << verb as u16)
    }

    pub(crate) fn all() -> Self {
        Self::of(|_| true)
    }

    /// Every verb about secrets.
    pub(crate) fn about_secrets() -> Self {
        Self::of(|verb| !verb.is_about_vault())
    }

    fn of(has: impl Fn(Verb) -> bool) -> Self {
        Verb::ALL
            .into_iter()
            .filter(|&verb| has(verb))
            .fold(Self(0), |all, verb| all.and(Self::one(verb)))
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn contains(self, verb: Verb) -> bool {
        self.0 & Self::one(verb).0 != 0
    }
}

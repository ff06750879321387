//! Decisions of a compiled policy.

use std::fmt;

use crate::pattern::Pattern;
use crate::selector::{Caller, Selector};
use crate::verb::{Verb, VerbSet};

/// A compiled policy; the default one has no client and denies everything.
#[derive(Debug, Default)]
pub struct Policy {
    pub(crate) clients: Vec<Client>,
    pub(crate) strict_handles: bool,
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) name: Box<str>,
    /// Selectors that must all match; never empty.
    pub(crate) selectors: Vec<Selector>,
    pub(crate) allow: Vec<Pattern>,
    pub(crate) deny: Vec<Pattern>,
    pub(crate) verbs: VerbSet,
}

/// The rule that made a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule<'p> {
    /// An `allow` pattern.
    Allow {
        /// Name of the client.
        client: &'p str,
        /// Pattern as written.
        pattern: &'p str,
    },
    /// A `deny` pattern.
    Deny {
        /// Name of the client.
        client: &'p str,
        /// Pattern as written.
        pattern: &'p str,
    },
    /// Nothing matched.
    Default,
}

impl fmt::Display for Rule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow { client, pattern } => write!(f, "{client} allow {pattern:?}"),
            Self::Deny { client, pattern } => write!(f, "{client} deny {pattern:?}"),
            Self::Default => f.write_str("default deny"),
        }
    }
}

/// Decision on one request, by one rule.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'p> {
    rule: Rule<'p>,
}

impl<'p> Decision<'p> {
    /// True if the request may go on.
    #[must_use]
    pub fn allowed(&self) -> bool {
        matches!(self.rule, Rule::Allow { .. })
    }

    /// The rule behind the decision.
    #[must_use]
    pub fn rule(&self) -> Rule<'p> {
        self.rule
    }
}

impl Client {
    /// Whether what it is allowed is allowed to `caller`.
    fn favours(&self, caller: &Caller<'_>) -> bool {
        self.selectors.iter().all(|s| s.favours(caller))
    }

    /// The pattern of its denials that hits `caller` and `matches`.
    fn denies(&self, caller: &Caller<'_>, matches: impl Fn(&Pattern) -> bool) -> Option<&Pattern> {
        let concerned = self.selectors.iter().all(|s| s.concerns(caller));
        let mut denies = self.deny.iter().filter(|_| concerned);
        denies.find(|pattern| matches(pattern))
    }
}

impl Policy {
    /// Decides whether `caller` may do `verb` with the secret `name`. A deny of any
    /// matching client wins, for every verb.
    pub fn decide(&self, caller: &Caller<'_>, verb: Verb, name: &str) -> Decision<'_> {
        self.decide_by(caller, verb, |pattern| pattern.matches(name))
    }

    /// Decides whether `caller` may do `verb` with the vault as a whole: by a client that
    /// is allowed everything, unless another one denies everything.
    pub fn decide_vault(&self, caller: &Caller<'_>, verb: Verb) -> Decision<'_> {
        self.decide_by(caller, verb, Pattern::is_everything)
    }

    fn decide_by(
        &self,
        caller: &Caller<'_>,
        verb: Verb,
        matches: impl Fn(&Pattern) -> bool,
    ) -> Decision<'_> {
        let mut rule = Rule::Default;
        for client in &self.clients {
            if let Some(deny) = client.denies(caller, &matches) {
                return Decision {
                    rule: Rule::Deny {
                        client: &client.name,
                        pattern: deny.as_str(),
                    },
                };
            }
            if rule == Rule::Default && client.verbs.contains(verb) && client.favours(caller) {
                let allow = client.allow.iter().find(|p| matches(p));
                // A later client may still deny.
                rule = allow.map_or(Rule::Default, |allow| Rule::Allow {
                    client: &client.name,
                    pattern: allow.as_str(),
                });
            }
        }
        Decision { rule }
    }

    /// True if `caller` may do `verb` with anything that could stand beneath directory
    /// `dir` (`""` is the root). Never falsely false; true may be too generous
    /// where several deny patterns together cover all of it.
    #[must_use]
    pub fn may_beneath(&self, caller: &Caller<'_>, verb: Verb, dir: &str) -> bool {
        let mut may = false;
        for client in &self.clients {
            if client.denies(caller, |p| p.covers_beneath(dir)).is_some() {
                return false;
            }
            may |= client.verbs.contains(verb)
                && client.favours(caller)
                && client.allow.iter().any(|p| p.matches_beneath(dir));
        }
        may
    }

    /// True if `caller` may do `verb` with anything at all.
    #[must_use]
    pub fn grants(&self, caller: &Caller<'_>, verb: Verb) -> bool {
        self.may_beneath(caller, verb, "")
    }

    /// True if `caller` has any verb beyond reading and listing.
    #[must_use]
    pub fn manages(&self, caller: &Caller<'_>) -> bool {
        Verb::ALL
            .into_iter()
            .filter(|verb| !matches!(verb, Verb::Read | Verb::List))
            .any(|verb| self.grants(caller, verb))
    }

    /// True if a handle may be read by its opener alone.
    #[must_use]
    pub fn strict_handles(&self) -> bool {
        self.strict_handles
    }

    /// True if any decision depends on a caller's groups.
    #[must_use]
    pub fn reads_groups(&self) -> bool {
        let mut selectors = self.clients.iter().flat_map(|client| &client.selectors);
        selectors.any(|selector| matches!(selector, Selector::Gid(_)))
    }

    /// Number of clients.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.len()
    }
}

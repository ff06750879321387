//! Decisions of a compiled policy.

use std::fmt;

use crate::index::ClientIndex;
use crate::pattern::Pattern;
use crate::selector::{Caller, Selector};
use crate::verb::{Verb, VerbSet};

/// A compiled policy; the default one has no client and denies everything.
#[derive(Debug, Default)]
pub struct Policy {
    clients: Vec<Client>,
    index: ClientIndex,
    strict_handles: bool,
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
    pub(crate) fn new(clients: Vec<Client>, strict_handles: bool) -> Self {
        Self {
            index: ClientIndex::new(clients.iter().map(|client| &*client.selectors)),
            clients,
            strict_handles,
        }
    }

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

    /// The rule is the first one in the order of the text.
    fn decide_by(
        &self,
        caller: &Caller<'_>,
        verb: Verb,
        matches: impl Fn(&Pattern) -> bool,
    ) -> Decision<'_> {
        let (mut denied, mut allowed) = (None, None);
        for (number, client) in self.candidates(caller) {
            if is_before(number, denied.as_ref())
                && let Some(deny) = client.denies(caller, &matches)
            {
                denied = Some((number, &*client.name, deny.as_str()));
            }
            if denied.is_none()
                && is_before(number, allowed.as_ref())
                && client.verbs.contains(verb)
                && client.favours(caller)
                && let Some(allow) = client.allow.iter().find(|pattern| matches(pattern))
            {
                allowed = Some((number, &*client.name, allow.as_str()));
            }
        }
        let rule = match (denied, allowed) {
            (Some((_, client, pattern)), _) => Rule::Deny { client, pattern },
            (None, Some((_, client, pattern))) => Rule::Allow { client, pattern },
            (None, None) => Rule::Default,
        };
        Decision { rule }
    }

    /// The clients that `caller` could be, with their numbers, and others; in no order, some
    /// more than once.
    fn candidates<'p, 'c>(
        &'p self,
        caller: &Caller<'c>,
    ) -> impl Iterator<Item = (u32, &'p Client)> + use<'p, 'c> {
        let numbers = self.index.candidates(caller);
        numbers.filter_map(|number| {
            let client = self.clients.get(usize::try_from(number).ok()?)?;
            Some((number, client))
        })
    }

    /// True if `caller` may do `verb` with anything that could stand beneath directory
    /// `dir` (`""` is the root). Never falsely false; true may be too generous
    /// where several deny patterns together cover all of it.
    #[must_use]
    pub fn may_beneath(&self, caller: &Caller<'_>, verb: Verb, dir: &str) -> bool {
        let mut may = false;
        for (_, client) in self.candidates(caller) {
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

    /// True if some client has `verb`, whoever that is.
    #[must_use]
    pub fn gives(&self, verb: Verb) -> bool {
        self.clients
            .iter()
            .any(|client| client.verbs.contains(verb))
    }

    /// True if a handle may be read by its opener alone.
    #[must_use]
    pub fn strict_handles(&self) -> bool {
        self.strict_handles
    }

    /// True if any decision depends on a caller's groups.
    #[must_use]
    pub fn reads_groups(&self) -> bool {
        self.index.reads_groups
    }

    /// Number of clients.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.len()
    }
}

/// Whether client `number` comes before that of a rule.
fn is_before(number: u32, rule: Option<&(u32, &str, &str)>) -> bool {
    rule.is_none_or(|(other, ..)| number < *other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::selector::Namespace;

    /// The decision as it is defined: of all clients in their order.
    fn plain<'p>(policy: &'p Policy, caller: &Caller<'_>, verb: Verb, name: &str) -> Rule<'p> {
        let matches = |pattern: &Pattern| pattern.matches(name);
        let mut rule = Rule::Default;
        for client in &policy.clients {
            if let Some(deny) = client.denies(caller, matches) {
                let (client, pattern) = (&*client.name, deny.as_str());
                return Rule::Deny { client, pattern };
            }
            if rule == Rule::Default && client.verbs.contains(verb) && client.favours(caller) {
                let allow = client.allow.iter().find(|pattern| matches(pattern));
                rule = allow.map_or(Rule::Default, |allow| Rule::Allow {
                    client: &client.name,
                    pattern: allow.as_str(),
                });
            }
        }
        rule
    }

    fn plain_beneath(policy: &Policy, caller: &Caller<'_>, verb: Verb, dir: &str) -> bool {
        let denies = |client: &Client| client.denies(caller, |p| p.covers_beneath(dir)).is_some();
        let allows = |client: &Client| {
            client.verbs.contains(verb)
                && client.favours(caller)
                && client.allow.iter().any(|p| p.matches_beneath(dir))
        };
        !policy.clients.iter().any(denies) && policy.clients.iter().any(allows)
    }

    const PATTERNS: [&str; 6] = ["*", "a", "a/**", "a/*", "b", "**/c"];
    const NAMES: [&str; 6] = ["a", "b", "a/b", "a/c", "a/b/c", "x"];
    const VERBS: [Verb; 3] = [Verb::Read, Verb::List, Verb::Rotate];

    fn ids() -> impl Strategy<Value = Vec<u32>> {
        prop::collection::vec(0_u32..4, 1..3)
    }

    fn selector() -> impl Strategy<Value = Selector> {
        (any::<bool>(), ids()).prop_map(|(by_uid, ids)| {
            if by_uid {
                Selector::Uid(ids)
            } else {
                Selector::Gid(ids)
            }
        })
    }

    fn patterns() -> impl Strategy<Value = Vec<Pattern>> {
        let pattern = prop::sample::select(&PATTERNS[..]);
        let pattern = pattern.prop_map(|text| Pattern::parse(text).unwrap());
        prop::collection::vec(pattern, 0..3)
    }

    prop_compose! {
        fn client()(
            selectors in prop::collection::vec(selector(), 1..4),
            allow in patterns(),
            deny in patterns(),
            verbs in prop::sample::subsequence(&VERBS[..], 0..=3),
        ) -> (Vec<Selector>, Vec<Pattern>, Vec<Pattern>, VerbSet) {
            (selectors, allow, deny, verbs.into_iter().map(VerbSet::one).fold(VerbSet::default(), VerbSet::and))
        }
    }

    fn policy() -> impl Strategy<Value = Policy> {
        prop::collection::vec(client(), 0..8).prop_map(|clients| {
            let named = clients.into_iter().enumerate();
            let named = named.map(|(number, (selectors, allow, deny, verbs))| Client {
                name: format!("c{number}").into(),
                selectors,
                allow,
                deny,
                verbs,
            });
            Policy::new(named.collect(), false)
        })
    }

    fn namespace() -> impl Strategy<Value = Namespace> {
        prop_oneof![
            Just(Namespace::Host),
            (0_u32..4).prop_map(Namespace::Of),
            Just(Namespace::OfRoot),
            Just(Namespace::Unknown),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_index_decides_as_a_look_at_all_clients(
            policy in policy(),
            (uid, gid) in (0_u32..5, 0_u32..5),
            groups in prop::collection::vec(0_u32..5, 0..3),
            containerized in any::<bool>(),
            namespace in namespace(),
        ) {
            let caller = Caller { uid, gid, groups: &groups, containerized, namespace };
            for verb in VERBS {
                for name in NAMES {
                    let decision = policy.decide(&caller, verb, name);
                    prop_assert_eq!(decision.rule(), plain(&policy, &caller, verb, name));
                }
                for dir in ["", "a", "a/b", "x"] {
                    let may = policy.may_beneath(&caller, verb, dir);
                    prop_assert_eq!(may, plain_beneath(&policy, &caller, verb, dir));
                }
            }
        }
    }
}

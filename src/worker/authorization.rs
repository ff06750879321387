//! The policy in force and its decisions.
//!
//! Runs in: the worker.
//! Touches: the policy's text, by the supervisor's hand. No plaintext.
//! Imported by: gate, control, tree, supervisor_client.

use std::sync::Arc;

use jarvis_audit::{Action, Durability, Event, Outcome};
use jarvis_fs::{Caller, Containment, FsError, NamespaceOwner};
use jarvis_policy::{Decision, Namespace, Policy, Verb};
use jarvis_vault::Node;
use parking_lot::RwLock;

use crate::common::policy_file::LoadError;
use crate::worker::audit::{AuditTrail, rule_of};
use crate::worker::metrics::Metrics;
use crate::worker::secrets::Secrets;

/// Fetches and compiles the policy as it is now; told whether one is accepted by which nobody
/// may load the next.
pub(crate) type PolicySource = Box<dyn Fn(bool) -> Result<Policy, LoadError> + Send + Sync>;

/// The policy in force, and what it follows.
struct Policies {
    current: Arc<Policy>,
    /// The last one in force that did not ask for groups: it decides about
    /// callers that were identified without them before a reload.
    groupless: Arc<Policy>,
}

impl Policies {
    fn first(policy: Policy) -> Self {
        Self {
            current: Arc::default(),
            groupless: Arc::default(),
        }
        .followed_by(policy)
    }

    fn followed_by(&self, policy: Policy) -> Self {
        let current = Arc::new(policy);
        let groupless = if current.reads_groups() {
            self.groupless.clone()
        } else {
            current.clone()
        };
        Self { current, groupless }
    }
}

/// Decides who may do what.
pub(crate) struct Authorization {
    policies: RwLock<Policies>,
    source: PolicySource,
    audit: Arc<AuditTrail>,
    secrets: Arc<Secrets>,
    metrics: Arc<Metrics>,
}

/// The policy's view of a caller.
pub(crate) fn subject(caller: &Caller) -> jarvis_policy::Caller<'_> {
    jarvis_policy::Caller {
        uid: caller.uid,
        gid: caller.gid,
        groups: caller.groups.as_deref().unwrap_or_default(),
        containerized: caller.containment.is_some(),
        namespace: match caller.foreign() {
            None => Namespace::Host,
            Some(NamespaceOwner::User(uid)) => Namespace::Of(uid),
            Some(NamespaceOwner::Root { .. }) => Namespace::OfRoot,
            Some(NamespaceOwner::Unknown) => Namespace::Unknown,
        },
    }
}

/// The reason in the record of a refusal: what was wanted, and why ids of `caller` that
/// policies have rules for did not count.
pub(crate) fn refusal(wanted: &str, caller: &Caller) -> String {
    let id_0 = caller.uid == 0 || caller.gid == 0;
    let uncounted = match caller.containment {
        Some(Containment::UserNamespace(_)) => "groups and id 0 not counted: other user namespace",
        Some(Containment::SubordinateIds(_)) => "groups not counted: subordinate ids",
        Some(Containment::PidNamespace) if id_0 => "id 0 not counted: other pid namespace",
        Some(Containment::Engine) => "id 0 not counted: container (cgroup of an engine)",
        Some(Containment::RootDirectory) => "id 0 not counted: container (other root directory)",
        Some(Containment::PidNamespace) | None => return wanted.to_owned(),
    };
    format!("{wanted}; {uncounted}")
}

impl Authorization {
    pub(crate) fn new(
        policy: Policy,
        source: PolicySource,
        audit: Arc<AuditTrail>,
        secrets: Arc<Secrets>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            policies: RwLock::new(Policies::first(policy)),
            source,
            audit,
            secrets,
            metrics,
        }
    }

    /// The policy in force.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policies.read().current.clone()
    }

    /// The policy to judge `caller` by: the one in force, unless it asks for
    /// groups and the caller was identified without them, under the last one
    /// that did not.
    pub(crate) fn policy_for(&self, caller: &Caller) -> Arc<Policy> {
        let policies = self.policies.read();
        match caller.groups {
            Some(_) => policies.current.clone(),
            None => policies.groupless.clone(),
        }
    }

    /// Whether `caller` may do `verb` with inode `ino`; nothing is recorded.
    pub(crate) fn allows(&self, caller: &Caller, verb: Verb, ino: u64) -> bool {
        self.secrets.node(ino).is_ok_and(|node| {
            let policy = self.policy_for(caller);
            policy.decide(&subject(caller), verb, &node.path).allowed()
        })
    }

    /// Asks the policy whether `caller` may read `node`; a refusal is recorded.
    ///
    /// # Errors
    /// [`FsError::Denied`].
    pub(crate) fn authorise_read<'p>(
        &self,
        policy: &'p Policy,
        caller: &Caller,
        node: &Node,
    ) -> Result<Decision<'p>, FsError> {
        let decision = policy.decide(&subject(caller), Verb::Read, &node.path);
        if decision.allowed() {
            self.metrics.decided(true);
            return Ok(decision);
        }
        let (client, rule) = rule_of(&decision);
        self.audit.deny(Event {
            name: Some(&node.path),
            id: Some(node.id),
            client,
            rule: Some(rule),
            reason: Some(&refusal(Verb::Read.as_str(), caller)),
            ..self.audit.event(Action::Deny, Some(caller))
        });
        Err(FsError::Denied)
    }

    /// Replaces the policy by the file's; a refused file changes nothing. Both
    /// are recorded. `force`: also one by which nobody may load the next.
    ///
    /// # Errors
    /// [`LoadError`].
    pub(crate) fn reload(&self, actor: Option<&Caller>, force: bool) -> Result<usize, LoadError> {
        let loaded = (self.source)(force);
        let failure = loaded.as_ref().err().map(ToString::to_string);
        let event = Event {
            result: if failure.is_some() {
                Outcome::Failed
            } else {
                Outcome::Ok
            },
            reason: failure.as_deref().or(Some("reload")),
            ..self.audit.event(Action::Policy, actor)
        };
        self.audit.append(&event, Durability::Sync).ok();
        let policy = loaded?;
        let clients = policy.clients();
        let locks_out = !policy.gives(Verb::Policy);
        let mut policies = self.policies.write();
        *policies = policies.followed_by(policy);
        drop(policies);
        tracing::info!(clients, "policy loaded");
        if locks_out {
            tracing::warn!("no client has the verb `policy`: only SIGHUP loads the next policy");
        }
        Ok(clients)
    }
}

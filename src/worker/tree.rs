//! The file system's view of secrets: inodes, directories, attributes.
//!
//! Runs in: the worker, on the threads that serve the mount.
//! Touches: PLAINTEXT through the gate only.
//! Imported by: startup.

use std::ops::ControlFlow;
use std::sync::Arc;

use jarvis_audit::{Action, Durability, Event, Outcome};
use jarvis_fs::{
    Caller, DirEntry, Entry, EntryKind, FsError, HeaderIds, IdentityError, Inode, KEY_IDS_NAME,
    LimitScope, ListingBudget, ListingEnd, OpenRequest, OpenedSecret, Refusals, SharedRead, Tree,
    Xattr, turn,
};
use jarvis_policy::Verb;
use jarvis_vault::{Body, Node, Secret, Version, VersionState};

use crate::common::clock::{now_ms, rfc3339, system_time};
use crate::worker::audit::AuditTrail;
use crate::worker::authorization::{Authorization, refusal, subject};
use crate::worker::gate::{Gate, Plaintext};
use crate::worker::metrics::Metrics;
use crate::worker::secrets::Secrets;

/// Secrets as files and directories.
pub(crate) struct SecretTree {
    pub(crate) gate: Gate,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) authorization: Arc<Authorization>,
    pub(crate) audit: Arc<AuditTrail>,
    pub(crate) metrics: Arc<Metrics>,
    /// When the service began, Unix milliseconds: the time of directories that no
    /// commit made.
    pub(crate) started_ms: i64,
}

fn entry_of(node: &Node) -> Result<Entry, FsError> {
    match &node.body {
        Body::Directory { .. } => directory(Inode::Plain(node.id), node.created_ms),
        // Also a deleted or revoked one: an open handle may still be asked about.
        Body::Secret(secret) => {
            let newest = secret.newest().ok_or(FsError::NotFound)?;
            file_at(node.id, newest)
        }
    }
}

fn directory(inode: Inode, created_ms: i64) -> Result<Entry, FsError> {
    let ino = inode.number().ok_or(FsError::NotFound)?;
    Ok(Entry {
        ino,
        node: ino,
        kind: EntryKind::Directory,
        modified: system_time(created_ms),
    })
}

/// The file of a secret by its name, while `version` is current.
fn file_at(id: u64, version: &Version) -> Result<Entry, FsError> {
    let turn = turn(version.number);
    file(Inode::Plain(id), Inode::File { id, turn }, version)
}

fn file(inode: Inode, node: Inode, version: &Version) -> Result<Entry, FsError> {
    let size = u64::from(version.len);
    Ok(Entry {
        ino: inode.number().ok_or(FsError::NotFound)?,
        node: node.number().ok_or(FsError::NotFound)?,
        kind: EntryKind::Secret { size },
        modified: system_time(version.created_ms),
    })
}

/// Whether a version has a file below `.kid`.
fn has_file(secrets: &Secrets, secret: &Secret, version: &Version) -> bool {
    let state = secrets.state_of(secret, version);
    matches!(state, VersionState::Current | VersionState::Grace)
}

/// The file below `.kid` of the version with key id `kid`.
fn version_file(secrets: &Secrets, node: &Node, kid: &str) -> Result<Entry, FsError> {
    let secret = node.live_secret().ok_or(FsError::NotFound)?;
    let version = secret.version_by_kid(kid);
    let version = version.filter(|version| has_file(secrets, secret, version));
    let version = version.ok_or(FsError::NotFound)?;
    let inode = Inode::Version {
        id: node.id,
        number: version.number,
    };
    file(inode, inode, version)
}

impl Tree for SecretTree {
    type Plaintext = Plaintext;

    fn lookup(&self, parent: u64, name: &str) -> Result<Entry, FsError> {
        let find = |parent| self.secrets.lookup(parent, name);
        let mirror = |node: Arc<Node>| directory(Inode::Mirror(node.id), node.created_ms);
        match Inode::of(parent) {
            Inode::Plain(jarvis_vault::ROOT) if name == KEY_IDS_NAME => {
                directory(Inode::KeyIds, self.started_ms)
            }
            Inode::Plain(parent) => entry_of(&*find(parent)?),
            Inode::KeyIds => mirror(find(jarvis_vault::ROOT)?),
            Inode::Mirror(of) => {
                let node = self.secrets.node(of)?;
                match node.body {
                    Body::Directory { .. } => mirror(find(of)?),
                    Body::Secret(_) => version_file(&self.secrets, &node, name),
                }
            }
            Inode::File { .. } | Inode::Version { .. } => Err(FsError::NotDirectory),
        }
    }

    fn entry(&self, node: u64) -> Result<Entry, FsError> {
        match Inode::of(node) {
            Inode::Plain(id) | Inode::File { id, .. } => entry_of(&*self.secrets.node(id)?),
            Inode::KeyIds => directory(Inode::KeyIds, self.started_ms),
            Inode::Mirror(of) => directory(Inode::Mirror(of), self.secrets.node(of)?.created_ms),
            Inode::Version { id, number } => {
                let node = self.secrets.node(id)?;
                let Body::Secret(secret) = &node.body else {
                    return Err(FsError::NotFound);
                };
                // Also one whose grace is over: it may be open.
                let version = secret.version(number).ok_or(FsError::NotFound)?;
                let inode = Inode::Version { id, number };
                file(inode, inode, version)
            }
        }
    }

    fn version_entry(&self, id: u64, version: u32) -> Result<Entry, FsError> {
        let node = self.secrets.node(id)?;
        let Body::Secret(secret) = &node.body else {
            return Err(FsError::NotFound);
        };
        file_at(id, secret.version(version).ok_or(FsError::NotFound)?)
    }

    fn may_read(&self, caller: &Caller, ino: u64) -> bool {
        self.authorization
            .allows(caller, Verb::Read, Inode::of(ino).id())
    }

    fn list(
        &self,
        caller: &Caller,
        (dir, after): (u64, u64),
        budget: &mut ListingBudget,
        visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<ListingEnd, FsError> {
        let inode = Inode::of(dir);
        let policy = self.authorization.policy_for(caller);
        let subject = subject(caller);
        let may_beneath = |path: &str| {
            let mut verbs = [Verb::Read, Verb::List].into_iter();
            verbs.any(|verb| policy.may_beneath(&subject, verb, path))
        };
        let directory = match inode.id() {
            jarvis_vault::ROOT => None,
            id => Some(self.secrets.node(id)?),
        };
        let mirrored = !matches!(inode, Inode::Plain(_));
        match directory.as_deref() {
            Some(node) if mirrored && matches!(node.body, Body::Secret(_)) => {
                self.list_versions(caller, node, after, visit)?;
                return Ok(ListingEnd::Done);
            }
            // However large it is, there is nothing to look for.
            Some(node) if !may_beneath(&node.path) => return Ok(ListingEnd::Done),
            _ => {}
        }
        let visible = |node: &Node| match node.body {
            Body::Directory { live } => live > 0 && may_beneath(&node.path),
            Body::Secret(_) => [Verb::Read, Verb::List]
                .into_iter()
                .any(|verb| policy.decide(&subject, verb, &node.path).allowed()),
        };
        let after = Inode::of(after).id();
        let mut end = ListingEnd::Done;
        self.secrets.children(inode.id(), after, |node| {
            let shown = if mirrored {
                Inode::Mirror(node.id)
            } else {
                Inode::Plain(node.id)
            };
            if let Some(ino) = shown.number().filter(|_| visible(node)) {
                visit(DirEntry {
                    ino,
                    name: node.segment(),
                    directory: mirrored || matches!(node.body, Body::Directory { .. }),
                })?;
            }
            if budget.spend() {
                return ControlFlow::Continue(());
            }
            end = ListingEnd::Spent(node.id);
            ControlFlow::Break(())
        })?;
        Ok(end)
    }

    fn open(
        &self,
        caller: &Caller,
        request: OpenRequest,
    ) -> Result<OpenedSecret<Plaintext>, FsError> {
        let inode = Inode::of(request.ino);
        let wanted = match inode {
            Inode::Version { number, .. } => Some(number),
            Inode::Plain(_) | Inode::File { .. } | Inode::KeyIds | Inode::Mirror(_) => None,
        };
        self.gate.open(caller, (inode.id(), wanted), request)
    }

    fn revocation_epoch(&self) -> u64 {
        self.gate.committer.revocation_epoch()
    }

    fn check(&self, id: u64, version: u32) -> Result<(), FsError> {
        self.gate.check(id, version)
    }

    fn reload(&self, ino: u64, version: u32) -> Result<Plaintext, FsError> {
        self.gate.reload(ino, version)
    }

    fn xattr(&self, caller: &Caller, ino: u64, attribute: Xattr) -> Result<String, FsError> {
        let inode = Inode::of(ino);
        if matches!(inode, Inode::KeyIds | Inode::Mirror(_)) {
            return Err(FsError::NoAttribute);
        }
        let node = self.secrets.node(inode.id())?;
        if matches!(node.body, Body::Directory { .. }) {
            return Err(FsError::NoAttribute);
        }
        let secret = node.live_secret().ok_or(FsError::NotFound)?;
        let version = match inode {
            Inode::Version { number, .. } => secret.version(number),
            _ => secret.newest(),
        };
        let current = version.ok_or(FsError::NotFound)?;
        if !self.may_list_xattrs(caller, ino) {
            self.audit.deny(Event {
                name: Some(&node.path),
                id: Some(node.id),
                reason: Some(&refusal(Verb::List.as_str(), caller)),
                ..self.audit.event(Action::Deny, Some(caller))
            });
            return Err(FsError::Denied);
        }
        Ok(match attribute {
            Xattr::Kid => current.kid.clone(),
            Xattr::Version => current.number.to_string(),
            Xattr::CreatedAt => rfc3339(current.created_ms),
            Xattr::ExpiresAt => rfc3339(current.expires_ms),
            Xattr::State => match self.secrets.state_of(secret, current) {
                VersionState::Current if current.expires_ms <= now_ms() => "expired".into(),
                state => state.to_string(),
            },
        })
    }

    fn may_list_xattrs(&self, caller: &Caller, ino: u64) -> bool {
        let id = Inode::of(ino).id();
        self.authorization.allows(caller, Verb::Read, id)
            || self.authorization.allows(caller, Verb::List, id)
    }

    fn secrets(&self) -> u64 {
        self.secrets.counts().secrets
    }
}

impl Refusals for SecretTree {
    fn unidentified(&self, header: HeaderIds, ino: u64, why: IdentityError) {
        let id = Inode::of(ino).id();
        let node = self.secrets.node(id).ok();
        let reason = why.to_string();
        self.audit.deny(Event {
            name: node.as_ref().map(|n| &*n.path),
            id: Some(id),
            reason: Some(&reason),
            ..self.audit.claimed(Action::Deny, header)
        });
    }

    fn foreign_control(&self, opener: u32, writer: HeaderIds) {
        let reason = format!("control handle opened by uid {opener}");
        self.audit.deny(Event {
            name: Some(jarvis_fs::CONTROL_NAME),
            reason: Some(&reason),
            ..self.audit.claimed(Action::Deny, writer)
        });
    }

    fn limited(&self, caller: &Caller, limit: LimitScope, count: u64) {
        let (label, reason) = match limit {
            LimitScope::Caller => ("caller", "handles or pending opens of this user"),
            LimitScope::Table => ("table", "handles of the file system"),
        };
        self.metrics
            .access
            .limited
            .with_label_values(&[label])
            .inc_by(count);
        let event = Event {
            result: Outcome::Denied,
            reason: Some(reason),
            count: Some(count),
            ..self.audit.event(Action::Limit, Some(caller))
        };
        self.audit.append(&event, Durability::Write).ok();
    }

    fn shared_read(&self, read: SharedRead) -> Result<(), FsError> {
        self.gate.shared_read(read)
    }
}

impl SecretTree {
    /// The versions of `node` that can be read by their key ids.
    fn list_versions(
        &self,
        caller: &Caller,
        node: &Node,
        after: u64,
        visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        if !self.authorization.allows(caller, Verb::Read, node.id) {
            return Ok(());
        }
        let secret = node.live_secret().ok_or(FsError::NotFound)?;
        for version in secret
            .versions
            .iter()
            .filter(|v| has_file(&self.secrets, secret, v))
        {
            let inode = Inode::Version {
                id: node.id,
                number: version.number,
            };
            // Versions count upwards, and so do their inodes.
            let Some(ino) = inode.number().filter(|&ino| ino > after) else {
                continue;
            };
            let entry = DirEntry {
                ino,
                name: &version.kid,
                directory: false,
            };
            if visit(entry).is_break() {
                break;
            }
        }
        Ok(())
    }
}

//! The gate as what the file system asks.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jarvis_audit::{Action, Durability, Event, Outcome};
use jarvis_fs::{
    Answer, Caller, CallerIds, Control, DirEntry, Entry, EntryKind, FsError, HeaderIds,
    IdentityError, Inode, KEY_IDS_NAME, KeptAnswer, LimitScope, OpenRequest, OpenedSecret,
    Refusals, RequestOrigin, SharedRead, ThreadIds, Tree, Xattr,
};
use jarvis_policy::Verb;
use jarvis_vault::{Body, Node, Secret, Version, VersionMark, VersionState};
use zeroize::Zeroizing;

use crate::common::clock::{now_ms, rfc3339, system_time};
use crate::worker::control;
use crate::worker::gate::{Gate, Snapshot, subject};

fn entry_of(node: &Node) -> Result<Entry, FsError> {
    match &node.body {
        Body::Directory { .. } => directory(Inode::Plain(node.id), node.created_ms),
        // Also a deleted or revoked one: an open handle may still be asked about.
        Body::Secret(secret) => {
            let newest = secret.newest().ok_or(FsError::NotFound)?;
            file(Inode::Plain(node.id), newest)
        }
    }
}

fn directory(inode: Inode, created_ms: i64) -> Result<Entry, FsError> {
    Ok(Entry {
        ino: inode.number().ok_or(FsError::NotFound)?,
        kind: EntryKind::Directory,
        modified: system_time(created_ms),
    })
}

fn file(inode: Inode, version: &Version) -> Result<Entry, FsError> {
    let size = u64::from(version.len);
    Ok(Entry {
        ino: inode.number().ok_or(FsError::NotFound)?,
        kind: EntryKind::Secret { size },
        modified: system_time(version.created_ms),
    })
}

/// Whether a version has a file below `.kid`.
fn has_file(gate: &Gate, secret: &Secret, version: &Version) -> bool {
    let state = gate.state_of(secret, version);
    matches!(state, VersionState::Current | VersionState::Grace)
}

/// The file below `.kid` of one version.
fn version_file(gate: &Gate, node: &Node, kid: &str) -> Result<Entry, FsError> {
    let secret = node.live_secret().ok_or(FsError::NotFound)?;
    let version = secret
        .version_by_kid(kid)
        .filter(|v| has_file(gate, secret, v));
    let version = version.ok_or(FsError::NotFound)?;
    let inode = Inode::Version {
        id: node.id,
        number: version.number,
    };
    file(inode, version)
}

impl Tree for Gate {
    type Plaintext = Snapshot;

    fn lookup(&self, parent: u64, name: &str) -> Result<Entry, FsError> {
        let find = |parent| match self.vault.lookup(parent, name) {
            Ok(Some(node)) => Ok(node),
            Ok(None) => Err(FsError::NotFound),
            Err(error) => Err(self.trouble(&error)),
        };
        let mirror = |node: Arc<Node>| directory(Inode::Mirror(node.id), node.created_ms);
        match Inode::of(parent) {
            Inode::Plain(jarvis_vault::ROOT) if name == KEY_IDS_NAME => {
                directory(Inode::KeyIds, self.started_ms)
            }
            Inode::Plain(parent) => entry_of(&*find(parent)?),
            Inode::KeyIds => mirror(find(jarvis_vault::ROOT)?),
            Inode::Mirror(of) => {
                let node = self.node(of)?;
                match node.body {
                    Body::Directory { .. } => mirror(find(of)?),
                    Body::Secret(_) => version_file(self, &node, name),
                }
            }
            Inode::Version { .. } => Err(FsError::NotDirectory),
        }
    }

    fn entry(&self, ino: u64) -> Result<Entry, FsError> {
        match Inode::of(ino) {
            Inode::Plain(id) => entry_of(&*self.node(id)?),
            Inode::KeyIds => directory(Inode::KeyIds, self.started_ms),
            Inode::Mirror(of) => directory(Inode::Mirror(of), self.node(of)?.created_ms),
            Inode::Version { id, number } => {
                let node = self.node(id)?;
                let Body::Secret(secret) = &node.body else {
                    return Err(FsError::NotFound);
                };
                // Also one whose grace is over: it may be open.
                let version = secret.version(number).ok_or(FsError::NotFound)?;
                file(Inode::Version { id, number }, version)
            }
        }
    }

    fn may_read(&self, caller: &Caller, ino: u64) -> bool {
        self.allows(caller, Verb::Read, Inode::of(ino).id())
    }

    fn list(
        &self,
        caller: &Caller,
        dir: u64,
        after: u64,
        visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        let inode = Inode::of(dir);
        if let Inode::Mirror(id) = inode
            && let node = self.node(id)?
            && let Body::Secret(_) = node.body
        {
            return self.list_versions(caller, &node, after, visit);
        }
        let policy = self.policy_for(caller);
        let subject = subject(caller);
        let visible = |node: &Node| {
            [Verb::Read, Verb::List]
                .into_iter()
                .any(|verb| match node.body {
                    Body::Directory { live } => {
                        live > 0 && policy.may_beneath(&subject, verb, &node.path)
                    }
                    Body::Secret(_) => policy.decide(&subject, verb, &node.path).allowed(),
                })
        };
        let mirrored = !matches!(inode, Inode::Plain(_));
        let after = Inode::of(after).id();
        let listing = self.vault.children(inode.id(), after, |node| {
            let shown = if mirrored {
                Inode::Mirror(node.id)
            } else {
                Inode::Plain(node.id)
            };
            let Some(ino) = shown.number().filter(|_| visible(node)) else {
                return ControlFlow::Continue(());
            };
            visit(DirEntry {
                ino,
                name: node.segment(),
                directory: mirrored || matches!(node.body, Body::Directory { .. }),
            })
        });
        listing.map_err(|error| self.trouble(&error))
    }

    fn open(
        &self,
        caller: &Caller,
        request: OpenRequest,
    ) -> Result<OpenedSecret<Snapshot>, FsError> {
        let timer = self.metrics.open_seconds.start_timer();
        self.check_serving();
        self.settle()?;
        let inode = Inode::of(request.ino);
        let node = self.node(inode.id())?;
        node.live_secret().ok_or(FsError::NotFound)?;
        let policy = self.policy_for(caller);
        let decision = self.authorise_read(&policy, caller, &node)?;
        let wanted = match inode {
            Inode::Version { number, .. } => Some(number),
            Inode::Plain(_) | Inode::KeyIds | Inode::Mirror(_) => None,
        };
        let opened = self.with_version(node.id, wanted, |node, version, value| {
            self.record_read(caller, &decision, (node, version), request.resent)?;
            Ok(OpenedSecret {
                id: node.id,
                version: version.number,
                plaintext: Snapshot(value),
                cached: wanted.is_none() && node.live_secret().is_some_and(|secret| secret.cached),
            })
        });
        if let Err(why @ (FsError::Revoked | FsError::Expired)) = opened {
            self.refuse_version(caller, &node, why);
        }
        let opened = opened?;
        self.metrics.retrieved.inc();
        timer.observe_duration();
        Ok(opened)
    }

    fn revocation_epoch(&self) -> u64 {
        self.fences.load(Ordering::Acquire)
    }

    fn check(&self, id: u64, version: u32) -> Result<(), FsError> {
        let node = self.node(id)?;
        let Body::Secret(secret) = &node.body else {
            return Err(FsError::Io);
        };
        match secret.version(version).map(|version| version.mark) {
            Some(VersionMark::Revoked) => Err(FsError::Revoked),
            // Of the others those stay that a handle pins.
            Some(VersionMark::None | VersionMark::Deprecated | VersionMark::Destroyed) | None => {
                Ok(())
            }
        }
    }

    fn reload(&self, ino: u64, version: u32) -> Result<Snapshot, FsError> {
        let node = self.node(ino)?;
        match self.vault.value(&node, version) {
            Ok(Some(value)) => Ok(Snapshot(value)),
            Ok(None) => Err(FsError::Io),
            Err(error) => Err(self.trouble(&error)),
        }
    }

    fn xattr(&self, caller: &Caller, ino: u64, attribute: Xattr) -> Result<String, FsError> {
        let inode = Inode::of(ino);
        if matches!(inode, Inode::KeyIds | Inode::Mirror(_)) {
            return Err(FsError::NoAttribute);
        }
        let node = self.node(inode.id())?;
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
            self.deny(Event {
                name: Some(&node.path),
                id: Some(node.id),
                reason: Some(Verb::List.as_str()),
                ..self.event(Action::Deny, Some(caller))
            });
            return Err(FsError::Denied);
        }
        Ok(match attribute {
            Xattr::Kid => current.kid.clone(),
            Xattr::Version => current.number.to_string(),
            Xattr::CreatedAt => rfc3339(current.created_ms),
            Xattr::ExpiresAt => rfc3339(current.expires_ms),
            Xattr::State => match self.state_of(secret, current) {
                VersionState::Current if current.expires_ms <= now_ms() => "expired".into(),
                state => state.to_string(),
            },
        })
    }

    fn may_list_xattrs(&self, caller: &Caller, ino: u64) -> bool {
        let id = Inode::of(ino).id();
        self.allows(caller, Verb::Read, id) || self.allows(caller, Verb::List, id)
    }

    fn secrets(&self) -> u64 {
        self.vault.counts().secrets
    }
}

impl Control for Gate {
    fn may_control(&self, caller: &Caller) -> bool {
        self.policy_for(caller).manages(&subject(caller))
    }

    fn open_control(&self, caller: &Caller) -> Result<(), FsError> {
        self.check_serving();
        if self.may_control(caller) {
            return Ok(());
        }
        self.deny(Event {
            name: Some(jarvis_fs::CONTROL_NAME),
            rule: Some("default"),
            reason: Some("control"),
            ..self.event(Action::Deny, Some(caller))
        });
        Err(FsError::Denied)
    }

    fn control(
        &self,
        caller: &Caller,
        request: Zeroizing<Vec<u8>>,
        origin: RequestOrigin,
    ) -> Answer {
        self.check_serving();
        let answer = control::run(self, caller, &request, origin);
        let result = if answer.error.is_none() {
            "ok"
        } else {
            "error"
        };
        self.metrics.control.with_label_values(&[result]).inc();
        answer
    }

    fn carried_out(&self, request: u64) -> bool {
        self.journal.replay(request).is_some()
    }

    fn answered(&self, request: u64) {
        self.journal.answered(request);
    }

    fn kept_answer(&self, handle: u64) -> Option<KeptAnswer> {
        self.journal.answer_for(handle)
    }

    fn refuse_control(&self, error: FsError, message: &str) -> Answer {
        self.metrics.control.with_label_values(&["error"]).inc();
        control::refuse(error, message)
    }
}

impl CallerIds for Gate {
    fn thread_ids(&self, tid: u32) -> Option<ThreadIds> {
        self.brief_thread(tid)
    }
}

impl Refusals for Gate {
    fn unidentified(&self, header: HeaderIds, ino: u64, why: IdentityError) {
        let id = Inode::of(ino).id();
        let node = self.node(id).ok();
        let reason = why.to_string();
        self.deny(Event {
            name: node.as_ref().map(|n| &*n.path),
            id: Some(id),
            reason: Some(&reason),
            ..self.claimed(Action::Deny, header)
        });
    }

    fn foreign_control(&self, opener: u32, writer: HeaderIds) {
        let reason = format!("control handle opened by uid {opener}");
        self.deny(Event {
            name: Some(jarvis_fs::CONTROL_NAME),
            reason: Some(&reason),
            ..self.claimed(Action::Deny, writer)
        });
    }

    fn limited(&self, header: HeaderIds, limit: LimitScope, count: u64) {
        let (label, reason) = match limit {
            LimitScope::Caller => ("caller", "handles or pending opens of this uid"),
            LimitScope::Table => ("table", "handles of the file system"),
        };
        self.metrics
            .limited
            .with_label_values(&[label])
            .inc_by(count);
        let event = Event {
            result: Outcome::Denied,
            reason: Some(reason),
            count: Some(count),
            ..self.claimed(Action::Limit, header)
        };
        self.append(&event, Durability::Write).ok();
    }

    fn shared_read(&self, read: SharedRead) -> Result<(), FsError> {
        self.metrics.shared_handles.inc();
        let node = self.node(read.ino)?;
        let strict = self.policy().strict_handles();
        let opener = format!("opened by uid {}", read.opener);
        let event = Event {
            result: if strict { Outcome::Denied } else { Outcome::Ok },
            errno: strict.then(|| FsError::Denied.code()),
            name: Some(&node.path),
            id: Some(node.id),
            version: Some(read.version),
            uid: Some(read.reader.uid),
            gid: Some(read.reader.gid),
            pid: Some(read.reader.tid),
            reason: Some(&opener),
            ..self.event(Action::SharedHandle, None)
        };
        self.append(&event, self.settings.durability)?;
        if strict { Err(FsError::Denied) } else { Ok(()) }
    }
}

impl Gate {
    /// The versions of `node` that can be read by their key ids.
    fn list_versions(
        &self,
        caller: &Caller,
        node: &Node,
        after: u64,
        visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        if !self.allows(caller, Verb::Read, node.id) {
            return Ok(());
        }
        let secret = node.live_secret().ok_or(FsError::NotFound)?;
        for version in secret.versions.iter().filter(|v| has_file(self, secret, v)) {
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

    /// Records that a secret or version is out of service.
    fn refuse_version(&self, caller: &Caller, node: &Node, why: FsError) {
        let reason = why.to_string();
        self.refuse(
            why,
            Event {
                name: Some(&node.path),
                id: Some(node.id),
                reason: Some(&reason),
                ..self.event(Action::Deny, Some(caller))
            },
        );
    }
}

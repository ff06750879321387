//! The gate as the file system's tree.

use std::ops::ControlFlow;

use jarvis_audit::{Action, Durability, Event, Outcome};
use jarvis_fs::{
    Answer, Brief, Caller, Claim, Entry, EntryKind, FsError, Kept, Limit, Listed, Opened, Origin,
    Request, SharedRead, Tree, Unidentified, Xattr,
};
use jarvis_policy::Verb;
use jarvis_vault::{Body, Node};
use zeroize::Zeroizing;

use crate::clock::{now_ms, rfc3339, system_time};
use crate::control;
use crate::gate::{Gate, Snapshot, subject};

fn entry_of(node: &Node) -> Result<Entry, FsError> {
    let (kind, modified_ms) = match &node.body {
        Body::Directory { .. } => (EntryKind::Directory, node.created_ms),
        // Also a deleted one: an open handle may still be asked about.
        Body::Secret(secret) => {
            let current = secret.current().ok_or(FsError::NotFound)?;
            let size = u64::from(current.len);
            (EntryKind::Secret { size }, current.created_ms)
        }
    };
    Ok(Entry {
        ino: node.id,
        kind,
        modified: system_time(modified_ms),
    })
}

impl Tree for Gate {
    type Snapshot = Snapshot;

    fn lookup(&self, parent: u64, name: &str) -> Result<Entry, FsError> {
        match self.vault.lookup(parent, name) {
            Ok(Some(node)) => entry_of(&node),
            Ok(None) => Err(FsError::NotFound),
            Err(error) => Err(self.trouble(&error)),
        }
    }

    fn entry(&self, ino: u64) -> Result<Entry, FsError> {
        entry_of(&*self.node(ino)?)
    }

    fn brief(&self, tid: u32) -> Option<Brief> {
        self.brief_thread(tid)
    }

    fn may_read(&self, caller: &Caller, ino: u64) -> bool {
        self.allows(caller, Verb::Read, ino)
    }

    fn may_control(&self, caller: &Caller) -> bool {
        self.policy_for(caller).manages(&subject(caller))
    }

    fn list(
        &self,
        caller: &Caller,
        dir: u64,
        after: u64,
        visit: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
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
        let listing = self.vault.children(dir, after, |node| {
            if !visible(node) {
                return ControlFlow::Continue(());
            }
            visit(Listed {
                ino: node.id,
                name: node.segment(),
                directory: matches!(node.body, Body::Directory { .. }),
            })
        });
        listing.map_err(|error| self.trouble(&error))
    }

    fn open(&self, caller: &Caller, request: Request) -> Result<Opened<Snapshot>, FsError> {
        let timer = self.metrics.open_seconds.start_timer();
        self.check_serving();
        self.settle()?;
        let node = self.node(request.ino)?;
        node.live_secret().ok_or(FsError::NotFound)?;
        let policy = self.policy_for(caller);
        let decision = self.authorise_read(&policy, caller, &node)?;
        let opened = self.with_current(request.ino, |node, version, value| {
            self.record_read(caller, &decision, (node, version), request.resent)?;
            Ok(Opened {
                version: version.number,
                snapshot: Snapshot(value),
                cached: node.live_secret().is_some_and(|secret| secret.cached),
            })
        })?;
        self.metrics.retrieved.inc();
        timer.observe_duration();
        Ok(opened)
    }

    fn reload(&self, ino: u64, version: u32) -> Result<Snapshot, FsError> {
        let node = self.node(ino)?;
        match self.vault.value(&node, version) {
            Ok(Some(value)) => Ok(Snapshot(value)),
            Ok(None) => Err(FsError::Io),
            Err(error) => Err(self.trouble(&error)),
        }
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
        match strict {
            true => Err(FsError::Denied),
            false => Ok(()),
        }
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

    fn control(&self, caller: &Caller, request: Zeroizing<Vec<u8>>, origin: Origin) -> Answer {
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

    fn kept_answer(&self, handle: u64) -> Option<Kept> {
        self.journal.answer_for(handle)
    }

    fn refuse_control(&self, error: FsError, message: &str) -> Answer {
        self.metrics.control.with_label_values(&["error"]).inc();
        control::refuse(error, message)
    }

    fn xattr(&self, caller: &Caller, ino: u64, attribute: Xattr) -> Result<String, FsError> {
        let node = self.node(ino)?;
        if matches!(node.body, Body::Directory { .. }) {
            return Err(FsError::NoAttribute);
        }
        let current = node.live_secret().and_then(|s| s.current());
        let current = current.ok_or(FsError::NotFound)?;
        if !self.may_list_xattrs(caller, ino) {
            self.deny(Event {
                name: Some(&node.path),
                id: Some(ino),
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
            Xattr::State if current.expires_ms <= now_ms() => "expired".into(),
            Xattr::State => "current".into(),
        })
    }

    fn may_list_xattrs(&self, caller: &Caller, ino: u64) -> bool {
        self.allows(caller, Verb::Read, ino) || self.allows(caller, Verb::List, ino)
    }

    fn unidentified(&self, claim: Claim, ino: u64, why: Unidentified) {
        let node = self.node(ino).ok();
        let reason = why.to_string();
        self.deny(Event {
            name: node.as_ref().map(|n| &*n.path),
            id: Some(ino),
            reason: Some(&reason),
            ..self.claimed(Action::Deny, claim)
        });
    }

    fn foreign_control(&self, opener: u32, writer: Claim) {
        let reason = format!("control handle opened by uid {opener}");
        self.deny(Event {
            name: Some(jarvis_fs::CONTROL_NAME),
            reason: Some(&reason),
            ..self.claimed(Action::Deny, writer)
        });
    }

    fn limited(&self, claim: Claim, limit: Limit, count: u64) {
        let (label, reason) = match limit {
            Limit::Caller => ("caller", "handles or pending opens of this uid"),
            Limit::Table => ("table", "handles of the file system"),
        };
        self.metrics
            .limited
            .with_label_values(&[label])
            .inc_by(count);
        let event = Event {
            result: Outcome::Denied,
            reason: Some(reason),
            count: Some(count),
            ..self.claimed(Action::Limit, claim)
        };
        self.append(&event, Durability::Write).ok();
    }

    fn secrets(&self) -> u64 {
        self.vault.counts().secrets
    }
}

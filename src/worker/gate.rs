//! Authorise, record, release: how a file's content reaches its reader.
//!
//! 1. `jarvis-fs` gets OPEN. Writes are refused, then the caps of the header's uid apply.
//! 2. It asks the kernel who the thread is: header and thread must agree. Where no rule asks
//!    for groups and the uid is not 0, `PIDFD_GET_INFO` (Linux 6.13) tells enough in a third
//!    of the time; else `/proc/TID/status` is read once.
//! 3. [`Gate::open`] takes the node (path, versions; cached), asks the policy, decrypts the
//!    current version in place, writes the audit record, and hands the plaintext over.
//! 4. `jarvis-fs` enters the handle in the table (a memfd: inode, version, opener, flags)
//!    under the request's number and answers with direct I/O and no flush.
//!
//! Records are composed in turn (each names the digest of the one before), signed side by
//! side and written by whoever finds the next ones signed; a failed write takes back every
//! record composed after it.
//!
//! READ slices the plaintext. What is decrypted is a cache of at most 64 MiB: without it the
//! version is decrypted again from the vault, which keeps versions that handles need.
//!
//! Runs in: the worker.
//! Touches: PLAINTEXT, opened by the token of its record.
//! Imported by: tree (and views of several secrets).

use std::sync::Arc;

use jarvis_audit::{Action, Event, Outcome};
use jarvis_fs::{Caller, FsError, OpenRequest, OpenedSecret, SharedRead};
use jarvis_vault::{Body, Node, SecretBytes, VersionMark};

use crate::worker::audit::{AuditTrail, ReadDecision, RecordSubject, rule_of};
use crate::worker::authorization::Authorization;
use crate::worker::commit::Committer;
use crate::worker::identity::Callers;
use crate::worker::metrics::Metrics;
use crate::worker::secrets::Secrets;
use crate::worker::settings::Settings;

/// The content of a version as the file system holds it.
pub(crate) struct Plaintext(SecretBytes);

impl AsRef<[u8]> for Plaintext {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

/// The path of a read: everything it needs, in the order in which it is asked.
pub(crate) struct Gate {
    pub(crate) committer: Arc<Committer>,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) authorization: Arc<Authorization>,
    pub(crate) callers: Arc<Callers>,
    pub(crate) audit: Arc<AuditTrail>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) settings: Arc<Settings>,
}

impl Gate {
    /// Decides whether `caller` may read secret `id`, records the read of its current
    /// version (or of the one `wanted`), and releases it.
    ///
    /// # Errors
    /// Those of [`jarvis_fs::Tree::open`].
    pub(crate) fn open(
        &self,
        caller: &Caller,
        (id, wanted): (u64, Option<u32>),
        request: OpenRequest,
    ) -> Result<OpenedSecret<Plaintext>, FsError> {
        let timer = self.metrics.access.open_seconds.start_timer();
        self.audit.check_serving();
        let node = self.secrets.node(id)?;
        node.live_secret().ok_or(FsError::NotFound)?;
        let policy = self.authorization.policy_for(caller);
        let decision = self.authorization.authorise_read(&policy, caller, &node)?;
        self.committer.flush_outbox()?;
        let (client, rule) = rule_of(&decision);
        let opened = self
            .secrets
            .with_version(node.id, wanted, |node, version, value| {
                let exe = self.callers.exe_at_first_read(caller, node.id);
                let subject = RecordSubject {
                    name: &node.path,
                    id: node.id,
                    version: version.number,
                    kid: &version.kid,
                };
                let decision = ReadDecision {
                    client,
                    rule,
                    exe: exe.as_deref(),
                    resent: request.resent,
                };
                let recorded = self.audit.read(caller, subject, &decision)?;
                Ok(OpenedSecret {
                    id: node.id,
                    version: version.number,
                    plaintext: Plaintext(value.open(&recorded)?),
                    cached: wanted.is_none()
                        && node.live_secret().is_some_and(|secret| secret.cached),
                })
            });
        if let Err(why @ (FsError::Revoked | FsError::Expired)) = opened {
            self.refuse_version(caller, &node, why);
        }
        let opened = opened?;
        self.metrics.secrets.retrieved.inc();
        timer.observe_duration();
        Ok(opened)
    }

    /// Decrypts a version for a handle, whose read is recorded, once more.
    ///
    /// # Errors
    /// [`FsError::Io`].
    pub(crate) fn reload(&self, id: u64, version: u32) -> Result<Plaintext, FsError> {
        let node = self.secrets.node(id)?;
        match self.secrets.value(&node, version) {
            Ok(Some(value)) => {
                let value = value.open(&self.audit.read_of_handle(id))?;
                Ok(Plaintext(value))
            }
            Ok(None) => Err(FsError::Io),
            Err(error) => Err(self.secrets.vault_failed(&error)),
        }
    }

    /// Whether a handle on `version` may still be read.
    ///
    /// # Errors
    /// [`FsError::Revoked`], [`FsError::Io`].
    pub(crate) fn check(&self, id: u64, version: u32) -> Result<(), FsError> {
        let node = self.secrets.node(id)?;
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

    /// Records that a handle is read by another user than its opener, and refuses it
    /// when the policy wants that.
    ///
    /// # Errors
    /// [`FsError::Denied`], [`FsError::Io`].
    pub(crate) fn shared_read(&self, read: SharedRead) -> Result<(), FsError> {
        self.metrics.access.shared_handles.inc();
        let node = self.secrets.node(read.ino)?;
        let strict = self.authorization.policy().strict_handles();
        let opener = format!("opened by uid {}", read.opener);
        let event = Event {
            result: if strict { Outcome::Denied } else { Outcome::Ok },
            errno: strict.then(|| FsError::Denied.code()),
            name: Some(&node.path),
            id: Some(node.id),
            version: Some(read.version),
            reason: Some(&opener),
            ..self.audit.claimed(Action::SharedHandle, read.reader)
        };
        self.audit.append(&event, self.settings.audit.durability)?;
        if strict { Err(FsError::Denied) } else { Ok(()) }
    }

    /// Records that a secret or version is out of service.
    fn refuse_version(&self, caller: &Caller, node: &Node, why: FsError) {
        let reason = why.to_string();
        let event = Event {
            name: Some(&node.path),
            id: Some(node.id),
            reason: Some(&reason),
            ..self.audit.event(Action::Deny, Some(caller))
        };
        self.audit.refuse(why, event);
    }
}

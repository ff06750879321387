//! Records and their keys in the store.
//!
//! Serialised with postcard (<https://postcard.jamesmunns.com/wire-format>)
//! behind one byte that counts the record's own format.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::VaultError;
use crate::kind::SecretType;
use crate::version::{PendingVersion, SecretSettings, Version, VersionMark};
use crate::witness::Witness;

/// Inode number and record id: unique for the life of a vault, never reused.
pub type NodeId = u64;

/// The root directory's id.
pub const ROOT: NodeId = 1;

/// A deletion that can be undone until the secret is purged.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct SoftDeletion {
    /// Time of the deletion, Unix milliseconds.
    pub at_ms: i64,
    /// The uid that deleted it.
    pub by_uid: u32,
}

/// A secret without its values.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secret {
    /// Type of the secret.
    pub kind: SecretType,
    /// The secret's data key, sealed under the tenant's wrapping key.
    pub(crate) data_key: Vec<u8>,
    /// Versions, the oldest first; never empty once stored.
    pub versions: Vec<Version>,
    /// Rotation under way, if any.
    pub pending: Option<PendingVersion>,
    /// Settings that differ from the configuration.
    pub settings: SecretSettings,
    /// Deletion; while set, the secret can only be restored, continued by a new value,
    /// or purged.
    pub deleted: Option<SoftDeletion>,
    /// Lets the value enter the page cache, for consumers that must map it.
    pub cached: bool,
}

impl Secret {
    /// The version new opens get; none while it is revoked.
    #[must_use]
    pub fn current(&self) -> Option<&Version> {
        self.newest()
            .filter(|version| version.mark == VersionMark::None)
    }

    /// The last version, also one that is revoked.
    #[must_use]
    pub fn newest(&self) -> Option<&Version> {
        self.versions.last()
    }

    /// Version `number`.
    #[must_use]
    pub fn version(&self, number: u32) -> Option<&Version> {
        self.versions
            .iter()
            .find(|version| version.number == number)
    }

    /// The version with key id `kid`.
    #[must_use]
    pub fn version_by_kid(&self, kid: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.kid == kid)
    }
}

/// Body of a node: a directory's or a secret's.
#[derive(Clone, Serialize, Deserialize)]
pub enum Body {
    /// A directory; it stays when it becomes empty, so that bind mounts hold.
    Directory {
        /// Secrets anywhere beneath that are not deleted.
        live: u64,
    },
    /// A secret.
    Secret(Box<Secret>),
}

/// A directory or a secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct Node {
    /// Id of the node.
    pub id: NodeId,
    /// Id of the directory it is in.
    pub parent: NodeId,
    /// Whole name, without a leading slash.
    pub path: Box<str>,
    /// Time of creation, Unix milliseconds.
    pub created_ms: i64,
    /// Directory or secret.
    pub body: Body,
}

impl Node {
    /// The last segment of the name.
    #[must_use]
    pub fn segment(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The secret, also a deleted one.
    pub(crate) fn secret(&self) -> Result<&Secret, VaultError> {
        match &self.body {
            Body::Secret(secret) => Ok(secret),
            Body::Directory { .. } => Err(VaultError::IsDirectory(self.path.to_string())),
        }
    }

    /// The secret, to be changed.
    pub(crate) fn secret_mut(&mut self) -> Result<&mut Secret, VaultError> {
        match &mut self.body {
            Body::Secret(secret) => Ok(secret),
            Body::Directory { .. } => Err(VaultError::IsDirectory(self.path.to_string())),
        }
    }

    /// Time of its deletion, Unix milliseconds, if it is a deleted secret.
    #[must_use]
    pub fn deleted_ms(&self) -> Option<i64> {
        match &self.body {
            Body::Secret(secret) => secret.deleted.map(|deletion| deletion.at_ms),
            Body::Directory { .. } => None,
        }
    }

    /// The secret, unless it is a directory or deleted.
    #[must_use]
    pub fn live_secret(&self) -> Option<&Secret> {
        match &self.body {
            Body::Secret(secret) if secret.deleted.is_none() => Some(secret),
            _ => None,
        }
    }
}

/// Counters that change with every commit.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct VaultState {
    /// Commits so far.
    pub(crate) seq: u64,
    /// The next id to hand out.
    pub(crate) next_id: NodeId,
    /// Live secrets.
    pub(crate) secrets: u64,
    /// Revocations so far.
    pub(crate) revocations: u64,
    /// Notes of the audit log and of the time.
    pub(crate) witness: Witness,
}

/// Format of the records written by this release; the first byte of each.
const RECORD_FORMAT: u8 = 1;

pub(crate) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(record, vec![RECORD_FORMAT])
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, postcard::Error> {
    match bytes.split_first() {
        Some((&RECORD_FORMAT, rest)) => postcard::from_bytes(rest),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

/// Keys of the store, one leading byte a table; ids big-endian, so that scans
/// run in their order.
pub(crate) mod key {
    use crate::crypto::NAME_HASH_LEN;
    use crate::record::NodeId;

    pub(crate) const FORMAT: &[u8] = b"f";
    pub(crate) const STATE: &[u8] = b"h";
    pub(crate) const OUTBOX: &[u8] = b"o";
    pub(crate) const DELETED: &[u8] = b"d";
    pub(crate) const JOURNAL: &[u8] = b"j";
    pub(crate) const REVOCATION: &[u8] = b"r";
    pub(crate) const NODE: &[u8] = b"n";

    /// A key of `table`.
    fn with(table: u8, parts: &[&[u8]]) -> Vec<u8> {
        let mut key = vec![table];
        for part in parts {
            key.extend_from_slice(part);
        }
        key
    }

    pub(crate) fn slot(number: u8) -> Vec<u8> {
        with(b's', &[&[number]])
    }

    pub(crate) fn tenant(tenant: u64) -> Vec<u8> {
        with(b't', &[&tenant.to_be_bytes()])
    }

    pub(crate) fn node(id: NodeId) -> Vec<u8> {
        with(b'n', &[&id.to_be_bytes()])
    }

    pub(crate) fn entry(parent: NodeId, hash: [u8; NAME_HASH_LEN]) -> Vec<u8> {
        with(b'e', &[&parent.to_be_bytes(), &hash])
    }

    pub(crate) fn children(parent: NodeId) -> Vec<u8> {
        with(b'c', &[&parent.to_be_bytes()])
    }

    pub(crate) fn child(parent: NodeId, id: NodeId) -> Vec<u8> {
        with(b'c', &[&parent.to_be_bytes(), &id.to_be_bytes()])
    }

    pub(crate) fn value(id: NodeId, version: u32) -> Vec<u8> {
        with(b'v', &[&id.to_be_bytes(), &version.to_be_bytes()])
    }

    pub(crate) fn deleted(id: NodeId) -> Vec<u8> {
        with(b'd', &[&id.to_be_bytes()])
    }

    pub(crate) fn revocation(id: u64) -> Vec<u8> {
        with(b'r', &[&id.to_be_bytes()])
    }

    pub(crate) fn outbox(seq: u64, index: u16) -> Vec<u8> {
        with(b'o', &[&seq.to_be_bytes(), &index.to_be_bytes()])
    }

    /// Commit and index of an outbox key.
    pub(crate) fn outbox_position(key: &[u8]) -> Option<(u64, u16)> {
        let seq = key.get(1..9)?.try_into().ok()?;
        let index = key.get(9..11)?.try_into().ok()?;
        Some((u64::from_be_bytes(seq), u16::from_be_bytes(index)))
    }

    pub(crate) fn journal(mount: &[u8; 16], request: u64) -> Vec<u8> {
        with(b'j', &[mount, &request.to_be_bytes()])
    }

    /// Mount and request of a journal key.
    pub(crate) fn journal_position(key: &[u8]) -> Option<([u8; 16], u64)> {
        let mount = key.get(1..17)?.try_into().ok()?;
        Some((mount, trailing_id(key)?))
    }

    /// The last eight bytes of a key, as an id.
    pub(crate) fn trailing_id(key: &[u8]) -> Option<NodeId> {
        key.last_chunk().map(|id| NodeId::from_be_bytes(*id))
    }
}

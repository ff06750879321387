//! The encrypted vault of jarvis-secretsd.
//!
//! Runs in: the worker; jarvisctl creates vaults and opens exported histories.
//! Touches: plaintext, keys, and the vault's file; no network, no privilege.
//! Imported by: the program's worker/ and ctl/; others take [`SecretBytes`] alone.
//!
//! A random 256-bit root key sits in key slots (passphrase or key file). Below
//! it stand a tenant's data key and one data key a secret; every record is
//! sealed with AES-256-GCM under associated data that binds it to its place, so
//! that no record can be moved, swapped or replayed elsewhere. Records live in
//! a small [`Store`]; redb is the one shipped. Names are stored as keyed
//! hashes, the readable name is inside the sealed node.
//!
//! [`Vault`] (vault.rs) reads and has the one writer; a [`Txn`] (txn/) is a change.
//! Both stand on keys.rs, which opens records, and on record.rs, which says what
//! they are. open/ makes a vault of a file, slot/ has the ways to its root key,
//! generate/ makes new values, history.rs writes files that leave the vault.
//!
//! docs/FORMATS.md gives the bytes. Records are postcard: no variant or field of a
//! stored type changes its place.
#![forbid(unsafe_code)]

mod cache;
mod crypto;
mod error;
mod generate;
mod history;
mod keys;
mod kid;
mod kind;
mod name;
mod open;
mod record;
mod revocation;
mod secret;
mod slot;
mod store;
mod txn;
mod vault;
mod version;
mod witness;

pub use error::VaultError;
pub use generate::spec::{TYPES, TypeSpec};
pub use history::{History, HistoryMetadata, MAX_HISTORY, MAX_HISTORY_FILE};
pub use kind::{ByteEncoding, CharacterClass, JwtAlgorithm, SecretType};
pub use name::{MAX_SEGMENT, MAX_SEGMENTS, NameError, SecretName, is_hidden};
pub use open::{LockedVault, Probe, create};
pub use record::{Body, Node, NodeId, ROOT, Secret, SoftDeletion};
pub use revocation::{ActedBy, Revocation, RevocationReason, RevocationStatus, Severity};
pub use secret::{MAX_VALUE, SecretBytes};
pub use slot::{Credential, KEY_FILE_LEN, SlotInfo};
pub use store::file::VaultPlace;
pub use store::{Batch, Store, StoreError, StoreHealth, Visit};
pub use txn::deletion::MAX_DELETED;
pub use txn::revocation::{
    MAX_OPEN_OF_ONE, MAX_OPEN_REVOCATIONS, MAX_REVOCATIONS, RevocationRequest,
};
pub use txn::versions::{KidPrecondition, NewVersion};
pub use txn::{Txn, WriteOutcome};
pub use vault::{JournalEntry, PendingNote, Vault, VaultCounts};
pub use version::{
    Consumer, Criticality, MAX_DESTROYED, PendingVersion, SecretSettings, Version, VersionMark,
    VersionState,
};
pub use witness::{ClockWitness, LogWitness, Witness};

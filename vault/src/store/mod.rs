//! The database below the vault: ordered bytes, atomic batches.
//!
//! Runs in: the worker; jarvisctl when it creates a vault.
//! Touches: the vault's file; sealed records only, never plaintext or a key.
//! Imported by: keys.rs, txn/, vault.rs, open/ (which alone names redb), error.rs.

pub(crate) mod file;
mod overlay;
pub(crate) mod redb;
mod view;

use std::ops::ControlFlow;
use std::path::PathBuf;

/// Keys with their new values, or `None` to remove one; applied all or not at all.
pub type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Visitor of a scan: gets a key and its value, breaks to end the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A failure below the vault.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database noticed damage.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// A read or write failed.
    #[error("the database cannot be read or written: {0}")]
    Io(String),
    /// The disk takes no change.
    #[error(
        "{path} cannot be written ({why}), so nothing was changed; changes are taken again once \
         its disk takes them"
    )]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        why: String,
    },
    /// The file is not where, or not what it was: a restart would not find a change.
    #[error(
        "{path} {what}, so nothing was changed; put it back as it was (what is served is in \
         {open_file}), or restart the daemon to use what is there now"
    )]
    Displaced {
        /// Path at which it should be.
        path: PathBuf,
        /// Fate of the file.
        what: &'static str,
        /// Where root finds the open file.
        open_file: PathBuf,
    },
    /// A commit failed in its last step, and could not be taken back.
    #[error(
        "{path} cannot be written ({why}); the change is not in force, but whether a restart \
         now would find it is not known; see to the disk"
    )]
    InDoubt {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        why: String,
    },
}

impl StoreError {
    /// The reason in few words, without a path.
    #[must_use]
    pub fn brief(&self) -> String {
        match self {
            Self::Damaged(_) => "the vault's file is damaged".into(),
            Self::Io(why) => format!("the vault's file cannot be read ({why})"),
            Self::Unwritable { why, .. } | Self::InDoubt { why, .. } => {
                format!("the vault's file cannot be written ({why})")
            }
            Self::Displaced { what, .. } => format!("the vault's file {what}"),
        }
    }
}

/// Health of a store, as far as it is known.
#[derive(Clone, Debug)]
pub struct StoreHealth {
    /// Error that reads would get.
    pub readable: Result<(), StoreError>,
    /// Error that changes would get.
    pub writable: Result<(), StoreError>,
    /// Reads so far that failed at first.
    pub failures: u64,
    /// The last of them.
    pub last_failure: Option<StoreError>,
}

impl Default for StoreHealth {
    fn default() -> Self {
        Self {
            readable: Ok(()),
            writable: Ok(()),
            failures: 0,
            last_failure: None,
        }
    }
}

/// Part of the disk that a commit may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomClaim {
    /// Room that the reserve leaves.
    Ordinary,
    /// All room, for a revocation and for what the vault notes for itself.
    Reserve,
}

/// An ordered map of small keys to values that never sees plaintext.
pub trait Store: Send + Sync {
    /// The value of `key`.
    ///
    /// # Errors
    /// [`StoreError`] when the database can't be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits, in order, the keys that start with `prefix` and are at least
    /// `from`, until `visit` breaks.
    ///
    /// # Errors
    /// [`StoreError`] when the database can't be read.
    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// Applies `batch` atomically; durable (also against power loss) once it
    /// returned. `claim` says which part of a disk that is almost full it may take.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of the batch is visible.
    fn commit(&self, batch: &Batch, claim: RoomClaim) -> Result<(), StoreError>;

    /// Health as it was found last, without a look at the disk.
    fn health(&self) -> StoreHealth;

    /// Looks whether the store can be read and changed, and goes back to work once what
    /// kept it from that is over.
    fn check(&self) -> StoreHealth;
}

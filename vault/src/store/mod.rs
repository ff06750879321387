//! The database below the vault: ordered bytes, atomic batches.
//!
//! Runs in: the worker; jarvisctl when it creates a vault.
//! Touches: the vault's file; sealed records only, never plaintext or a key.
//! Imported by: keys.rs, txn/, open/ (which alone names redb), error.rs.

pub(crate) mod redb;

use std::ops::ControlFlow;

/// Keys with their new values, or `None` to remove one; applied all or not at all.
pub type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Visitor of a scan: gets a key and its value, breaks to end the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A failure below the vault.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database noticed damage.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// A read or write failed.
    #[error("the database cannot be read or written: {0}")]
    Io(String),
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
    /// returned.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of the batch is visible.
    fn commit(&self, batch: &Batch) -> Result<(), StoreError>;
}

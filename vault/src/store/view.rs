//! One opening of the vault's database: reads and commits of redb, and its errors.
//!
//! A view that failed is cut and replaced; who still reads it keeps it until then.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, StorageBackend, StorageError,
    TableDefinition,
};

use crate::store::file::{FileAccess, FileHeader, VaultFile, io_error};
use crate::store::overlay::Overlay;
use crate::store::{Batch, StoreError, Visit};

/// The one table.
const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");

/// Size of redb's cache, enough for the hot pages; the file itself is in the page
/// cache, sealed.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// A database as it was opened once.
pub(super) struct View {
    db: Database,
    pub(super) writable: bool,
    /// Set when another view takes its place.
    pub(super) cut: Arc<AtomicBool>,
    /// Dropped with the view.
    _presence: Sender<Infallible>,
    pub(super) absence: Mutex<Option<Receiver<Infallible>>>,
}

impl View {
    pub(super) fn for_writing(file: &Arc<VaultFile>) -> Result<Self, StoreError> {
        file.opened_for_writing()?;
        let cut = Arc::new(AtomicBool::new(false));
        let view = Self::open(FileAccess::new(file.clone(), cut.clone()), false, true, cut);
        let view = view.map_err(|error| match error {
            StoreError::Io(why) => file.unwritable(&why),
            other => other,
        })?;
        file.keep();
        Ok(view)
    }

    /// A view of the file, or of what it would be with `header`, that writes to memory.
    pub(super) fn for_reading(
        file: &Arc<VaultFile>,
        header: Option<&FileHeader>,
        check: bool,
    ) -> Result<Self, StoreError> {
        let overlay = Overlay::new(file.duplicate()?, header).map_err(io_error)?;
        Self::open(overlay, check, false, Arc::default())
    }

    fn open(
        backend: impl StorageBackend,
        check: bool,
        writable: bool,
        cut: Arc<AtomicBool>,
    ) -> Result<Self, StoreError> {
        let db = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(check)
            .create_with_backend(backend)
            .map_err(database)?;
        let (presence, absence) = channel();
        let view = Self {
            db,
            writable,
            cut,
            _presence: presence,
            absence: Mutex::new(Some(absence)),
        };
        view.ensure_table()?;
        Ok(view)
    }

    fn ensure_table(&self) -> Result<(), StoreError> {
        let read = self.db.begin_read().map_err(transaction)?;
        if read.open_table(RECORDS).is_ok() {
            return Ok(());
        }
        drop(read);
        self.commit(&Batch::new())
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let read = self.db.begin_read().map_err(transaction)?;
        let table = read.open_table(RECORDS).map_err(table)?;
        let found = table.get(key).map_err(storage)?;
        Ok(found.map(|guard| guard.value().to_vec()))
    }

    /// Visits what [`Store::scan`] says; `from` goes along, for who goes on after a failure.
    pub(super) fn scan(
        &self,
        prefix: &[u8],
        from: &mut Vec<u8>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let read = self.db.begin_read().map_err(transaction)?;
        let table = read.open_table(RECORDS).map_err(table)?;
        let start = from.clone();
        for entry in table.range(start.as_slice()..).map_err(storage)? {
            let (key, value) = entry.map_err(storage)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            from.clear();
            from.extend_from_slice(key.value());
            from.push(0);
            if visit(key.value(), value.value()).is_break() {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut write = self.db.begin_write().map_err(transaction)?;
        // The allocator's state goes with every commit, in two phases, which is slower.
        // Without it an open after SIGKILL walks the whole file, and a new worker must
        // serve at once however large the vault is.
        write.set_quick_repair(true);
        {
            let mut table = write.open_table(RECORDS).map_err(table)?;
            for (key, value) in batch {
                match value {
                    Some(value) => table.insert(key.as_slice(), value.as_slice()),
                    None => table.remove(key.as_slice()),
                }
                .map_err(storage)?;
            }
        }
        write.commit().map_err(|error| match error {
            redb::CommitError::Storage(error) => storage(error),
            other => StoreError::Io(other.to_string()),
        })
    }
}

fn storage(error: StorageError) -> StoreError {
    match error {
        StorageError::Corrupted(what) => StoreError::Damaged(what),
        other => StoreError::Io(other.to_string()),
    }
}

fn database(error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::Storage(error) => storage(error),
        other => StoreError::Io(other.to_string()),
    }
}

fn transaction(error: redb::TransactionError) -> StoreError {
    match error {
        redb::TransactionError::Storage(error) => storage(error),
        other => StoreError::Io(other.to_string()),
    }
}

fn table(error: redb::TableError) -> StoreError {
    match error {
        redb::TableError::Storage(error) => storage(error),
        other => StoreError::Damaged(other.to_string()),
    }
}

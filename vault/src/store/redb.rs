//! redb as the [`Store`], and a look at a file that leaves it as it is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use parking_lot::Mutex;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, StorageBackend, StorageError,
    TableDefinition, backends::FileBackend,
};

use crate::store::{Batch, Store, StoreError, Visit};

/// The one table.
const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");

/// Size of redb's cache, enough for the hot pages; the file itself is in the page
/// cache, sealed.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// A vault file opened with redb. The caller holds the lock on the file.
pub(crate) struct RedbStore {
    db: Database,
}

impl RedbStore {
    /// Opens `file` for good; an empty file becomes an empty database.
    pub(crate) fn open(file: File) -> Result<Self, StoreError> {
        let backend = FileBackend::new(file).map_err(database)?;
        Self::with(backend, false)
    }

    /// Opens a copy-on-write view of `file`, every page's checksum verified:
    /// repairs and commits stay in memory.
    pub(crate) fn probe(file: File) -> Result<Self, StoreError> {
        let len = file.metadata().map_err(io_error)?.len();
        let view = Overlay {
            file,
            state: Mutex::new(OverlayState {
                len,
                blocks: BTreeMap::new(),
            }),
        };
        Self::with(view, true)
    }

    fn with(backend: impl StorageBackend, check: bool) -> Result<Self, StoreError> {
        let db = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(check)
            .create_with_backend(backend)
            .map_err(database)?;
        let store = Self { db };
        store.ensure_table()?;
        Ok(store)
    }

    fn ensure_table(&self) -> Result<(), StoreError> {
        let read = self.db.begin_read().map_err(transaction)?;
        if read.open_table(RECORDS).is_ok() {
            return Ok(());
        }
        drop(read);
        self.commit(&Batch::new())
    }
}

impl Store for RedbStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let read = self.db.begin_read().map_err(transaction)?;
        let table = read.open_table(RECORDS).map_err(table)?;
        let found = table.get(key).map_err(storage)?;
        Ok(found.map(|guard| guard.value().to_vec()))
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let read = self.db.begin_read().map_err(transaction)?;
        let table = read.open_table(RECORDS).map_err(table)?;
        for entry in table.range(from.max(prefix)..).map_err(storage)? {
            let (key, value) = entry.map_err(storage)?;
            if !key.value().starts_with(prefix) || visit(key.value(), value.value()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
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
        write.commit().map_err(|e| StoreError::Io(e.to_string()))
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

fn io_error(error: io::Error) -> StoreError {
    StoreError::Io(error.to_string())
}

/// Size of the overlay's blocks in bytes.
const BLOCK: usize = 4096;

/// A file under a layer of memory that takes all writes.
#[derive(Debug)]
struct Overlay {
    file: File,
    state: Mutex<OverlayState>,
}

#[derive(Debug)]
struct OverlayState {
    len: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK]>>,
}

impl Overlay {
    /// The block as the file has it, zeros past its end.
    fn original(&self, block: u64) -> io::Result<Box<[u8; BLOCK]>> {
        let mut bytes = Box::new([0; BLOCK]);
        let mut filled = 0;
        let start = block * BLOCK as u64;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, start + filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(bytes)
    }

    /// Splits `len` bytes at `offset` into (block, range within it, range within the buffer).
    fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            if done == len {
                return None;
            }
            let at = offset + done as u64;
            let within = usize::try_from(at % BLOCK as u64).unwrap_or_default();
            let take = (BLOCK - within).min(len - done);
            let piece = (at / BLOCK as u64, within, done, take);
            done += take;
            Some(piece)
        })
    }
}

fn out_of_range() -> io::Error {
    io::Error::from(io::ErrorKind::UnexpectedEof)
}

impl StorageBackend for Overlay {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.state.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let state = self.state.lock();
        if offset.saturating_add(out.len() as u64) > state.len {
            return Err(out_of_range());
        }
        for (block, within, at, take) in Self::pieces(offset, out.len()) {
            let original;
            let bytes = match state.blocks.get(&block) {
                Some(bytes) => bytes,
                None => {
                    original = self.original(block)?;
                    &original
                }
            };
            let from = bytes.get(within..within + take).ok_or_else(out_of_range)?;
            out.get_mut(at..at + take)
                .ok_or_else(out_of_range)?
                .copy_from_slice(from);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.state.lock().len = len;
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut state = self.state.lock();
        for (block, within, at, take) in Self::pieces(offset, data.len()) {
            let bytes = match state.blocks.entry(block) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(self.original(block)?),
            };
            let from = data.get(at..at + take).ok_or_else(out_of_range)?;
            bytes
                .get_mut(within..within + take)
                .ok_or_else(out_of_range)?
                .copy_from_slice(from);
        }
        Ok(())
    }
}

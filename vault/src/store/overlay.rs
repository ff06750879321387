//! A file under a layer of memory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use parking_lot::Mutex;
use redb::StorageBackend;

use crate::store::file::{FileHeader, HEADER};

/// Size of the overlay's blocks in bytes.
const BLOCK: usize = 4096;

/// A file under a layer of memory that takes all writes.
#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    state: Mutex<OverlayState>,
}

#[derive(Debug)]
struct OverlayState {
    len: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK]>>,
}

impl Overlay {
    /// `file` as it is, or with the `header` that it should have.
    pub(super) fn new(file: File, header: Option<&FileHeader>) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let state = OverlayState {
            len,
            blocks: BTreeMap::new(),
        };
        let overlay = Self {
            file,
            state: Mutex::new(state),
        };
        if let Some(header) = header.filter(|_| len >= HEADER as u64) {
            overlay.write(0, header)?;
        }
        Ok(overlay)
    }

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

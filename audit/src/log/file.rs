//! System calls on the log's files, behind a trait so that tests can make them fail.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{FallocateFlags, fallocate};

/// A file opened for appending.
pub(crate) trait LogFile: Send + Sync {
    /// One write(2) at the end; may be short.
    fn append(&self, bytes: &[u8]) -> io::Result<usize>;
    /// fdatasync(2).
    fn sync(&self) -> io::Result<()>;
    /// ftruncate(2).
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// fallocate(2): keeps the first `len` bytes' room, the length stays.
    fn reserve(&self, len: u64) -> io::Result<()>;
    /// fstat(2).
    fn status(&self) -> io::Result<FileStatus>;
}

/// Facts about a file that tell whether it is still the one that was opened, and whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStatus {
    /// Device and inode number.
    pub(crate) identity: (u64, u64),
    /// Names that the file has.
    pub(crate) names: u64,
    pub(crate) len: u64,
}

impl LogFile for File {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self;
        loop {
            match file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        Ok(fallocate(self, FallocateFlags::KEEP_SIZE, 0, len)?)
    }

    fn status(&self) -> io::Result<FileStatus> {
        let metadata = self.metadata()?;
        Ok(FileStatus {
            identity: (metadata.dev(), metadata.ino()),
            names: metadata.nlink(),
            len: metadata.len(),
        })
    }
}

//! Answers to READDIR.

use zerocopy::IntoBytes;

use super::abi::Dirent;

/// Entries are padded to a multiple of this.
const ALIGNMENT: usize = 8;
/// Longest answer, whatever is asked for.
const MAX_SIZE: usize = 1 << 20;

/// Entries of a directory, as many as the reader has room for.
pub(crate) struct DirectoryPage {
    bytes: Vec<u8>,
    size: usize,
}

/// An entry in a listing.
pub(crate) struct ListedEntry<'n> {
    pub(crate) ino: u64,
    /// Where a listing goes on behind this entry.
    pub(crate) offset: u64,
    pub(crate) directory: bool,
    pub(crate) name: &'n str,
}

impl DirectoryPage {
    /// An empty page with room for `size` bytes.
    pub(crate) fn new(size: u32) -> Self {
        Self {
            bytes: Vec::new(),
            size: (size as usize).min(MAX_SIZE),
        }
    }

    /// Adds `entry`, if there is room for it; gives whether there was.
    #[must_use]
    pub(crate) fn add(&mut self, entry: &ListedEntry<'_>) -> bool {
        let kind = if entry.directory {
            libc::DT_DIR
        } else {
            libc::DT_REG
        };
        let Ok(namelen) = u32::try_from(entry.name.len()) else {
            return false;
        };
        let head = Dirent {
            ino: entry.ino,
            off: entry.offset,
            namelen,
            kind: kind.into(),
        };
        let end = self.bytes.len() + size_of::<Dirent>() + entry.name.len();
        let end = end.next_multiple_of(ALIGNMENT);
        if end > self.size {
            return false;
        }
        self.bytes.extend(head.as_bytes());
        self.bytes.extend(entry.name.as_bytes());
        self.bytes.resize(end, 0);
        true
    }

    /// The answer.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> ListedEntry<'_> {
        ListedEntry {
            ino: 7,
            offset: 9,
            directory: true,
            name,
        }
    }

    #[test]
    fn a_page_takes_what_fits_and_pads_it() {
        let mut page = DirectoryPage::new(24 + 8 + 24 + 7);
        assert!(page.add(&entry("abcde")));
        assert!(!page.add(&entry("f")), "one byte is missing");
        let bytes = page.bytes();
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[..8], 7_u64.to_ne_bytes());
        assert_eq!(bytes[8..16], 9_u64.to_ne_bytes());
        assert_eq!(bytes[16..20], 5_u32.to_ne_bytes());
        assert_eq!(bytes[20..24], 4_u32.to_ne_bytes());
        assert_eq!(&bytes[24..], b"abcde\0\0\0");
    }
}

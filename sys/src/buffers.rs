//! Buffers in a memfd, shared between processes.

use std::ops::{Deref, DerefMut};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::io;

use super::memory::SharedMemory;

/// Buffers begin at a multiple of this.
const PAGE_BYTES: usize = 4096;
const WORD_BYTES: usize = size_of::<AtomicU64>();
/// Bytes at the beginning of a buffer that others may look at.
pub const HEAD_BYTES: usize = 40;

/// Zero-initialised buffers in a sealed memfd, and a word beside each: whoever holds the fd
/// maps the same ones, so they outlive the process that filled them.
///
/// Within a process a buffer is taken by one at a time. Between processes that is a matter of
/// their protocol, as is what the words mean; others may look at the head of a buffer, and see
/// what its owner is about to make of it.
pub struct SharedBuffers {
    memory: SharedMemory,
    /// Where each buffer begins and how long it is.
    places: Vec<(usize, usize)>,
    taken: Vec<AtomicBool>,
}

impl SharedBuffers {
    /// New buffers of these `sizes`. Pages take memory once touched.
    ///
    /// # Errors
    /// The kernel's errno from memfd_create, ftruncate, seal or mmap; EINVAL when a size is
    /// under [`HEAD_BYTES`].
    pub fn create(name: &str, sizes: &[usize]) -> io::Result<Self> {
        let (places, bytes) = places(sizes);
        Self::over(SharedMemory::create(name, bytes)?, places)
    }

    /// Maps the buffers behind `fd`, as made by [`SharedBuffers::create`] with the same `sizes`.
    ///
    /// # Errors
    /// EINVAL when the fd is nothing like it; otherwise the errno of mmap.
    pub fn map(fd: OwnedFd, sizes: &[usize]) -> io::Result<Self> {
        let (places, bytes) = places(sizes);
        let memory = SharedMemory::map(fd)?;
        if memory.bytes() == bytes {
            Self::over(memory, places)
        } else {
            Err(io::Errno::INVAL)
        }
    }

    fn over(memory: SharedMemory, places: Vec<(usize, usize)>) -> io::Result<Self> {
        if places.iter().any(|&(_, size)| size < HEAD_BYTES) {
            return Err(io::Errno::INVAL);
        }
        Ok(Self {
            memory,
            taken: places.iter().map(|_| AtomicBool::new(false)).collect(),
            places,
        })
    }

    /// The memfd, to be passed to another process.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.memory.fd()
    }

    /// The words, one for each buffer.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping begins with an aligned, zero-initialised word for each buffer,
        // in which no buffer lies, and lives as long as `self`; all who have it use atomics
        // only.
        unsafe {
            std::slice::from_raw_parts(self.memory.start().cast().as_ptr(), self.places.len())
        }
    }

    /// Takes buffer number `index`; `None` when this process has it taken already, or there is
    /// none.
    #[must_use]
    pub fn take(self: &Arc<Self>, index: usize) -> Option<SharedBuffer> {
        let taken = self.taken.get(index)?;
        let was_taken = taken.swap(true, Ordering::Acquire);
        (!was_taken).then(|| SharedBuffer {
            buffers: self.clone(),
            index,
        })
    }

    /// The head of buffer number `index`, which another process may be changing; zeros when
    /// there is none.
    #[must_use]
    pub fn peek(&self, index: usize) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        let Some(&(start, _)) = self.places.get(index) else {
            return head;
        };
        for (at, to) in head.chunks_exact_mut(WORD_BYTES).enumerate() {
            // SAFETY: buffers begin at a page, so words in them are aligned, and are no shorter
            // than a head, which is whole words. Unsafe is needed: their owner may be another
            // process, so that they are read as atomics.
            let word = unsafe {
                let word = self.memory.start().add(start + at * WORD_BYTES);
                AtomicU64::from_ptr(word.cast().as_ptr())
            };
            to.copy_from_slice(&word.load(Ordering::Acquire).to_ne_bytes());
        }
        head
    }
}

/// Places of buffers of these sizes behind their words, and how many bytes that is.
fn places(sizes: &[usize]) -> (Vec<(usize, usize)>, usize) {
    let mut end = (sizes.len() * WORD_BYTES).next_multiple_of(PAGE_BYTES);
    let mut places = Vec::with_capacity(sizes.len());
    for &size in sizes {
        places.push((end, size));
        end += size.next_multiple_of(PAGE_BYTES);
    }
    (places, end)
}

/// A buffer that was taken, until dropped.
pub struct SharedBuffer {
    buffers: Arc<SharedBuffers>,
    index: usize,
}

impl SharedBuffer {
    /// Its number.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    fn place(&self) -> (*mut u8, usize) {
        let place = self.buffers.places.get(self.index);
        let (start, size) = place.copied().unwrap_or_default();
        // SAFETY: the place lies in the mapping, which lives as long as `self`.
        (
            unsafe { self.buffers.memory.start().add(start) }.as_ptr(),
            size,
        )
    }
}

impl Deref for SharedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let (start, size) = self.place();
        // SAFETY: initialised bytes of the mapping that this value alone has in this process;
        // other processes leave it alone by protocol.
        unsafe { std::slice::from_raw_parts(start, size) }
    }
}

impl DerefMut for SharedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let (start, size) = self.place();
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(start, size) }
    }
}

impl Drop for SharedBuffer {
    fn drop(&mut self) {
        if let Some(taken) = self.buffers.taken.get(self.index) {
            taken.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [usize; 3] = [5000, 40, 4096];

    #[test]
    fn two_mappings_see_the_same_buffers_and_words() {
        let first = Arc::new(SharedBuffers::create("test", &SIZES).unwrap());
        let fd = first.fd().try_clone_to_owned().unwrap();
        let second = Arc::new(SharedBuffers::map(fd, &SIZES).unwrap());
        for (index, size) in SIZES.into_iter().enumerate() {
            let byte = u8::try_from(index + 1).unwrap();
            first.take(index).unwrap().fill(byte);
            first.words()[index].store(u64::from(byte), Ordering::Release);
            let seen = second.take(index).unwrap();
            assert_eq!(*seen, *vec![byte; size]);
            assert_eq!(second.peek(index), [byte; HEAD_BYTES]);
            assert_eq!(
                second.words()[index].load(Ordering::Acquire),
                u64::from(byte)
            );
        }
    }

    #[test]
    fn a_buffer_is_taken_once() {
        let buffers = Arc::new(SharedBuffers::create("test", &SIZES).unwrap());
        let taken = buffers.take(1).unwrap();
        assert!(buffers.take(1).is_none() && buffers.take(3).is_none());
        assert_eq!((taken.index(), taken.len()), (1, 40));
        drop(taken);
        assert!(buffers.take(1).is_some());
    }

    #[test]
    fn buffers_of_other_sizes_are_refused() {
        let buffers = SharedBuffers::create("test", &SIZES).unwrap();
        let fd = || buffers.fd().try_clone_to_owned().unwrap();
        assert!(SharedBuffers::map(fd(), &[5000, 40]).is_err());
        assert!(SharedBuffers::create("test", &[8]).is_err());
        assert!(SharedBuffers::map(fd(), &SIZES).is_ok());
    }
}

//! Where requests lie from their receipt to their answer: memory that outlives the process.
//!
//! A process can die at any instruction, and the kernel sends what it read to nobody else. So
//! requests are received into buffers that the next process maps as well: it finds in them
//! what was not answered, and answers that first.
//!
//! A buffer is zero before it receives. The kernel copies a request page by page, its head
//! first: a head with a length is a request. One that fits into a page is whole then; of a longer
//! one, whose reader may have been killed while it was copied, that is noted in its head. The
//! number of what was answered stands in the buffer's word; then the buffer is wiped.
//!
//! Who does not serve, but reads for somebody else's sake, leaves requests in the [`Backlog`].
//!
//! Runs in: worker (serves), holder (leaves requests), supervisor (keeps the memory).
//! Touches: requests; PLAINTEXT in those that write.
//! Imported by: connection, control, filesystem, mount, server.

mod backlog;
mod pool;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jarvis_sys::SharedBuffers;

use crate::wire::RequestHeader;

pub(crate) use backlog::Backlog;
pub use pool::RequestBuffers;
pub(crate) use pool::{LeftRequest, RequestBuffer};

/// Largest write in bytes.
pub(crate) const MAX_WRITE: u32 = 1024 * 1024;
/// Room for the largest request: what [`MAX_WRITE`] allows, and a page for what stands
/// before it.
pub(crate) const MAX_REQUEST_BYTES: usize = MAX_WRITE as usize + PAGE_BYTES;
/// The least that the kernel copies at once.
const PAGE_BYTES: usize = 4096;

/// Serving threads at most.
const MAX_THREADS: usize = 64;
/// Control requests that may wait for their turn; more are refused.
pub(crate) const MAX_WAITING: usize = 64;
/// Buffers for requests: one for each serving thread, one for each control request that waits
/// or is carried out, and some to spare.
const POOL: usize = MAX_THREADS + MAX_WAITING + 8;
/// The backlog's size: a request of the usual length takes some hundred bytes.
const BACKLOG_BYTES: usize = 16 * 1024 * 1024;

/// Marks the number of a request that was answered for a dead server by who does not know
/// whether that had begun it.
const DISMISSED: u64 = 1 << 63;

/// Memory for requests, as the processes of the daemon pass it on.
#[derive(Clone)]
pub struct RequestMemory(Arc<SharedBuffers>);

/// How the last request in a buffer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Answered, or in no need of an answer.
    Answered,
    /// Answered for a dead server.
    Dismissed,
    /// Somebody waits for it.
    Not,
}

impl RequestMemory {
    /// New memory, without requests.
    ///
    /// # Errors
    /// The system's answer.
    pub fn create() -> io::Result<Self> {
        let buffers = SharedBuffers::create("jarvis-requests", &sizes())?;
        Ok(Self(Arc::new(buffers)))
    }

    /// The memory behind `fd`, as made by [`RequestMemory::create`].
    ///
    /// # Errors
    /// EINVAL when it is another release's, and what else the system says.
    pub fn map(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(Arc::new(SharedBuffers::map(fd, &sizes())?)))
    }

    /// The fd, to be passed to another process.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }

    /// Requests that a server has read and not answered, with the numbers of their buffers.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = (usize, RequestHeader)> {
        (0..POOL).filter_map(|index| {
            let header = RequestHeader::parse(&self.0.peek(index)).ok()?;
            let waits = header.len != 0 && self.ended(index, &header) == Ended::Not;
            waits.then_some((index, header))
        })
    }

    /// Notes that the request in buffer `index` was answered for a server that is dead.
    pub(crate) fn dismiss(&self, index: usize, header: &RequestHeader) {
        self.note(index, header.unique.request() | DISMISSED);
    }

    fn note(&self, index: usize, word: u64) {
        if let Some(note) = self.0.words().get(index) {
            note.store(word, Ordering::Release);
        }
    }

    fn ended(&self, index: usize, header: &RequestHeader) -> Ended {
        let word = self.0.words().get(index);
        let word = word.map_or(0, |word| word.load(Ordering::Acquire));
        let request = header.unique.request();
        if word == request || !header.wants_answer() {
            Ended::Answered
        } else if word == request | DISMISSED {
            Ended::Dismissed
        } else {
            Ended::Not
        }
    }
}

/// The pool, and behind it the backlog.
fn sizes() -> [usize; POOL + 1] {
    let mut sizes = [MAX_REQUEST_BYTES; POOL + 1];
    sizes[POOL] = BACKLOG_BYTES;
    sizes
}

/// The bytes of a head that the kernel leaves zero: they note that a request is whole.
const NOTE: std::ops::Range<usize> = 38..40;

/// Notes in its head that a request is whole.
fn note_whole(request: &mut [u8]) {
    if let Some(note) = request.get_mut(NOTE) {
        note.fill(1);
    }
}

/// Whether the head of a request says that it is whole.
fn is_noted_whole(request: &[u8]) -> bool {
    request.get(NOTE) == Some(&[1, 1])
}

#[cfg(test)]
mod tests;

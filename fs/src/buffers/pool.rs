//! Buffers of a server.

use std::sync::Arc;

use jarvis_sys::{HEAD_BYTES, SharedBuffer};
use parking_lot::Mutex;
use zeroize::Zeroize;

use super::{Backlog, Ended, PAGE_BYTES, POOL, RequestMemory, is_noted_whole, note_whole};
use crate::wire::RequestHeader;

/// The buffers of the one server that there is.
pub struct RequestBuffers {
    memory: RequestMemory,
    free: Mutex<Vec<SharedBuffer>>,
    left: Mutex<Vec<LeftRequest>>,
}

/// Something that a dead server left in a buffer.
pub(crate) enum LeftRequest {
    /// A request that nobody has answered.
    Unanswered(RequestBuffer),
    /// One that was not received whole: the kernel may have given it up.
    Torn(RequestBuffer),
    /// The number of a request that was answered for the server.
    Dismissed(u64),
}

impl RequestBuffers {
    /// Takes all buffers in `memory`, of which no other process has any, and sorts out what
    /// was left in them.
    pub fn new(memory: RequestMemory) -> Arc<Self> {
        let buffers = Arc::new(Self {
            memory: memory.clone(),
            free: Mutex::default(),
            left: Mutex::default(),
        });
        for bytes in (0..POOL).rev().filter_map(|index| memory.0.take(index)) {
            let buffer = RequestBuffer {
                bytes: Some(bytes),
                len: 0,
                pool: buffers.clone(),
            };
            buffers.left.lock().extend(buffer.sort_out());
        }
        buffers
    }

    /// A buffer that is free; `None` when all are in use.
    pub(crate) fn take(self: &Arc<Self>) -> Option<RequestBuffer> {
        Some(RequestBuffer {
            bytes: Some(self.free.lock().pop()?),
            len: 0,
            pool: self.clone(),
        })
    }

    /// Requests that were read while nobody served; `None` while somebody has them.
    pub(crate) fn backlog(&self) -> Option<Backlog> {
        Backlog::open(&self.memory)
    }

    /// Takes what a dead server left.
    pub(crate) fn take_left(&self) -> Vec<LeftRequest> {
        std::mem::take(&mut *self.left.lock())
    }
}

/// A buffer with room for a request, or with one. When it is dropped it is wiped and free.
pub(crate) struct RequestBuffer {
    /// `None` while it is dropped.
    bytes: Option<SharedBuffer>,
    /// Length of the request.
    len: usize,
    pool: Arc<RequestBuffers>,
}

impl RequestBuffer {
    /// The room, which is zero.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.bytes.as_deref_mut().unwrap_or_default()
    }

    /// Notes that a request of `len` bytes was received.
    pub(crate) fn note_received(&mut self, len: usize) {
        self.len = len;
        note_whole(self.room());
    }

    /// The request.
    pub(crate) fn request(&self) -> &[u8] {
        let bytes = self.bytes.as_deref().unwrap_or_default();
        bytes.get(..self.len).unwrap_or_default()
    }

    /// Notes that request number `unique`, which it holds, was answered.
    pub(crate) fn note_answered(&self, unique: u64) {
        if let Some(bytes) = &self.bytes {
            self.pool.memory.note(bytes.index(), unique);
        }
    }

    /// Wipes the request, its head last: until then it says how much there is to wipe.
    pub(crate) fn wipe(&mut self) {
        let len = std::mem::take(&mut self.len);
        if let Some((head, body)) = self.room().split_at_mut_checked(HEAD_BYTES) {
            if let Some(body) = body.get_mut(..len.saturating_sub(HEAD_BYTES)) {
                body.zeroize();
            }
            head.zeroize();
        }
    }

    /// Finds what a dead server left in it. Nothing is left of what was answered.
    fn sort_out(mut self) -> Option<LeftRequest> {
        let index = self.bytes.as_ref()?.index();
        let header = RequestHeader::parse(self.room()).ok()?;
        // No request is longer; what claims to be is wiped whole.
        self.len = header.len.min(self.room().len());
        if self.len == 0 {
            return None;
        }
        match self.pool.memory.ended(index, &header) {
            Ended::Answered => None,
            Ended::Dismissed => Some(LeftRequest::Dismissed(header.unique.request())),
            Ended::Not if self.len <= PAGE_BYTES || is_noted_whole(self.room()) => {
                Some(LeftRequest::Unanswered(self))
            }
            Ended::Not => Some(LeftRequest::Torn(self)),
        }
    }
}

impl Drop for RequestBuffer {
    fn drop(&mut self) {
        self.wipe();
        if let Some(bytes) = self.bytes.take() {
            self.pool.free.lock().push(bytes);
        }
    }
}

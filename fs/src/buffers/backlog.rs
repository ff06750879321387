//! Requests that were read by who does not serve: they wait for the next server.
//!
//! They stand one behind the other, each at a multiple of eight bytes; a length of 0 ends
//! them. The head of one that a server took over has no number any more. Whoever reads adds
//! to them, and begins anew when all were taken over.

use jarvis_sys::{HEAD_BYTES, SharedBuffer};
use zeroize::Zeroize;

use super::{
    MAX_REQUEST_BYTES, PAGE_BYTES, POOL, RequestBuffer, RequestMemory, is_noted_whole, note_whole,
};
use crate::wire::RequestHeader;

const ALIGNMENT: usize = 8;
/// Length and kind of a request, which are written last: with them it is there.
const BEGINNING: usize = 8;

/// The backlog of a mount, which one process has at a time.
pub(crate) struct Backlog {
    bytes: SharedBuffer,
    /// Where the next request goes.
    end: usize,
}

/// A request in the backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaitingRequest {
    pub(crate) header: RequestHeader,
    at: usize,
    is_whole: bool,
}

impl Backlog {
    /// The backlog in `memory`; `None` while this process has it already.
    pub(crate) fn open(memory: &RequestMemory) -> Option<Self> {
        let mut backlog = Self {
            bytes: memory.0.take(POOL)?,
            end: 0,
        };
        backlog.end = match backlog.all().last() {
            Some(last) => last.end(),
            None => 0,
        };
        Some(backlog)
    }

    /// Begins anew, if no request waits.
    pub(crate) fn reuse(&mut self) {
        if self.waiting().is_empty() {
            let end = std::mem::take(&mut self.end);
            if let Some(used) = self.bytes.get_mut(..end) {
                used.zeroize();
            }
        }
    }

    /// Room for a request; `None` when there is none left.
    pub(crate) fn room(&mut self) -> Option<&mut [u8]> {
        let end = self.end;
        self.bytes.get_mut(end..end + MAX_REQUEST_BYTES)
    }

    /// Lets the request that was received into the room wait there.
    pub(crate) fn keep(&mut self) {
        let end = self.end;
        if let Some(request) = self.bytes.get_mut(end..)
            && let Ok(header) = RequestHeader::parse(request)
        {
            note_whole(request);
            self.end = end + header.len.next_multiple_of(ALIGNMENT);
        }
    }

    /// Forgets the request of `len` bytes that was received into the room.
    pub(crate) fn forget(&mut self, len: usize) {
        if let Some(request) = self.room().and_then(|room| room.get_mut(..len)) {
            request.zeroize();
        }
    }

    /// Requests that wait, in their order.
    pub(crate) fn waiting(&self) -> Vec<WaitingRequest> {
        let waits = |request: &WaitingRequest| request.header.unique.request() != 0;
        self.all().filter(waits).collect()
    }

    fn all(&self) -> impl Iterator<Item = WaitingRequest> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let bytes = self.bytes.get(at..)?;
            let header = RequestHeader::parse(bytes).ok()?;
            if header.len < HEAD_BYTES || header.len > bytes.len() {
                return None;
            }
            let in_a_page = at / PAGE_BYTES == (at + header.len - 1) / PAGE_BYTES;
            let request = WaitingRequest {
                header,
                at,
                is_whole: in_a_page || is_noted_whole(bytes),
            };
            at = request.end();
            Some(request)
        })
    }

    /// Moves `request` to `buffer`; gives whether it is whole. A server that dies in between has
    /// left it in both.
    pub(crate) fn hand_over(
        &mut self,
        request: &WaitingRequest,
        buffer: &mut RequestBuffer,
    ) -> bool {
        let len = request.header.len;
        let place = request.at..request.at + len;
        let bytes = self.bytes.get_mut(place).unwrap_or_default();
        if let Some(room) = buffer.room().get_mut(..len)
            && let Some((beginning, rest)) = room.split_at_mut_checked(BEGINNING)
            && let Some((from_beginning, from_rest)) = bytes.split_at_checked(BEGINNING)
        {
            rest.copy_from_slice(from_rest);
            beginning.copy_from_slice(from_beginning);
            buffer.note_received(len);
        }
        self.finish(request);
        request.is_whole
    }

    /// Takes `request` out; its length stays, for there may be others behind it.
    pub(crate) fn finish(&mut self, request: &WaitingRequest) {
        let place = request.at + BEGINNING..request.at + request.header.len;
        if let Some(rest) = self.bytes.get_mut(place) {
            rest.zeroize();
        }
    }
}

impl WaitingRequest {
    fn end(&self) -> usize {
        self.at + self.header.len.next_multiple_of(ALIGNMENT)
    }
}

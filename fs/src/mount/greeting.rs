//! The kernel's first request, FUSE_INIT, by which both agree on what every server relies on
//! for the life of the mount.

use std::io;
use std::os::fd::AsFd;

use zerocopy::IntoBytes;

use crate::buffers::{MAX_REQUEST_BYTES, MAX_WRITE};
use crate::connection::Connection;
use crate::wire::abi::{InitIn, InitOut, MAJOR, MINOR, init};
use crate::wire::{Operation, Request};

/// Seconds after which the kernel cuts a connection that leaves a request unanswered
/// (Linux 6.15; it looks every 15 s): the net below everything else. Longer than an outage
/// may last, so that only a machine on which nothing of ours runs is caught by it.
const REQUEST_TIMEOUT_SECS: u16 = 40;
/// Lookups and listings in one directory need no order among them. Older kernels lack it
/// and serialise.
const WANTED: u64 = init::ASYNC_READ
    | init::BIG_WRITES
    | init::PARALLEL_DIROPS
    | init::MAX_PAGES
    | init::INIT_EXT
    | init::REQUEST_TIMEOUT;
/// Pages of a request.
const PAGE: u32 = 4096;
/// Requests that the kernel sends without waiting for answers.
const MAX_BACKGROUND: u16 = 16;

/// Answers FUSE_INIT, which the kernel sends once it has mounted.
///
/// # Errors
/// The system's answer, or that the kernel said something else.
pub(super) fn greet(device: impl AsFd) -> io::Result<()> {
    let connection = Connection::from(device.as_fd().try_clone_to_owned()?);
    let mut buffer = vec![0; MAX_REQUEST_BYTES];
    let len = connection.receive(&mut buffer)?;
    let request = Request::parse(buffer.get(..len).unwrap_or_default());
    let (unique, offer) = match request.map(|request| (request.header, request.operation)) {
        Ok((header, Operation::Init(offer))) => (header.unique, offer),
        _ => {
            return Err(io::Error::other(
                "the kernel's first request was not FUSE_INIT",
            ));
        }
    };
    if offer.major != MAJOR {
        let theirs = offer.major;
        return Err(io::Error::other(format!(
            "the kernel speaks version {theirs} of FUSE, not {MAJOR}"
        )));
    }
    Ok(connection.answer(unique.request(), agreement(&offer).as_bytes())?)
}

/// Flags of what the kernel can do.
fn flags(offer: &InitIn) -> u64 {
    let low = u64::from(offer.flags);
    if low & init::INIT_EXT != 0 {
        low | u64::from(offer.flags2) << 32
    } else {
        low
    }
}

/// The answer: what both can do.
fn agreement(offer: &InitIn) -> InitOut {
    let agreed = flags(offer) & WANTED;
    let half = |word: u64| u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default();
    InitOut {
        major: MAJOR,
        minor: MINOR,
        max_readahead: offer.max_readahead,
        flags: half(agreed),
        max_background: MAX_BACKGROUND,
        congestion_threshold: MAX_BACKGROUND / 4 * 3,
        max_write: MAX_WRITE,
        // Times are exact to the nanosecond.
        time_gran: 1,
        max_pages: u16::try_from(MAX_WRITE / PAGE).unwrap_or(u16::MAX),
        map_alignment: 0,
        flags2: half(agreed >> 32),
        max_stack_depth: 0,
        request_timeout: REQUEST_TIMEOUT_SECS,
        unused: [0; 11],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(flags: u32, flags2: u32) -> InitIn {
        InitIn {
            major: 7,
            minor: 45,
            max_readahead: 131_072,
            flags,
            flags2,
            unused: [0; 11],
        }
    }

    #[test]
    fn only_what_both_can_do_is_agreed() {
        let answer = agreement(&offer(u32::MAX, 1 << 7));
        assert_eq!(answer.as_bytes().len(), 64);
        assert_eq!((answer.major, answer.max_readahead), (7, 131_072));
        assert_eq!(u64::from(answer.flags), WANTED & u64::from(u32::MAX));
        assert_eq!(answer.max_write, MAX_WRITE);
        assert_eq!(answer.flags2, 0, "no time limit: it was not offered");
        assert_eq!(agreement(&offer(u32::MAX, u32::MAX)).flags2, 1 << 10);
    }

    #[test]
    fn an_old_kernel_offers_no_more_than_32_flags() {
        let old = !(1_u32 << 30);
        assert_eq!(flags(&offer(old, u32::MAX)), u64::from(old));
    }
}

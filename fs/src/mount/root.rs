//! Mounting as root: mount(2), and the answer to the kernel's first request.
//!
//! fuser would do both, but for a subtype, by which others (updatedb, backups) tell our
//! mounts from sshfs's, and for a time limit on requests.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use super::stale::MOUNT_SOURCE;
use crate::filesystem::MAX_WRITE;

/// Type of the file system, as mountinfo shows it.
const FILE_SYSTEM_TYPE: &str = "fuse.jarvis";
/// Seconds after which the kernel cuts a connection that leaves a request unanswered
/// (Linux 6.15; it looks every 15 s): the net below everything else. Longer than an outage
/// may last, so that only a machine on which nothing of ours runs is caught by it.
const REQUEST_TIMEOUT_SECS: u16 = 40;

// From linux/fuse.h.
const FUSE_INIT: u32 = 26;
const FUSE_MAJOR: u32 = 7;
const FUSE_MINOR: u32 = 40;
const ASYNC_READ: u64 = 1;
const BIG_WRITES: u64 = 1 << 5;
const PARALLEL_DIROPS: u64 = 1 << 18;
const MAX_PAGES: u64 = 1 << 22;
const INIT_EXT: u64 = 1 << 30;
const HAS_RESEND: u64 = 1 << 39;
const REQUEST_TIMEOUT: u64 = 1 << 42;
const WANTED: u64 =
    ASYNC_READ | BIG_WRITES | PARALLEL_DIROPS | MAX_PAGES | INIT_EXT | HAS_RESEND | REQUEST_TIMEOUT;

/// Length of `struct fuse_in_header`.
const IN_HEADER: usize = 40;
/// Pages of a request.
const PAGE: u32 = 4096;
/// Requests that the kernel sends without waiting for answers, as in fuser's default.
const MAX_BACKGROUND: u16 = 16;

/// Mounts on `path` for every user; gives the device, and whether requests that one
/// server left unanswered can be had again by the next one.
///
/// # Errors
/// The system's answer.
pub(super) fn mount(path: &Path) -> io::Result<(OwnedFd, bool)> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let fd = device.as_raw_fd();
    let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    let options = CString::new(options)?;
    rustix::mount::mount(
        MOUNT_SOURCE,
        path,
        FILE_SYSTEM_TYPE,
        flags,
        options.as_c_str(),
    )?;
    match answer_init(&device) {
        Ok(resends) => Ok((device, resends)),
        Err(error) => {
            // The error says more than a mount that nobody will serve.
            rustix::mount::unmount(path, UnmountFlags::DETACH).ok();
            Err(error)
        }
    }
}

/// Answers FUSE_INIT, which the kernel sends once it has mounted.
fn answer_init(device: &OwnedFd) -> io::Result<bool> {
    let mut request = vec![0; MAX_WRITE as usize + PAGE as usize];
    let len = rustix::io::retry_on_intr(|| rustix::io::read(device, &mut request[..]))?;
    let request = request.get(..len).unwrap_or_default();
    let (unique, offer) = Offer::parse(request)
        .ok_or_else(|| io::Error::other("the kernel's first request was not FUSE_INIT"))?;
    if offer.major != FUSE_MAJOR {
        return Err(io::Error::other(format!(
            "the kernel speaks version {} of FUSE, not {FUSE_MAJOR}",
            offer.major
        )));
    }
    rustix::io::write(device, &offer.answer(unique))?;
    Ok(offer.flags & HAS_RESEND != 0)
}

/// Offer of the kernel in FUSE_INIT (`struct fuse_init_in`).
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    major: u32,
    max_readahead: u32,
    flags: u64,
}

impl Offer {
    /// Number and offer of a request, if it is FUSE_INIT.
    fn parse(request: &[u8]) -> Option<(u64, Self)> {
        let word = |at: usize| {
            let bytes = request.get(at..)?.first_chunk()?;
            Some(u32::from_ne_bytes(*bytes))
        };
        if word(4)? != FUSE_INIT {
            return None;
        }
        let unique = u64::from_ne_bytes(*request.get(8..)?.first_chunk()?);
        let flags = u64::from(word(IN_HEADER + 12)?);
        let extended = flags & INIT_EXT != 0;
        let high = if extended { word(IN_HEADER + 16)? } else { 0 };
        let offer = Self {
            major: word(IN_HEADER)?,
            max_readahead: word(IN_HEADER + 8)?,
            flags: flags | u64::from(high) << 32,
        };
        Some((unique, offer))
    }

    /// `struct fuse_out_header` and `struct fuse_init_out`: what both sides can do.
    fn answer(&self, unique: u64) -> Vec<u8> {
        let flags = (self.flags & WANTED).to_ne_bytes();
        let [low, high] = if cfg!(target_endian = "little") {
            [0, 4]
        } else {
            [4, 0]
        };
        let half = |at: usize| flags.get(at..).and_then(<[u8]>::first_chunk::<4>).copied();
        let max_pages = u16::try_from(MAX_WRITE / PAGE).unwrap_or(u16::MAX);
        let mut init = Vec::with_capacity(80);
        for word in [80_u32, 0] {
            init.extend(word.to_ne_bytes());
        }
        init.extend(unique.to_ne_bytes());
        for word in [FUSE_MAJOR, FUSE_MINOR, self.max_readahead] {
            init.extend(word.to_ne_bytes());
        }
        init.extend(half(low).unwrap_or_default());
        for half in [MAX_BACKGROUND, MAX_BACKGROUND / 4 * 3] {
            init.extend(half.to_ne_bytes());
        }
        // max_write, and the granularity of times in nanoseconds.
        for word in [MAX_WRITE, 1] {
            init.extend(word.to_ne_bytes());
        }
        for half in [max_pages, 0] {
            init.extend(half.to_ne_bytes());
        }
        init.extend(half(high).unwrap_or_default());
        // max_stack_depth.
        init.extend(0_u32.to_ne_bytes());
        init.extend(REQUEST_TIMEOUT_SECS.to_ne_bytes());
        init.resize(80, 0);
        init
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, flags: u32, flags2: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [104, opcode, 2, 0, 0, 0, 0, 0, 0, 0] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        for word in [7, 45, 131_072, flags, flags2] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.resize(104, 0);
        bytes
    }

    #[test]
    fn only_what_both_can_do_is_agreed() {
        let (unique, offer) = Offer::parse(&request(FUSE_INIT, u32::MAX, 1 << 7)).unwrap();
        assert_eq!((unique, offer.major, offer.max_readahead), (2, 7, 131_072));
        let answer = offer.answer(unique);
        assert_eq!(answer.len(), 80);
        let word = |at: usize| u32::from_ne_bytes(*answer[at..].first_chunk().unwrap());
        assert_eq!((word(0), word(4), word(8)), (80, 0, 2));
        assert_eq!((word(16), word(24)), (7, 131_072));
        assert_eq!(u64::from(word(28)), WANTED & u64::from(u32::MAX));
        assert_eq!(word(36), MAX_WRITE);
        assert_eq!(word(48), 1 << 7, "no time limit: it was not offered");
    }

    #[test]
    fn an_old_kernel_offers_no_more_than_32_flags() {
        let old = !(1_u32 << 30);
        let (_, offer) = Offer::parse(&request(FUSE_INIT, old, u32::MAX)).unwrap();
        assert_eq!(offer.flags, u64::from(old));
        assert_eq!(Offer::parse(&request(3, 0, 0)), None);
        assert_eq!(Offer::parse(&[0; 30]), None);
    }
}

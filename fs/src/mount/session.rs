//! Serving a mount: what is agreed with the kernel, and fuser's session.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{
    Config, Filesystem, InitFlags, KernelConfig, Request as FuseRequest, Session, SessionACL,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::filesystem::{FileSystem, MAX_WRITE};
use crate::tree::Tree;

/// fuser's configuration: as `root` every user may enter.
pub(super) fn session_config(root: bool, threads: usize) -> Config {
    let mut config = Config::default();
    config.acl = if root {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(threads);
    // Closing a cloned device aborts its requests.
    config.clone_fd = false;
    config
}

/// Agrees with the kernel on what every server relies on, for the life of the
/// mount. Gives whether requests can be had again.
pub(crate) fn negotiate(config: &mut KernelConfig) -> io::Result<bool> {
    config
        .set_max_write(MAX_WRITE)
        .map_err(|_| io::Error::other("the kernel does not accept writes of 1 MiB"))?;
    // Lookups and listings in one directory need no order among them. Older
    // kernels lack it and serialise.
    config
        .add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS)
        .ok();
    Ok(config.add_capabilities(InitFlags::FUSE_HAS_RESEND).is_ok())
}

/// Answers the kernel's first request and no other.
pub(super) struct InitHandler(pub(super) Arc<AtomicBool>);

impl Filesystem for InitHandler {
    fn init(&mut self, _: &FuseRequest, config: &mut KernelConfig) -> io::Result<()> {
        self.0.store(negotiate(config)?, Ordering::Release);
        Ok(())
    }
}

/// Asks the kernel to send all requests again that were read and not answered.
/// To be called after the last reader is dead and before the next one reads:
/// a request that somebody still works on would be served twice at once.
///
/// # Errors
/// The system's answer.
pub fn resend(device: BorrowedFd<'_>) -> io::Result<()> {
    // struct fuse_out_header with unique 0: length, FUSE_NOTIFY_RESEND.
    let mut message = [0; 16];
    let (len, code) = (16_u32.to_ne_bytes(), 7_u32.to_ne_bytes());
    for (to, from) in message.iter_mut().zip(len.into_iter().chain(code)) {
        *to = from;
    }
    rustix::io::write(device, &message)?;
    Ok(())
}

/// A file system ready to serve a device that is already mounted.
pub struct Server<T: Tree> {
    session: Session<FileSystem<T>>,
}

impl<T: Tree> Server<T> {
    /// Prepares everything but the device: fuser is given a socket in its place
    /// and finds the kernel's first request there. The device will not send one
    /// again, and from the moment that it is read, requests are served.
    ///
    /// # Errors
    /// An error of the system or of fuser.
    pub fn new(fs: FileSystem<T>, root: bool, threads: usize) -> io::Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::io::write(&ours, &fuse_init_request())?;
        let pages = fs.pages();
        let config = session_config(root, threads);
        let session = Session::from_fd(fs, theirs, config.acl, config)?;
        pages.attach(session.notifier());
        Ok(Self { session })
    }

    /// The fd in whose place the device is to be put.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.session.as_fd()
    }

    /// Serves until the mount is gone.
    ///
    /// # Errors
    /// An error of the device.
    pub fn run(self) -> io::Result<()> {
        self.session.run()
    }
}

/// A FUSE_INIT request (struct fuse_in_header, struct fuse_init_in) that offers
/// everything: the true offer was accepted when the mount was made.
fn fuse_init_request() -> Vec<u8> {
    const INIT: u32 = 26;
    let header = [104, INIT, 1, 0, 0, 0, 0, 0, 0, 0];
    let init = [7, 40, 128 * 1024, u32::MAX, u32::MAX];
    let words = header.into_iter().chain(init).chain([0; 11]);
    words.flat_map(u32::to_ne_bytes).collect()
}

//! Mounting, and clearing what a dead daemon left.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use fuser::{
    Config, Filesystem, InitFlags, KernelConfig, MountOption, Request as FuseRequest, Session,
    SessionACL,
};
use rustix::mount::UnmountFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::filesystem::{FileSystem, MAX_WRITE};
use crate::tree::Tree;

/// Source in mountinfo.
const SOURCE: &str = "jarvis-secrets";
/// How long a mount already there may take to show that it lives.
const PROBE: Duration = Duration::from_secs(3);

/// Why the file system could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Another daemon serves the mount point.
    #[error("{0} is already mounted and its daemon answers; stop that one first")]
    Live(PathBuf),
    /// Something is mounted and does not answer.
    #[error(
        "{0} is mounted and does not answer; find its number with `stat -c %d` on its parent or in \
         /proc/self/mountinfo and abort it: echo 1 > /sys/fs/fuse/connections/N/abort"
    )]
    Hung(PathBuf),
    /// The mount point is missing or unusable.
    #[error("cannot use {path} as mount point: {source}")]
    MountPoint {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// mount(2) or fusermount3 failed.
    #[error("cannot mount on {path}: {source}")]
    Mount {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// A mount and the device behind it, whoever serves it.
pub struct Device {
    path: PathBuf,
    fd: Holder,
    connection: Option<u32>,
    resends: bool,
}

/// Who owns the fd.
enum Holder {
    /// fuser, which would unmount when dropped.
    Session(Option<Box<Session<Greeter>>>),
    /// We do.
    Adopted(OwnedFd),
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let Self::Session(session) = self {
            std::mem::forget(session.take());
        }
    }
}

impl Device {
    /// Mounts on `path` and settles with the kernel what a server can rely on.
    /// Requests wait until somebody serves the device.
    ///
    /// As `root` every user may enter; otherwise fusermount3 mounts, for the own
    /// user alone.
    ///
    /// # Errors
    /// [`MountError::Mount`] or [`MountError::MountPoint`].
    pub fn mount(path: &Path, root: bool) -> Result<Self, MountError> {
        let mut config = session_config(root, 1);
        config.mount_options = vec![
            MountOption::FSName(SOURCE.into()),
            MountOption::Subtype("jarvis".into()),
            MountOption::NoSuid,
            MountOption::NoDev,
            MountOption::NoExec,
            MountOption::NoAtime,
        ];
        let failed = |source| MountError::Mount {
            path: path.to_owned(),
            source,
        };
        let path = resolve(path)?;
        let resends = Arc::new(AtomicBool::new(false));
        let greeter = Greeter(resends.clone());
        let session = Session::new(greeter, &path, &config).map_err(failed)?;
        Ok(Self {
            connection: find(&path)?,
            path,
            fd: Holder::Session(Some(Box::new(session))),
            resends: resends.load(Ordering::Acquire),
        })
    }

    /// The mount on `path` that an earlier process left with its device; `None`
    /// when nothing of ours is mounted there any more.
    ///
    /// # Errors
    /// [`MountError::MountPoint`] when mountinfo or the path can't be read.
    pub fn adopt(path: &Path, fd: OwnedFd) -> Result<Option<Self>, MountError> {
        let path = resolve(path)?;
        let connection = find(&path)?;
        Ok(connection.map(|number| Self {
            path,
            fd: Holder::Adopted(fd),
            connection: Some(number),
            // It would not have been left otherwise.
            resends: true,
        }))
    }

    /// The device, for a server and for safekeeping; `None` at its end.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.fd {
            Holder::Session(session) => Some(session.as_ref()?.as_fd()),
            Holder::Adopted(fd) => Some(fd.as_fd()),
        }
    }

    /// Whether requests that one server left unanswered can be had again by the
    /// next one (Linux 6.9).
    #[must_use]
    pub fn resends(&self) -> bool {
        self.resends
    }

    /// Detaches the mount and cuts the connection, so that open handles fail
    /// and nothing of the file system stays in memory.
    ///
    /// # Errors
    /// [`MountError::MountPoint`]: the system's answer to the unmount.
    pub fn unmount(mut self) -> Result<(), MountError> {
        let detached = match find(&self.path)? == self.connection {
            true => detach(&self.path),
            false => Ok(()),
        };
        if let Some(connection) = self.connection {
            abort(connection);
        }
        // Where fusectl is not mounted the end of the last fd cuts it.
        if let Holder::Session(session) = &mut self.fd {
            drop(session.take());
        }
        detached
    }
}

fn abort(connection: u32) {
    // It is gone already when no handle was open.
    let abort = format!("/sys/fs/fuse/connections/{connection}/abort");
    std::fs::write(abort, "1").ok();
}

fn session_config(root: bool, threads: usize) -> Config {
    let mut config = Config::default();
    config.acl = match root {
        true => SessionACL::All,
        false => SessionACL::Owner,
    };
    config.n_threads = Some(threads);
    // Closing a cloned device aborts its requests.
    config.clone_fd = false;
    config
}

/// What every server relies on; fixed for the life of the mount. Gives whether
/// requests can be had again.
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
struct Greeter(Arc<AtomicBool>);

impl Filesystem for Greeter {
    fn init(&mut self, _: &FuseRequest, config: &mut KernelConfig) -> io::Result<()> {
        self.0.store(negotiate(config)?, Ordering::Release);
        Ok(())
    }
}

/// Asks the kernel to send all requests again that were read and not answered.
/// To be called before anybody reads the device, and after the last reader is
/// dead.
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
    /// and greeted there as the kernel would.
    ///
    /// # Errors
    /// What the system or fuser says.
    pub fn new(fs: FileSystem<T>, root: bool, threads: usize) -> io::Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::io::write(&ours, &greeting())?;
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
    /// What the device said.
    pub fn run(self) -> io::Result<()> {
        self.session.run()
    }
}

/// A FUSE_INIT request (struct fuse_in_header, struct fuse_init_in) that offers
/// everything: the true offer was accepted when the mount was made.
fn greeting() -> Vec<u8> {
    const INIT: u32 = 26;
    let header = [104, INIT, 1, 0, 0, 0, 0, 0, 0, 0];
    let init = [7, 40, 128 * 1024, u32::MAX, u32::MAX];
    let words = header.into_iter().chain(init).chain([0; 11]);
    words.flat_map(u32::to_ne_bytes).collect()
}

/// Detaches a dead mount of ours on `path`; fails when a live one is there.
/// Gives whether there was one.
///
/// # Errors
/// [`MountError::Live`], [`MountError::Hung`], or what kept it from going away.
pub fn clear_stale(path: &Path) -> Result<bool, MountError> {
    let path = resolve(path)?;
    if find(&path)?.is_none() {
        return Ok(false);
    }
    match answers(&path) {
        Some(true) => Err(MountError::Live(path)),
        None => Err(MountError::Hung(path)),
        Some(false) => detach(&path).map(|()| true),
    }
}

/// Takes away the mount of ours on `path`, if there is one, whoever serves it.
///
/// # Errors
/// [`MountError::MountPoint`].
pub fn unmount(path: &Path) -> Result<(), MountError> {
    let path = resolve(path)?;
    match find(&path)? {
        None => Ok(()),
        Some(connection) => {
            let detached = detach(&path);
            abort(connection);
            detached
        }
    }
}

/// The number of the FUSE connection of ours mounted on `path`, if any; the
/// mount itself is not touched.
///
/// # Errors
/// [`MountError::MountPoint`] when mountinfo or the path can't be read.
pub fn connection(path: &Path) -> Result<Option<u32>, MountError> {
    find(&resolve(path)?)
}

fn unusable(path: &Path) -> impl FnOnce(io::Error) -> MountError {
    let path = path.to_owned();
    move |source| MountError::MountPoint { path, source }
}

/// `path` as mountinfo shows it: links resolved above it, itself not touched.
fn resolve(path: &Path) -> Result<PathBuf, MountError> {
    let path = std::path::absolute(path).map_err(unusable(path))?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => match parent.canonicalize() {
            Ok(parent) => Ok(parent.join(name)),
            // Nothing is mounted in a directory that is not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path),
            Err(error) => Err(unusable(&path)(error)),
        },
        _ => Ok(path),
    }
}

/// The number of the FUSE connection of ours that mountinfo shows on `path`.
/// The path itself is not touched.
fn find(path: &Path) -> Result<Option<u32>, MountError> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(unusable(path))?;
    // mountinfo writes space, tab, newline and backslash as octal escapes.
    let wanted = path
        .to_string_lossy()
        .trim_end_matches('/')
        .replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011")
        .replace('\n', "\\012");
    Ok(mounts.lines().rev().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(2);
        let (_, minor) = fields.next()?.split_once(':')?;
        let ours = fields.nth(1) == Some(&wanted)
            && kind.starts_with("fuse")
            && kind.split(' ').nth(1) == Some(SOURCE);
        ours.then(|| minor.parse().ok()).flatten()
    }))
}

/// Whether somebody serves the mount on `path`: no for a dead one, `None` when
/// there is no answer in time. Asked in a thread that may be left behind.
#[must_use]
pub fn answers(path: &Path) -> Option<bool> {
    let (sender, receiver) = channel();
    let path = path.to_owned();
    std::thread::spawn(move || {
        let dead = std::fs::metadata(&path)
            .is_err_and(|e| matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)));
        // Nobody listens any more when the answer came too late.
        sender.send(!dead).ok();
    });
    receiver.recv_timeout(PROBE).ok()
}

/// Takes the mount away at once, also when files in it are open.
fn detach(path: &Path) -> Result<(), MountError> {
    if rustix::mount::unmount(path, UnmountFlags::DETACH).is_ok() {
        return Ok(());
    }
    // Not root: the helper that mounted it.
    let output = Command::new("fusermount3")
        .args(["-u", "-z", "--"])
        .arg(path)
        .output()
        .map_err(unusable(path))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(unusable(path)(io::Error::other(said.trim().to_owned())))
        }
    }
}

//! Mounting: mount(2) as root, fusermount3 as an ordinary user.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};

use super::stale::MOUNT_SOURCE;

/// Type of the file system, as mountinfo shows it: others (updatedb, backups) tell our mounts
/// from sshfs's by it.
const FILE_SYSTEM_TYPE: &str = "fuse.jarvis";
/// Where fusermount3 finds the socket to send the device on: its standard input.
const DEVICE_SOCKET: (&str, &str) = ("_FUSE_COMMFD", "0");

/// Mounts on `path` for every user; gives the device.
///
/// # Errors
/// The system's answer.
pub(super) fn mount_as_root(path: &Path) -> io::Result<OwnedFd> {
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
    Ok(device)
}

/// Has fusermount3 mount on `path`, for the own user alone; gives the device.
///
/// # Errors
/// What fusermount3 says, or the system's answer.
pub(super) fn mount_as_user(path: &Path) -> io::Result<OwnedFd> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let (name, value) = DEVICE_SOCKET;
    let output = Command::new("fusermount3")
        .arg("-o")
        .arg(format!(
            "fsname={MOUNT_SOURCE},subtype=jarvis,nosuid,nodev,noexec,noatime"
        ))
        .arg("--")
        .arg(path)
        .env(name, value)
        .stdin(Stdio::from(theirs))
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(said.trim().to_owned()));
    }
    receive_device(&ours)
}

/// The fd that was sent on `socket`.
fn receive_device(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let into = &mut [io::IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    recvmsg(socket, into, &mut control, flags)?;
    let mut fds = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    fds.next()
        .ok_or_else(|| io::Error::other("fusermount3 gave no device"))
}

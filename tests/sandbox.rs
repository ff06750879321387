//! What a worker's sandbox refuses, tried from inside: a thread enters it, for
//! good, and then tries what an attacker in the worker would.
// Helpers are tests, too: what clippy.toml allows in tests is for them as well.
#![cfg(test)]

mod harness;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use jarvis_secretsd::testing::{drop_privileges, sandbox};
use rustix::io::Errno;

use harness::user;

fn errno(result: libc::c_long) -> i32 {
    assert_eq!(result, -1, "it was allowed");
    io::Error::last_os_error().raw_os_error().unwrap()
}

fn open(path: impl AsRef<Path>) -> i32 {
    File::open(path).map_or_else(|e| e.raw_os_error().unwrap(), |_| 0)
}

/// Sends a datagram to an address.
fn datagram_to(socket: &UnixDatagram) -> libc::c_long {
    // The kernel never looks at the address: the call is refused before.
    let address = [0_u8; 16];
    // SAFETY: buffer and address are as long as is said.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            address.as_ptr().cast(),
            1,
            0,
            address.as_ptr().cast(),
            16,
        )
    };
    sent as libc::c_long
}

#[test]
fn the_sandbox_refuses_what_a_worker_never_does() {
    let home = tempfile::tempdir().unwrap();
    let user = user("jarvis");
    let directories: [OwnedFd; 2] = ["vault", "audit"].map(|name| {
        let path = home.path().join(name);
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid)).unwrap();
        File::open(path).unwrap().into()
    });
    // Readable by everybody: only Landlock keeps the worker out.
    let public = home.path().join("public");
    fs::write(&public, "public").unwrap();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&public, readable).unwrap();
    let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(home.path(), open_to_all).unwrap();
    assert_eq!(open(&public), 0);

    let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get();
    // Had a worker one, it could send to every datagram socket that has a path.
    let receiver = UnixDatagram::bind(home.path().join("socket")).unwrap();
    let unconnected = UnixDatagram::unbound().unwrap();
    let attempts = move || {
        drop_privileges(Some((user.uid, user.gid)), false).unwrap();
        assert_eq!(open(&public), 0, "only the sandbox closes it");
        sandbox::enter(&directories).unwrap();

        assert_eq!(open("/etc/shadow"), libc::EACCES);
        assert_eq!(open(&public), libc::EACCES);
        assert_eq!(open("/dev/null"), libc::EACCES);
        let null = std::ptr::null::<u8>();
        let mut pair = [0; 2];
        let program = c"/bin/true".as_ptr();
        let arguments = [program, std::ptr::null()];
        // SAFETY: whatever is refused does nothing, and all of it is refused.
        let refused = unsafe {
            [
                errno(libc::ptrace(libc::PTRACE_ATTACH, parent, null, null)),
                errno(libc::execve(program, arguments.as_ptr(), arguments.as_ptr()).into()),
                errno(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0).into()),
                errno(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).into()),
                errno(
                    libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, pair.as_mut_ptr()).into(),
                ),
                errno(datagram_to(&unconnected)),
                errno(
                    libc::mount(
                        c"none".as_ptr(),
                        c"/mnt".as_ptr(),
                        c"tmpfs".as_ptr(),
                        0,
                        null.cast(),
                    )
                    .into(),
                ),
                errno(libc::kill(parent, 0).into()),
                errno(libc::fork().into()),
                errno(libc::syscall(libc::SYS_setuid, 0)),
                errno(libc::unshare(libc::CLONE_NEWUSER).into()),
                errno(libc::syscall(
                    libc::SYS_process_vm_readv,
                    parent,
                    null,
                    0,
                    null,
                    0,
                    0,
                )),
                errno(libc::syscall(libc::SYS_bpf, 0, null, 0)),
                errno(libc::syscall(libc::SYS_io_uring_setup, 1, null)),
                errno(libc::ioctl(0, libc::TIOCSTI, null).into()),
            ]
        };
        assert_eq!(refused, [libc::EPERM; 15]);

        // What it does do.
        let vault = format!("/proc/self/fd/{}/vault", directories[0].as_raw_fd());
        fs::write(&vault, "sealed").unwrap();
        assert_eq!(fs::read(&vault).unwrap(), b"sealed");
        assert_eq!(open("/proc/1/status"), 0);
        assert_eq!(open("/etc/passwd"), 0);
        std::thread::spawn(|| ()).join().unwrap();
        // Kernels that don't know the question say so; only the sandbox says EPERM.
        let who = jarvis_sys::thread(std::process::id());
        assert!(
            matches!(who, Ok(_) | Err(Errno::INVAL | Errno::NOTTY)),
            "{who:?}"
        );
    };
    std::thread::spawn(attempts).join().unwrap();
    drop(receiver);
}

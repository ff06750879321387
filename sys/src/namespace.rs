//! User namespaces: whose one is, asked of the kernel (ioctl_nsfs(2)).

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{Stat, fstat};
use rustix::io;
use rustix::ioctl::{Getter, Ioctl, IoctlOutput, Opcode, ioctl, opcode};

/// Most namespaces above another one; the kernel itself allows 32.
const MAX_DEPTH: usize = 40;

const NS_GET_PARENT: Opcode = opcode::none(0xB7, 2);
const NS_GET_OWNER_UID: Opcode = opcode::none(0xB7, 4);

/// A user namespace right below the one of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserNamespace {
    /// The user that made it.
    pub owner: u32,
    /// The namespace's number, as lsns(8) shows it.
    pub number: u32,
}

/// Finds the namespace right below `home` that `namespace` is, or lies in; `None` when it
/// is `home` itself.
///
/// # Errors
/// EPERM for a namespace that does not lie in this process's own.
pub fn user_namespace_below(
    home: BorrowedFd<'_>,
    namespace: OwnedFd,
) -> io::Result<Option<UserNamespace>> {
    let home = fstat(home)?;
    let same = |one: &Stat| (one.st_dev, one.st_ino) == (home.st_dev, home.st_ino);
    if same(&fstat(&namespace)?) {
        return Ok(None);
    }
    let mut top = namespace;
    for _ in 0..MAX_DEPTH {
        let above = parent(top.as_fd())?;
        if same(&fstat(&above)?) {
            return Ok(Some(UserNamespace {
                owner: owner(top.as_fd())?,
                number: u32::try_from(fstat(&top)?.st_ino).map_err(|_| io::Errno::OVERFLOW)?,
            }));
        }
        top = above;
    }
    Err(io::Errno::LOOP)
}

/// The user that made `namespace`, as this process's own namespace numbers users.
fn owner(namespace: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: the kernel writes a uid_t, of which any bits are valid. Unsafe is needed: no
    // library wraps this ioctl.
    unsafe { ioctl(namespace, Getter::<NS_GET_OWNER_UID, u32>::new()) }
}

fn parent(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no argument; see `GetParent`.
    unsafe { ioctl(namespace, GetParent) }
}

/// `NS_GET_PARENT`: takes nothing, returns a new fd.
struct GetParent;

// SAFETY: the opcode is the call's, nothing is passed, and what a successful call returns
// is an fd that nobody else has. Unsafe is needed: no library wraps this ioctl.
unsafe impl Ioctl for GetParent {
    type Output = OwnedFd;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        NS_GET_PARENT
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        output: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> io::Result<Self::Output> {
        // SAFETY: the kernel has just made this fd for this call.
        Ok(unsafe { OwnedFd::from_raw_fd(output) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    fn of(pid: impl std::fmt::Display) -> File {
        File::open(format!("/proc/{pid}/ns/user")).unwrap()
    }

    #[test]
    fn nobody_but_a_stranger_is_below() {
        let home = of("self");
        let found = user_namespace_below(home.as_fd(), of("self").into());
        assert_eq!(found, Ok(None));
    }

    #[test]
    fn a_namespace_within_another_is_its_outermost_makers() {
        // Where this user may make none there is nothing to be found.
        let mut command = Command::new("unshare");
        command.args(["-U", "-r", "unshare", "-U", "-r", "sh", "-c"]);
        command.arg("echo ready; read wait");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let home = of("self");
        let inner = of(child.id());
        let number = fstat(&inner).unwrap().st_ino;
        let found = user_namespace_below(home.as_fd(), inner.into()).unwrap();
        let found = found.unwrap();
        assert_eq!(found.owner, rustix::process::geteuid().as_raw());
        assert_ne!(u64::from(found.number), number);
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}

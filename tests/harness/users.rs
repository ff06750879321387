//! The users that tests/setup.sh makes, and threads and programs that are them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Group, User as Account};

use super::errno;

pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A user made by tests/setup.sh.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: &'static str,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

pub(crate) fn user(name: &'static str) -> User {
    let account = Account::from_name(name).unwrap();
    let account = account.unwrap_or_else(|| panic!("no user {name}: run tests/setup.sh"));
    let c_name = std::ffi::CString::new(name).unwrap();
    let groups = nix::unistd::getgrouplist(&c_name, account.gid).unwrap();
    User {
        name,
        uid: account.uid.as_raw(),
        gid: account.gid.as_raw(),
        groups: groups.into_iter().map(nix::unistd::Gid::as_raw).collect(),
    }
}

/// Has rights in most tests.
pub(crate) fn alice() -> User {
    user("jarvis-alice")
}

/// Has none.
pub(crate) fn bob() -> User {
    user("jarvis-bob")
}

/// A member of jarvis-ops by a supplementary group.
pub(crate) fn carol() -> User {
    user("jarvis-carol")
}

pub(crate) fn root() -> User {
    User {
        name: "root",
        uid: 0,
        gid: 0,
        groups: vec![0],
    }
}

pub(crate) fn ops() -> u32 {
    let group = Group::from_name("jarvis-ops").unwrap();
    group
        .expect("no group jarvis-ops: run tests/setup.sh")
        .gid
        .as_raw()
}

impl User {
    /// Runs `work` in a thread that is this user: the kernel keeps ids by thread.
    pub(crate) fn act<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.become_thread();
                work()
            });
            thread.join().unwrap()
        })
    }

    pub(crate) fn become_thread(&self) {
        use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
        let groups: Vec<Gid> = self.groups.iter().map(|&g| Gid::from_raw(g)).collect();
        set_thread_groups(&groups).unwrap();
        let gid = Gid::from_raw(self.gid);
        set_thread_res_gid(Some(gid), Some(gid), Some(gid)).unwrap();
        let uid = Uid::from_raw(self.uid);
        set_thread_res_uid(Some(uid), Some(uid), Some(uid)).unwrap();
    }

    pub(crate) fn read(&self, path: &Path) -> Result<Vec<u8>, i32> {
        self.act(|| fs::read(path).map_err(|e| errno(&e)))
    }

    /// A program in a user namespace of this user's own, in which it is root and has its
    /// subordinate ids, as everybody may make one.
    pub(crate) fn namespaced(&self, program: &str) -> Command {
        let mut command = self.command("unshare");
        command.args(["--user", "--map-root-user", "--map-auto", program]);
        command
    }

    /// The id on the host of `id` in [`Self::namespaced`].
    pub(crate) fn subordinate(&self, id: u32) -> u32 {
        let ranges = fs::read_to_string("/etc/subuid").unwrap();
        let own = |line: &str| {
            let (first, _) = line
                .strip_prefix(self.name)?
                .strip_prefix(':')?
                .split_once(':')?;
            first.parse::<u32>().ok()
        };
        let first = ranges.lines().find_map(own);
        first.expect("subordinate ids: run tests/setup.sh") + id - 1
    }

    /// A whole program as this user, with a limit on its time.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "30", "setpriv"]);
        command.arg(format!("--reuid={}", self.uid));
        command.arg(format!("--regid={}", self.gid));
        match self.uid {
            0 => command.arg("--clear-groups"),
            _ => command.arg("--init-groups"),
        };
        command
            .arg(program)
            .env("LC_ALL", "C")
            .env("PATH", SYSTEM_PATH)
            .stdin(Stdio::null());
        command
    }
}

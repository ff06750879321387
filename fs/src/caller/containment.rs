//! Containment of callers: what keeps one apart from the host, whose ids are not its own.
//!
//! `/proc/TID/uid_map` tells an unprivileged reader whether a thread is in our user
//! namespace: a user can't make one that maps all ids as ours does, only root can. Whose
//! another one is the supervisor has to be asked. `/proc/TID/mountinfo` tells whether its root
//! is the host's: every container has another one, whatever else it shares with the host and
//! however its cgroup is called, and what the service manager starts has the host's, unless
//! it was told to use another (RootDirectory=).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::LazyLock;

/// Largest `/proc/PID/mountinfo` looked through for the root.
const MAX_MOUNTINFO: u64 = 1024 * 1024;

/// Surroundings of a caller whose ids are not the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containment {
    /// Another user namespace than ours: its users are whom the owner likes.
    UserNamespace(NamespaceOwner),
    /// Ids that are for user namespaces of this owner's (subuid(5)), in ours.
    SubordinateIds(NamespaceOwner),
    /// A pid namespace below ours.
    PidNamespace,
    /// A cgroup that a container engine made; only looked at where id 0 is involved.
    Engine,
    /// Another root directory than the host's, as in a container, or after chroot(2); only
    /// looked at where id 0 is involved.
    RootDirectory,
}

/// Owner of another user namespace, who answers for its users: of the outermost one below
/// ours that it is, or lies in. Also the owner of ids that are for such namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceOwner {
    /// The user that made it.
    User(u32),
    /// Root made it, for a container or a service; its number stands for it.
    Root {
        /// The namespace's number, as lsns(8) shows it.
        namespace: u32,
    },
    /// Nobody could tell.
    Unknown,
}

impl NamespaceOwner {
    /// The number that the namespace's users are counted under, all of them together: the
    /// uid of its owner; for what root made that of the namespace, which is above all uids
    /// in use.
    #[must_use]
    pub fn account(self) -> u32 {
        match self {
            Self::User(uid) => uid,
            Self::Root { namespace } => namespace,
            Self::Unknown => u32::MAX,
        }
    }
}

/// Whether thread `tid` is in our own user namespace; not if that can't be read.
pub(crate) fn is_in_our_user_namespace(tid: u32) -> bool {
    /// The daemon's own mapping, which does not change while it runs.
    static OURS: LazyLock<Option<Vec<u8>>> =
        LazyLock::new(|| mapping("self", u64::MAX).ok().filter(|map| !map.is_empty()));
    OURS.as_ref().is_some_and(|ours| {
        let enough = u64::try_from(ours.len())
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        mapping(&tid.to_string(), enough).is_ok_and(|theirs| theirs == *ours)
    })
}

/// Whether thread `tid` has the root directory that the host has: as the first process of our
/// pid namespace has it, or we ourselves. Not if that can't be read.
pub(crate) fn has_the_hosts_root(tid: u32) -> bool {
    /// These do not change while the daemon runs.
    static HOST: LazyLock<[Option<RootMount>; 2]> =
        LazyLock::new(|| ["1", "self"].map(|pid| root_mount(pid).ok().flatten()));
    let theirs = root_mount(&tid.to_string()).ok().flatten();
    theirs.is_some() && HOST.contains(&theirs)
}

/// Device and directory in its file system of what is mounted on a process's root.
#[derive(Debug, PartialEq, Eq)]
struct RootMount {
    device: Box<[u8]>,
    directory: Box<[u8]>,
}

/// The mount on the root of process `pid`; nothing if its root is no mount's. Not more
/// is read than needed: the list of mounts may be long.
fn root_mount(pid: &str) -> io::Result<Option<RootMount>> {
    let file = File::open(format!("/proc/{pid}/mountinfo"))?;
    let mut lines = BufReader::with_capacity(4096, file.take(MAX_MOUNTINFO));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        if let Some(root) = RootMount::parse(&line) {
            return Ok(Some(root));
        }
        line.clear();
    }
    Ok(None)
}

impl RootMount {
    /// Reads a line of mountinfo (proc_pid_mountinfo(5)), if it is about the root.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ').skip(2);
        let (device, directory, point) = (fields.next()?, fields.next()?, fields.next()?);
        (point == b"/").then(|| Self {
            device: device.into(),
            directory: directory.into(),
        })
    }
}

/// At most `limit` bytes of the mapping of ids.
fn mapping(pid: &str, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(64);
    let file = File::open(format!("/proc/{pid}/uid_map"))?;
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_at_home_and_nobody_is_not() {
        assert!(is_in_our_user_namespace(std::process::id()));
        assert!(!is_in_our_user_namespace(u32::MAX));
        assert!(has_the_hosts_root(std::process::id()));
        assert!(!has_the_hosts_root(u32::MAX));
    }

    #[test]
    fn a_root_is_known_by_device_and_directory() {
        let root = |line: &str| RootMount::parse(line.as_bytes());
        let host = root("27 1 254:0 / / rw - ext4 /dev/vda rw");
        assert!(host.is_some());
        // A service's view of the same.
        assert_eq!(root("99 88 254:0 / / ro shared:1 - ext4 /dev/vda rw"), host);
        for other in [
            "99 88 0:55 / / rw - overlay overlay rw",
            "99 88 254:0 /var/lib/lxc/web/rootfs / rw - ext4 /dev/vda rw",
        ] {
            assert!(root(other).is_some_and(|other| Some(other) != host));
        }
        assert_eq!(root("22 27 0:21 / /proc rw - proc proc rw"), None);
        assert_eq!(root("22 27"), None);
    }
}

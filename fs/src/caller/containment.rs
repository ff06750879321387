//! Containment of callers: what keeps one apart from the host, whose ids are not its own.
//!
//! `/proc/TID/uid_map` tells an unprivileged reader whether a thread is in our user
//! namespace: a user can't make one that maps all ids as ours does, only root can. Whose
//! another one is the supervisor has to be asked.

use std::fs::File;
use std::io::{self, Read};
use std::sync::LazyLock;

/// Surroundings of a caller whose ids are not the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containment {
    /// Another user namespace than ours: its users are whom the owner likes.
    UserNamespace(NamespaceOwner),
    /// A pid namespace below ours.
    PidNamespace,
    /// The cgroup of a container engine; only looked at where id 0 is involved.
    Engine,
}

/// Owner of another user namespace, who answers for its users: of the outermost one below
/// ours that it is, or lies in.
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
    }
}

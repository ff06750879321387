//! Callers, and the selectors by which they are a client of the policy.

/// A caller, by the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller<'a> {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'a [u32],
    /// True in a container, where id 0 is not the host's.
    pub containerized: bool,
}

/// One key of `match`; any of its ids will do.
#[derive(Debug)]
pub(crate) enum Selector {
    Uid(Vec<u32>),
    Gid(Vec<u32>),
}

impl Selector {
    pub(crate) fn matches(&self, caller: &Caller<'_>) -> bool {
        // A container's root is not the host's root.
        let counts = |id: u32| id != 0 || !caller.containerized;
        match self {
            Self::Uid(ids) => ids.contains(&caller.uid) && counts(caller.uid),
            Self::Gid(ids) => std::iter::once(&caller.gid)
                .chain(caller.groups)
                .any(|gid| ids.contains(gid) && counts(*gid)),
        }
    }
}

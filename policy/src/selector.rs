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
    /// User namespace that it is in.
    pub namespace: Namespace,
}

/// User namespace of a caller. In another one than the host's a user is whom its owner
/// likes, and may have dropped groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Namespace {
    /// The host's.
    #[default]
    Host,
    /// One that this user made.
    Of(u32),
    /// One that root made: who is in it is root's word.
    OfRoot,
    /// Another one, nobody knows whose.
    Unknown,
}

/// One key of `match`; any of its ids will do.
#[derive(Debug)]
pub(crate) enum Selector {
    Uid(Vec<u32>),
    Gid(Vec<u32>),
}

impl Selector {
    /// Whether a right by it is `caller`'s.
    pub(crate) fn favours(&self, caller: &Caller<'_>) -> bool {
        // A container's root is not the host's root.
        let counts = |id: u32| id != 0 || !caller.containerized;
        match self {
            Self::Uid(ids) => ids.contains(&caller.uid) && counts(caller.uid),
            // Groups are the host's, and mean nothing in another user namespace.
            Self::Gid(_) if caller.namespace != Namespace::Host => false,
            Self::Gid(ids) => groups_of(caller).any(|gid| ids.contains(&gid) && counts(gid)),
        }
    }

    /// Whether `caller` could be whom a denial by it is meant for.
    pub(crate) fn concerns(&self, caller: &Caller<'_>) -> bool {
        match (self, caller.namespace) {
            (_, Namespace::Unknown) | (Self::Gid(_), Namespace::Of(_)) => true,
            (Self::Uid(ids), Namespace::Of(owner)) => {
                ids.contains(&caller.uid) || ids.contains(&owner)
            }
            (Self::Uid(ids), Namespace::Host | Namespace::OfRoot) => ids.contains(&caller.uid),
            (Self::Gid(ids), Namespace::Host | Namespace::OfRoot) => {
                groups_of(caller).any(|gid| ids.contains(&gid))
            }
        }
    }
}

/// The groups that a caller has.
pub(crate) fn groups_of<'a>(caller: &Caller<'a>) -> impl Iterator<Item = u32> + use<'a> {
    std::iter::once(caller.gid).chain(caller.groups.iter().copied())
}

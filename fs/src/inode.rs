//! Inode numbers: which ones are fixed, and how the others are put together.
//!
//! The kernel keeps one size and one set of pages for each node id, so that a secret's
//! file has another node id for each version: who opened one version never sees the size
//! or pages of another. The inode number that programs are shown (`st_ino`) is constant.

/// Inode of the control file.
pub const CONTROL: u64 = 2;
/// Name of the control file in the root.
pub const CONTROL_NAME: &str = "jarvisctl";
/// Inode of the root directory.
pub(crate) const ROOT: u64 = 1;
/// Inode of the directory of superseded versions.
const KEY_IDS: u64 = 3;
/// Name of that directory in the root. It is not listed there: a walk of the tree
/// would find every value twice.
pub const KEY_IDS_NAME: &str = ".kid";

/// Marks the inode of a directory below [`KEY_IDS_NAME`].
const MIRROR: u64 = 1 << 62;
/// Marks the node of a secret's file while one version is current.
const FILE: u64 = 1 << 63;
/// Marks the inode of one version.
const VERSION: u64 = 1 << 61;
/// Bits of an inode number that hold the id of a secret or directory.
pub(crate) const ID_BITS: u32 = 40;
/// Largest id.
pub(crate) const ID: u64 = (1 << ID_BITS) - 1;
/// Versions with a number below this have inodes: the bits between id and marks.
const VERSIONS_END: u64 = 1 << 21;
/// Turns of a secret's file, from 1 on, before one comes again.
const TURNS: u32 = (1 << 21) - 1;

/// Marks the numbers by which the kernel knows the control file, one for each thread that
/// looks it up: it lets one write at a time into a file, and somebody's may take long. All
/// are shown as [`CONTROL`].
const CONTROL_NODE: u64 = 1 << 60;

/// The kernel's number of the control file for thread `tid` (at most 22 bits) of `uid`.
pub(crate) fn control_node(uid: u32, tid: u32) -> u64 {
    CONTROL_NODE | (u64::from(tid) << u32::BITS) & (CONTROL_NODE - 1) | u64::from(uid)
}

/// The inode number behind the kernel's number `node`.
pub(crate) fn of_node(node: u64) -> u64 {
    match node & (FILE | MIRROR | VERSION | CONTROL_NODE) {
        CONTROL_NODE => CONTROL,
        _ => node,
    }
}

/// The meaning of an inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inode {
    /// A directory or secret by its id, or the control file.
    Plain(u64),
    /// The directory `.kid`.
    KeyIds,
    /// Below it: a directory that has the name of this directory or secret.
    Mirror(u64),
    /// A secret by its name, as a walk finds it at one of its [`turn`]s.
    File {
        /// The secret's id.
        id: u64,
        /// The turn of the version that was current.
        turn: u32,
    },
    /// Below that: one version of a secret.
    Version {
        /// The secret's id.
        id: u64,
        /// The version.
        number: u32,
    },
}

impl Inode {
    /// The meaning of `ino`.
    #[must_use]
    pub fn of(ino: u64) -> Self {
        match ino {
            KEY_IDS => Self::KeyIds,
            _ if ino & FILE != 0 => Self::File {
                id: ino & ID,
                turn: u32::try_from((ino & !FILE) >> ID_BITS).unwrap_or(u32::MAX),
            },
            _ if ino & MIRROR != 0 => Self::Mirror(ino & ID),
            _ if ino & VERSION != 0 => Self::Version {
                id: ino & ID,
                number: u32::try_from((ino & !VERSION) >> ID_BITS).unwrap_or(u32::MAX),
            },
            _ => Self::Plain(ino),
        }
    }

    /// The inode number; `None` for ids and versions beyond what there are
    /// numbers for.
    #[must_use]
    pub fn number(self) -> Option<u64> {
        let id = |id: u64| (id <= ID).then_some(id);
        match self {
            Self::Plain(ino) => id(ino),
            Self::KeyIds => Some(KEY_IDS),
            Self::Mirror(of) => Some(MIRROR | id(of)?),
            Self::File { id: of, turn } => Some(FILE | (u64::from(turn) << ID_BITS) | id(of)?),
            Self::Version { id: of, number } => {
                let number = Some(u64::from(number)).filter(|&number| number < VERSIONS_END)?;
                Some(VERSION | (number << ID_BITS) | id(of)?)
            }
        }
    }

    /// The directory or secret that it is about; the root for `.kid`.
    #[must_use]
    pub fn id(self) -> u64 {
        match self {
            Self::Plain(id)
            | Self::Mirror(id)
            | Self::File { id, .. }
            | Self::Version { id, .. } => id,
            Self::KeyIds => ROOT,
        }
    }
}

/// The turn of a version: its number, as far as a node has room for it. Never 0.
#[must_use]
pub fn turn(version: u32) -> u32 {
    1 + version.saturating_sub(1) % TURNS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_of_the_control_file_is_told_from_the_others() {
        for (uid, tid) in [(0, 0), (u32::MAX, u32::MAX), (1000, 1 << 22)] {
            assert_eq!(of_node(control_node(uid, tid)), CONTROL);
        }
        assert_ne!(control_node(7, 1), control_node(7, 2));
        let version = Inode::Version {
            id: ID,
            number: u32::try_from(VERSIONS_END - 1).unwrap(),
        };
        let file = Inode::File {
            id: ID,
            turn: TURNS,
        };
        let others = [Inode::Mirror(ID), Inode::Plain(ID), version, file];
        for node in others.map(|inode| inode.number().unwrap()) {
            assert_eq!(of_node(node), node);
        }
    }

    #[test]
    fn numbers_mean_what_they_were_made_of() {
        let id = ID;
        let turn = TURNS;
        for inode in [
            Inode::Plain(1024),
            Inode::KeyIds,
            Inode::Mirror(id),
            Inode::File { id, turn },
            Inode::File { id: 1024, turn: 1 },
            Inode::Version { id, number: 7 },
        ] {
            assert_eq!(Inode::of(inode.number().unwrap()), inode);
        }
    }

    #[test]
    fn turns_of_neighbouring_versions_differ_and_none_is_0() {
        assert_eq!([turn(1), turn(2), turn(TURNS)], [1, 2, TURNS]);
        assert_eq!([turn(TURNS + 1), turn(0)], [1, 1]);
        assert_ne!(turn(u32::MAX), turn(u32::MAX - 1));
    }
}

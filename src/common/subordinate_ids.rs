//! Subordinate ids (subuid(5), subgid(5)): ids that users may take in user namespaces of their
//! own. A set-user-id file that is made there brings them to the host's namespace, so they
//! count as their owners' everywhere. They are read with the policy: until it is loaded anew,
//! those that were found with it are in force.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use jarvis_policy::Accounts;
use jarvis_sys::trust::{self, Rule, TrustError};
use parking_lot::RwLock;

use crate::common::accounts::SystemAccounts;
use crate::common::bounded;

const FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];
/// Largest such file, in bytes: some 30,000 lines.
const MAX_FILE: u64 = 1024 * 1024;

/// Why subordinate ids are not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubordinateError {
    /// The file can't be opened, or others could change it.
    #[error("cannot read who has which subordinate ids: {0}")]
    Distrusted(#[from] TrustError),
    /// The file can't be read, or is too large.
    #[error("cannot read who has which subordinate ids: {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Owner of a subordinate id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdOwner {
    /// This user.
    User(u32),
    /// Several users: the id is whom any of them likes.
    Several,
}

/// The ids in force.
static IN_FORCE: RwLock<SubordinateIds> = RwLock::new(SubordinateIds::none());

/// The owner of `uid`, else of `gid`, by the ids in force. Root has neither from anybody.
pub(crate) fn owner_of(uid: u32, gid: u32) -> Option<IdOwner> {
    IN_FORCE.read().owner_of(uid, gid)
}

/// Subordinate ids of the system, by owner.
pub(crate) struct SubordinateIds {
    uids: OwnedRanges,
    gids: OwnedRanges,
}

impl SubordinateIds {
    /// Reads the system's files; one that is not there has no ids.
    ///
    /// # Errors
    /// [`SubordinateError`].
    pub(crate) fn load() -> Result<Self, SubordinateError> {
        let [uids, gids] = FILES.map(|path| ranges(Path::new(path)));
        Ok(Self {
            uids: uids?,
            gids: gids?,
        })
    }

    const fn none() -> Self {
        Self {
            uids: OwnedRanges(Vec::new()),
            gids: OwnedRanges(Vec::new()),
        }
    }

    /// Replaces the ids in force.
    pub(crate) fn put_in_force(self) {
        *IN_FORCE.write() = self;
    }

    fn owner_of(&self, uid: u32, gid: u32) -> Option<IdOwner> {
        let of_gid = || (uid != 0).then(|| self.gids.owner_of(gid)).flatten();
        self.uids.owner_of(uid).or_else(of_gid)
    }
}

fn ranges(path: &Path) -> Result<OwnedRanges, SubordinateError> {
    let file = match trust::open(path, Rule::INSTALLED_FILE.of_root()) {
        Ok(file) => file,
        Err(error) if error.is_missing() => return Ok(OwnedRanges::default()),
        Err(error) => return Err(error.into()),
    };
    let text = bounded::text(file, MAX_FILE).map_err(|source| SubordinateError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(OwnedRanges::parse(&text, &SystemAccounts))
}

/// Ids by owner: each entry counts up to the next one.
#[derive(Default)]
struct OwnedRanges(Vec<(u32, Option<IdOwner>)>);

impl OwnedRanges {
    /// Reads lines of owner, first id and number of ids. Those that newuidmap(1) skips give
    /// nobody anything: they are skipped here, too. What root has is root's own matter.
    fn parse(text: &str, accounts: &dyn Accounts) -> Self {
        // Owners that begin (1) and end (-1) to have ids at an id.
        let mut edges: BTreeMap<u32, Vec<(u32, i32)>> = BTreeMap::new();
        for line in text.lines() {
            let Some((owner, first, end)) = range(line, accounts).filter(|range| range.0 != 0)
            else {
                continue;
            };
            edges.entry(first).or_default().push((owner, 1));
            edges.entry(end).or_default().push((owner, -1));
        }
        let mut having: BTreeMap<u32, i32> = BTreeMap::new();
        let ranges = edges.into_iter().map(|(id, steps)| {
            for (owner, step) in steps {
                let count = having.entry(owner).or_default();
                *count += step;
                if *count == 0 {
                    having.remove(&owner);
                }
            }
            let mut owners = having.keys();
            let owner = match (owners.next(), owners.next()) {
                (None, _) => None,
                (Some(&only), None) => Some(IdOwner::User(only)),
                (Some(_), Some(_)) => Some(IdOwner::Several),
            };
            (id, owner)
        });
        Self(ranges.collect())
    }

    fn owner_of(&self, id: u32) -> Option<IdOwner> {
        let after = self.0.partition_point(|(first, _)| *first <= id);
        let (_, owner) = self.0.get(after.checked_sub(1)?)?;
        *owner
    }
}

/// Owner, first id, and the id after the last one of `line`.
fn range(line: &str, accounts: &dyn Accounts) -> Option<(u32, u32, u32)> {
    let mut fields = line.split(':');
    let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
    let first: u32 = first.parse().ok()?;
    let count: u32 = count.parse().ok().filter(|&count| count > 0)?;
    if fields.next().is_some() {
        return None;
    }
    let owner = accounts.uid(owner).or_else(|| owner.parse().ok())?;
    Some((owner, first, first.saturating_add(count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct TwoUsers;

    impl Accounts for TwoUsers {
        fn uid(&self, user: &str) -> Option<u32> {
            match user {
                "root" => Some(0),
                "bob" => Some(1),
                "carol" => Some(2),
                _ => None,
            }
        }

        fn gid(&self, _: &str) -> Option<u32> {
            None
        }
    }

    #[test]
    fn ids_belong_to_whom_the_lines_say() {
        use IdOwner::{Several, User};
        let lines = "bob:1000:10\ncarol:1010:10\n\n# bob:5000:1\nbob:1015:10\n7:3000:1\n\
                     nobody-knows:4000:10\nroot:1:100\n0:6000:10\nbob:7000:0\nbob:8000:1:1\n\
                     bob:x:1\nbob:1002:1\ncarol:4294967290:100\n";
        let ranges = OwnedRanges::parse(lines, &TwoUsers);
        for (id, owner) in [
            (0, None),
            (999, None),
            (1000, Some(User(1))),
            (1002, Some(User(1))),
            (1009, Some(User(1))),
            (1010, Some(User(2))),
            (1014, Some(User(2))),
            (1015, Some(Several)),
            (1019, Some(Several)),
            (1020, Some(User(1))),
            (1024, Some(User(1))),
            (1025, None),
            (3000, Some(User(7))),
            (3001, None),
            (4000, None),
            (5000, None),
            (6000, None),
            (7000, None),
            (8000, None),
            (4_294_967_290, Some(User(2))),
            (u32::MAX - 1, Some(User(2))),
        ] {
            assert_eq!(ranges.owner_of(id), owner, "{id}");
        }
    }

    #[test]
    fn a_uid_comes_before_a_gid_and_root_is_nobodys() {
        let ranges = |lines| OwnedRanges::parse(lines, &TwoUsers);
        let ids = SubordinateIds {
            uids: ranges("bob:1000:10"),
            gids: ranges("carol:2000:10"),
        };
        assert_eq!(ids.owner_of(1000, 2000), Some(IdOwner::User(1)));
        assert_eq!(ids.owner_of(7, 2000), Some(IdOwner::User(2)));
        assert_eq!(ids.owner_of(0, 2000), None);
        assert_eq!(ids.owner_of(7, 1000), None);
    }
}

//! The mount table as readers see it: whether our mount is what stands on its path.
//!
//! Runs in: supervisor (watches), jarvisctl (looks).
//! Touches: `/proc/1/mountinfo`, `/proc/self/mountinfo`.
//! Imported by: nobody inside this crate.
//!
//! A daemon with a mount namespace of its own has a mount that nobody else sees, and one
//! that shares the host's can lose its mount, or have another one put on top of it,
//! while it serves. So the table that counts is that of PID 1.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use crate::mount::{MOUNT_SOURCE, MountError, mount_path};

/// Mount table of the namespace in which readers stand. Polled for `PRI`, it tells of
/// each change.
pub struct ReaderMounts {
    file: File,
    /// None of these mounts is this process's.
    foreign: bool,
}

/// Path at which readers find a mount, as mountinfo writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(String);

/// How a mount stands at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Readers get to it.
    OnTop,
    /// Readers get to another mount, which is described.
    Covered(String),
    /// The mount is not there.
    Absent,
}

impl ReaderMounts {
    /// Opens PID 1's table, or that of this process where the other one can't be read or
    /// `own` is wanted.
    ///
    /// # Errors
    /// The system's answer.
    pub fn open(own: bool) -> io::Result<Self> {
        let ours = std::fs::read("/proc/self/mountinfo")?;
        if !own && let Ok(mut file) = File::open("/proc/1/mountinfo") {
            let theirs = contents(&mut file)?;
            let foreign = !share_mounts(&theirs, &String::from_utf8_lossy(&ours));
            return Ok(Self { file, foreign });
        }
        Ok(Self {
            file: File::open("/proc/self/mountinfo")?,
            foreign: false,
        })
    }

    /// Whether this process has a mount namespace of its own.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// Place at which readers find the mount that this process has on `path`, with that
    /// `connection`. In another namespace, such as a container's host, it may be elsewhere.
    ///
    /// # Errors
    /// [`MountError::MountPoint`].
    pub fn place(&mut self, path: &Path, connection: u32) -> Result<Place, MountError> {
        let wanted = escaped(&mount_path(path)?);
        let text = self.read(path)?;
        let mounts = parse(&text);
        let is_there = |mount: &&MountLine<'_>| mount.is_root_of(connection);
        let on_path = mounts.iter().filter(is_there).any(|m| m.point == wanted);
        let elsewhere = mounts.iter().find(is_there).filter(|_| self.foreign);
        Ok(Place(match elsewhere {
            Some(mount) if !on_path => mount.point.to_owned(),
            _ => wanted,
        }))
    }

    /// How the mount with this `connection` stands at `place`.
    ///
    /// # Errors
    /// The system's answer.
    pub fn standing(&mut self, place: &Place, connection: u32) -> io::Result<Standing> {
        Ok(standing(&contents(&mut self.file)?, place, connection))
    }

    /// Connection and standing of the mount of a jarvis-secretsd on `path`, the topmost
    /// one of them; `None` when readers have none there.
    ///
    /// # Errors
    /// [`MountError::MountPoint`].
    pub fn find(&mut self, path: &Path) -> Result<Option<(u32, Standing)>, MountError> {
        let place = Place(escaped(&mount_path(path)?));
        let text = self.read(path)?;
        let connection = parse(&text).into_iter().rev().find_map(|mount| {
            let is_jarvis = mount.source == MOUNT_SOURCE && mount.point == place.0;
            is_jarvis.then(|| mount.minor()).flatten()
        });
        let Some(connection) = connection else {
            return Ok(None);
        };
        let standing = self.standing(&place, connection);
        let standing = standing.map_err(|source| unreadable(path, source))?;
        Ok(Some((connection, standing)))
    }

    fn read(&mut self, path: &Path) -> Result<String, MountError> {
        contents(&mut self.file).map_err(|source| unreadable(path, source))
    }
}

impl AsFd for ReaderMounts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn unreadable(path: &Path, source: io::Error) -> MountError {
    let path = path.to_owned();
    MountError::MountPoint { path, source }
}

/// All of `file`, as it is now. A mount point need not be UTF-8; ours is compared by the
/// same rule.
fn contents(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether two tables are of one namespace: each mount has a number that no other one in
/// the whole system has.
fn share_mounts(one: &str, other: &str) -> bool {
    let others = parse(other);
    parse(one)
        .iter()
        .any(|mount| others.iter().any(|other| other.id == mount.id))
}

/// `path` as mountinfo writes it: space, tab, newline and backslash as octal escapes.
fn escaped(path: &Path) -> String {
    path.to_string_lossy()
        .trim_end_matches('/')
        .replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011")
        .replace('\n', "\\012")
}

/// Line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Clone, Copy)]
struct MountLine<'t> {
    id: &'t str,
    parent: &'t str,
    device: &'t str,
    /// Directory of the file system that is mounted.
    root: &'t str,
    point: &'t str,
    kind: &'t str,
    source: &'t str,
}

fn parse(text: &str) -> Vec<MountLine<'_>> {
    text.lines().filter_map(MountLine::parse).collect()
}

impl<'t> MountLine<'t> {
    fn parse(line: &'t str) -> Option<Self> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let mut kind = kind.split(' ');
        Some(Self {
            id: mount.next()?,
            parent: mount.next()?,
            device: mount.next()?,
            root: mount.next()?,
            point: mount.next()?,
            kind: kind.next()?,
            source: kind.next()?,
        })
    }

    /// Minor number of the device: of a FUSE mount, its connection's.
    fn minor(&self) -> Option<u32> {
        self.device.strip_prefix("0:")?.parse().ok()
    }

    /// Whether the whole of this connection's file system is mounted here.
    fn is_root_of(&self, connection: u32) -> bool {
        self.minor() == Some(connection) && self.root == "/"
    }

    fn describe(&self) -> String {
        let Self {
            kind,
            source,
            point,
            ..
        } = self;
        format!("a mount of {source} (type {kind}) on {point}")
    }
}

fn standing(table: &str, place: &Place, connection: u32) -> Standing {
    let mounts = parse(table);
    let is_ours = |mount: &MountLine<'_>| mount.is_root_of(connection);
    match on_top(&mounts, &place.0) {
        Some(mount) if is_ours(mount) => Standing::OnTop,
        top if mounts.iter().any(|m| is_ours(m) && m.point == place.0) => {
            let top = top.map(MountLine::describe);
            Standing::Covered(top.unwrap_or_else(|| "another root".into()))
        }
        _ => Standing::Absent,
    }
}

/// Mount that a walk to `path` ends in: at each name the kernel goes on to what is
/// mounted there on the mount it came by.
fn on_top<'m, 't>(mounts: &'m [MountLine<'t>], path: &str) -> Option<&'m MountLine<'t>> {
    let is_first = |mount: &MountLine<'_>| {
        mount.id == mount.parent || mounts.iter().all(|other| other.id != mount.parent)
    };
    let mut at = mounts.iter().find(|m| m.point == "/" && is_first(m));
    let ends = path.match_indices('/').map(|(at, _)| at).skip(1);
    for end in ends.chain([path.len()]) {
        let point = path.get(..end)?;
        let next = |at: Option<&MountLine<'_>>| {
            mounts.iter().find(|m| {
                m.point == point
                    && at.map_or_else(|| is_first(m), |at| m.parent == at.id && m.id != at.id)
            })
        };
        while let Some(mount) = next(at) {
            at = Some(mount);
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 27 0:25 / /run rw shared:5 - tmpfs tmpfs rw
41 30 0:50 / /run/jarvis/secrets rw - fuse.jarvis jarvis-secrets rw,user_id=0
";

    fn stands(table: &str) -> Standing {
        standing(table, &Place("/run/jarvis/secrets".into()), 50)
    }

    #[test]
    fn a_mount_is_on_top_covered_or_gone() {
        assert_eq!(stands(HOST), Standing::OnTop);
        let gone = HOST.replace("0:50", "0:51");
        assert_eq!(stands(&gone), Standing::Absent);
        let same = format!("{HOST}50 41 0:50 / /run/jarvis/secrets rw - fuse.jarvis x rw\n");
        assert_eq!(stands(&same), Standing::OnTop, "a bind of its own on it");
        for (cover, said) in [
            (
                "50 41 0:60 / /run/jarvis/secrets rw - tmpfs t rw",
                "/run/jarvis/secrets",
            ),
            ("50 30 0:60 / /run/jarvis rw - tmpfs t rw", "on /run/jarvis"),
            ("50 30 0:60 / /run rw - tmpfs t rw", "on /run"),
            (
                "50 41 0:50 /app /run/jarvis/secrets rw - fuse.jarvis t rw",
                "fuse.jarvis",
            ),
        ] {
            match stands(&format!("{HOST}{cover}\n")) {
                Standing::Covered(by) => assert!(by.contains(said), "{by}"),
                other => panic!("{cover}: {other:?}"),
            }
        }
        let beside = format!("{HOST}50 27 0:60 / /run/jarvis/secrets rw - tmpfs t rw\n");
        assert_eq!(stands(&beside), Standing::OnTop, "it lies below /run");
    }

    /// In a chroot the root itself is no line of the table.
    #[test]
    fn the_root_need_not_be_a_mount() {
        let without_root = HOST.replace("27 1 254:0 / / ", "27 1 254:0 / /elsewhere ");
        let without_root = without_root.replace("30 27", "30 26");
        assert_eq!(stands(&without_root), Standing::OnTop);
    }

    #[test]
    fn namespaces_are_told_apart_by_their_mounts() {
        assert!(share_mounts(HOST, HOST));
        let other = HOST.replace("\n2", "\n12").replace("\n3", "\n13");
        assert!(!share_mounts(
            HOST,
            &other.replace("22 27", "122 127").replace("\n41", "\n141")
        ));
        let mut own = ReaderMounts::open(true).unwrap();
        assert!(!own.is_foreign());
        assert_eq!(own.find(Path::new("/")).unwrap(), None);
    }

    #[test]
    fn paths_are_written_as_the_kernel_does() {
        assert_eq!(escaped(Path::new("/a b\\c\td/")), "/a\\040b\\134c\\011d");
    }
}

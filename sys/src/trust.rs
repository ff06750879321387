//! Trust in paths: one check for all that is read or written with rights that others lack.
//!
//! A path is walked by fd, a component at a time: each directory and each symbolic link on
//! the way must be root's or the own user's, and nobody else may write there. In a sticky
//! directory others can make names, but not take those away that are trusted. What stands at
//! the end must keep a [`Rule`]. It is looked at before it is opened, so that no FIFO and no
//! device is, and what is checked is what is used, whatever the path leads to by then.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

const MODE_BITS: u32 = 0o7777;
const STICKY: u32 = 0o1000;
/// Permission bits with which group and others could write. Of an ACL, the group's bits are
/// the widest that it gives to anybody.
const OTHERS_WRITE: u32 = 0o022;
/// Permission bits of group and others.
const OTHERS: u32 = 0o077;
/// Most symbolic links that are followed, as by the kernel.
const MAX_LINKS: usize = 40;

/// Owners that are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Root,
    /// Root, and the own user.
    Trusted,
    /// This user, too.
    Or(u32),
    Any,
}

/// Requirements of a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    kind: FileType,
    /// Permission bits of which none may be set.
    refused: u32,
    /// In a sticky directory others may write.
    or_sticky: bool,
    /// Only one name is accepted: with a second one it may be another's file.
    one_name: bool,
    owner: Owner,
}

impl Rule {
    /// A regular file that nobody else may change.
    pub const FILE: Self = Self {
        kind: FileType::RegularFile,
        refused: OTHERS_WRITE,
        or_sticky: false,
        one_name: true,
        owner: Owner::Trusted,
    };
    /// A regular file that nobody else may open.
    pub const PRIVATE_FILE: Self = Self {
        refused: OTHERS,
        ..Self::FILE
    };
    /// A file that was installed: package managers link equal ones to each other.
    pub const INSTALLED_FILE: Self = Self {
        one_name: false,
        ..Self::FILE
    };
    /// A directory in which nobody else may make or remove names.
    pub const DIRECTORY: Self = Self {
        kind: FileType::Directory,
        one_name: false,
        ..Self::FILE
    };
    /// A directory that nobody else may enter.
    pub const PRIVATE_DIRECTORY: Self = Self {
        refused: OTHERS,
        ..Self::DIRECTORY
    };
    /// A directory in which nobody else may remove what is trusted.
    pub const CONTAINER: Self = Self {
        or_sticky: true,
        ..Self::DIRECTORY
    };

    /// Rule that accepts what belongs to `uid`, too.
    #[must_use]
    pub const fn or_owned_by(self, uid: u32) -> Self {
        Self {
            owner: Owner::Or(uid),
            ..self
        }
    }

    /// Rule that accepts what is root's, and nothing of the own user's.
    #[must_use]
    pub const fn of_root(self) -> Self {
        Self {
            owner: Owner::Root,
            ..self
        }
    }

    /// Rule that accepts every owner.
    #[must_use]
    pub const fn of_any_owner(self) -> Self {
        Self {
            owner: Owner::Any,
            ..self
        }
    }

    /// Widest mode of what is private.
    fn widest(self) -> u32 {
        match self.kind {
            FileType::Directory => 0o700,
            _ => 0o600,
        }
    }

    fn accepts_owner(self, uid: u32) -> bool {
        match self.owner {
            Owner::Root => uid == 0,
            Owner::Any => true,
            Owner::Or(other) if uid == other => true,
            Owner::Or(_) | Owner::Trusted => is_trusted(uid),
        }
    }

    /// Whether `stat` is of something that keeps the rule.
    ///
    /// # Errors
    /// [`Distrust`].
    fn judge(self, stat: &Stat) -> Result<(), Distrust> {
        let mode = stat.st_mode & MODE_BITS;
        if FileType::from_raw_mode(stat.st_mode) != self.kind {
            return Err(match self.kind {
                FileType::Directory => Distrust::NoDirectory,
                _ => Distrust::NoFile,
            });
        }
        if !self.accepts_owner(stat.st_uid) {
            return Err(Distrust::Owner(stat.st_uid));
        }
        if mode & self.refused != 0 && !(self.or_sticky && mode & STICKY != 0) {
            return Err(match self.refused {
                OTHERS => Distrust::Open {
                    mode,
                    want: self.widest(),
                },
                _ => Distrust::Writable(mode),
            });
        }
        if self.one_name && stat.st_nlink != 1 {
            return Err(Distrust::Names(
                u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            ));
        }
        Ok(())
    }
}

/// Fault of a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// Something else than a regular file.
    #[error("is no regular file")]
    NoFile,
    /// Something else than a directory.
    #[error("is no directory")]
    NoDirectory,
    /// Owner who is not trusted, by uid.
    #[error(
        "belongs to uid {0}, who can change it; it must be root's, or of the user that uses it"
    )]
    Owner(u32),
    /// The mode lets others in.
    #[error("has mode {mode:04o}, others than its owner could use it")]
    Open {
        /// The mode.
        mode: u32,
        /// The widest mode accepted.
        want: u32,
    },
    /// The mode lets others write.
    #[error("has mode {0:04o}, others than its owner could change it")]
    Writable(u32),
    /// Hard links, so many.
    #[error("has {0} names (hard links), it may be another's file; replace it by a copy")]
    Names(u32),
}

/// Why something is not used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// Call that failed.
        action: &'static str,
        /// Path that was used.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// More people than root and the own user have a hand in it.
    #[error("{path} {why}{}", remedy(path, *why))]
    Distrusted {
        /// The file or directory, which may be one on the way.
        path: PathBuf,
        /// Fault in it.
        why: Distrust,
    },
}

/// Remedy, where that is plain.
fn remedy(path: &Path, why: Distrust) -> String {
    let path = path.display();
    match why {
        Distrust::Open { want, .. } => format!("; run: chmod {want:04o} {path}"),
        Distrust::Writable(_) => format!("; run: chmod go-w {path}"),
        _ => String::new(),
    }
}

impl TrustError {
    /// Whether there is nothing at the path.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    fn io(action: &'static str, path: &Path) -> impl Fn(Errno) -> Self {
        let path = path.to_owned();
        move |errno| Self::Io {
            action,
            path: path.clone(),
            source: errno.into(),
        }
    }
}

/// Opens what `path` leads to for reading, if it and the way there keep `rule`.
///
/// # Errors
/// [`TrustError`].
pub fn open(path: &Path, rule: Rule) -> Result<File, TrustError> {
    let end = walk(path, rule)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = match &end.name {
        Some(name) => openat(&end.parent, name, flags, Mode::empty()),
        None => openat(&end.fd, ".", flags, Mode::empty()),
    };
    let file = File::from(opened.map_err(TrustError::io("open", path))?);
    check(path, &file, rule)?;
    Ok(file)
}

/// Opens what `path` leads to for reading, if it keeps `rule`; that the way there does is
/// known, for it begins at an fd that was checked.
///
/// # Errors
/// [`TrustError`].
pub fn open_end(path: &Path, rule: Rule) -> Result<File, TrustError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = openat(CWD, path, flags, Mode::empty());
    let file = File::from(opened.map_err(TrustError::io("open", path))?);
    check(path, &file, rule)?;
    Ok(file)
}

/// Opens what `path` leads to as a mere place (`O_PATH`), if it and the way there keep `rule`.
///
/// # Errors
/// [`TrustError`].
pub fn locate(path: &Path, rule: Rule) -> Result<OwnedFd, TrustError> {
    walk(path, rule).map(|end| end.fd)
}

/// Opens `name` in `directory`, which was opened at `path`, as a mere place, if it keeps
/// `rule`. A symbolic link does not.
///
/// # Errors
/// [`TrustError`].
pub fn locate_in(
    directory: impl AsFd,
    path: &Path,
    name: impl AsRef<OsStr>,
    rule: Rule,
) -> Result<OwnedFd, TrustError> {
    let name = name.as_ref();
    let path = path.join(name);
    let fd = place(directory, name, &path)?;
    check(&path, &fd, rule)?;
    Ok(fd)
}

/// Opens `name` in `directory` for reading; as [`locate_in`].
///
/// # Errors
/// [`TrustError`].
pub fn open_in(
    directory: impl AsFd,
    path: &Path,
    name: impl AsRef<OsStr>,
    rule: Rule,
) -> Result<File, TrustError> {
    let name = name.as_ref();
    locate_in(&directory, path, name, rule)?;
    let path = path.join(name);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = openat(directory, name, flags, Mode::empty());
    let file = File::from(opened.map_err(TrustError::io("open", &path))?);
    check(&path, &file, rule)?;
    Ok(file)
}

/// Checks that `fd`, which was opened at `path`, keeps `rule`; what the way there is like
/// is the caller's to know.
///
/// # Errors
/// [`TrustError`].
pub fn check(path: &Path, fd: impl AsFd, rule: Rule) -> Result<(), TrustError> {
    let stat = fstat(fd).map_err(TrustError::io("stat", path))?;
    rule.judge(&stat).map_err(|why| TrustError::Distrusted {
        path: path.to_owned(),
        why,
    })
}

/// Where a path leads.
struct PathEnd {
    /// As a mere place.
    fd: OwnedFd,
    /// The directory above, and the name in there; no name where the path has none.
    parent: OwnedFd,
    name: Option<OsString>,
}

fn walk(path: &Path, rule: Rule) -> Result<PathEnd, TrustError> {
    let absolute = std::path::absolute(path).map_err(|source| TrustError::Io {
        action: "find",
        path: path.to_owned(),
        source,
    })?;
    let mut ahead = names(&absolute);
    let mut shown = PathBuf::from("/");
    let mut at = place(CWD, "/", &shown)?;
    let mut links = 0;
    let mut end = None;
    while let Some(name) = ahead.pop() {
        check(&shown, &at, Rule::CONTAINER)?;
        let next_shown = shown.join(&name);
        let next = place(&at, &name, &next_shown)?;
        let stat = fstat(&next).map_err(TrustError::io("stat", &next_shown))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            let parent = std::mem::replace(&mut at, next);
            shown = if name == ".." {
                shown.parent().unwrap_or(&shown).to_owned()
            } else {
                next_shown
            };
            end = Some((parent, name)).filter(|(_, name)| name != "..");
            continue;
        }
        let target = follow(&next, &stat, &next_shown)?;
        links += 1;
        if links > MAX_LINKS {
            return Err(TrustError::io("follow", &next_shown)(Errno::LOOP));
        }
        if target.is_absolute() {
            shown = PathBuf::from("/");
            at = place(CWD, "/", &shown)?;
            end = None;
        }
        ahead.extend(names(&target));
    }
    check(&shown, &at, rule)?;
    let (parent, name) = match end {
        Some((parent, name)) => (parent, Some(name)),
        None => (
            at.try_clone().map_err(|source| TrustError::Io {
                action: "open",
                path: shown,
                source,
            })?,
            None,
        ),
    };
    Ok(PathEnd {
        fd: at,
        parent,
        name,
    })
}

/// Opens `name` in `directory` without following it or waking a driver.
fn place(
    directory: impl AsFd,
    name: impl AsRef<OsStr>,
    shown: &Path,
) -> Result<OwnedFd, TrustError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name.as_ref(), flags, Mode::empty()).map_err(TrustError::io("open", shown))
}

/// Target of the symbolic `link`, whose owner is trusted.
fn follow(link: &OwnedFd, stat: &Stat, shown: &Path) -> Result<PathBuf, TrustError> {
    if !is_trusted(stat.st_uid) {
        return Err(TrustError::Distrusted {
            path: shown.to_owned(),
            why: Distrust::Owner(stat.st_uid),
        });
    }
    let target = readlinkat(link, "", Vec::new()).map_err(TrustError::io("follow", shown))?;
    Ok(OsString::from_vec(target.into_bytes()).into())
}

/// Whether `uid` is root or the own user.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// Names in `path`, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let named = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    let names = path.components().rev().filter(named);
    names.map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests;

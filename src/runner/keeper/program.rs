//! Programs that may be run: those that only root could have put there.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;

use crate::ipc::keeper::StartRefusal;

/// Opens `name` in `directory` after looking at both. What is executed later is
/// this very file, whatever the name leads to by then.
///
/// # Errors
/// [`StartRefusal`]: what is wrong with the file or its directory.
pub(super) fn open(
    directory: BorrowedFd<'_>,
    name: &str,
    trust_self: bool,
) -> Result<OwnedFd, StartRefusal> {
    let stat = fstat(directory).map_err(system)?;
    if !trusted(&stat, trust_self) {
        return Err(StartRefusal::DirectoryOwner);
    }
    if writable_by_others(&stat) {
        return Err(StartRefusal::DirectoryWritable);
    }
    // A mere path: it needs no right to read, runs no driver and opens no link.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => StartRefusal::Missing,
        errno => system(errno),
    })?;
    let stat = fstat(&file).map_err(system)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(StartRefusal::NoFile);
    }
    if !trusted(&stat, trust_self) {
        return Err(StartRefusal::Owner);
    }
    if writable_by_others(&stat) {
        return Err(StartRefusal::Writable);
    }
    if stat.st_mode & 0o111 == 0 {
        return Err(StartRefusal::NotExecutable);
    }
    Ok(file)
}

fn system(errno: Errno) -> StartRefusal {
    StartRefusal::System(errno.raw_os_error())
}

/// Whether the owner is root, or the own user where that is as good.
fn trusted(stat: &Stat, trust_self: bool) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stat.st_uid == 0 || trust_self && stat.st_uid == own
}

/// Whether others than the owner may write. Of an ACL, the group's bits are the
/// widest that it gives to anybody.
fn writable_by_others(stat: &Stat) -> bool {
    stat.st_mode & 0o022 != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File, Permissions};
    use std::os::fd::AsFd;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn only_files_that_nobody_else_can_change_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |name: &str, mode| {
            let mode = Permissions::from_mode(mode);
            fs::set_permissions(dir.path().join(name), mode).unwrap();
        };
        let script = |name: &str, bits| {
            fs::write(dir.path().join(name), "#!/bin/sh\n").unwrap();
            mode(name, bits);
        };
        for (name, bits) in [
            ("good", 0o755),
            ("group", 0o775),
            ("others", 0o757),
            ("dead", 0o644),
        ] {
            script(name, bits);
        }
        symlink(dir.path().join("good"), dir.path().join("link")).unwrap();
        fs::create_dir(dir.path().join("directory")).unwrap();
        let directory = File::open(dir.path()).unwrap();
        let try_open = |name| open(directory.as_fd(), name, true).map(drop);
        mode("", 0o755);
        assert_eq!(try_open("good"), Ok(()));
        assert_eq!(try_open("group"), Err(StartRefusal::Writable));
        assert_eq!(try_open("others"), Err(StartRefusal::Writable));
        assert_eq!(try_open("dead"), Err(StartRefusal::NotExecutable));
        assert_eq!(try_open("link"), Err(StartRefusal::NoFile));
        assert_eq!(try_open("directory"), Err(StartRefusal::NoFile));
        assert_eq!(try_open("nothing"), Err(StartRefusal::Missing));
        mode("", 0o775);
        assert_eq!(try_open("good"), Err(StartRefusal::DirectoryWritable));
        mode("", 0o1777);
        assert_eq!(try_open("good"), Err(StartRefusal::DirectoryWritable));
    }
}

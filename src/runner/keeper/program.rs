//! Programs that may be run: those that only root could have put there.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use jarvis_sys::trust::{self, Distrust, Rule, TrustError};
use rustix::fs::fstat;
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
    let owned = |rule: Rule| if trust_self { rule } else { rule.of_root() };
    let path = Path::new("");
    trust::check(path, directory, owned(Rule::DIRECTORY)).map_err(|error| match error {
        TrustError::Distrusted { why, .. } => match why {
            Distrust::Owner(_) => StartRefusal::DirectoryOwner,
            _ => StartRefusal::DirectoryWritable,
        },
        TrustError::Io { source, .. } => system(source.raw_os_error()),
    })?;
    let file = trust::locate_in(directory, path, name, owned(Rule::INSTALLED_FILE));
    let file = file.map_err(|error| match error {
        TrustError::Distrusted { why, .. } => match why {
            Distrust::Owner(_) => StartRefusal::Owner,
            Distrust::Writable(_) => StartRefusal::Writable,
            _ => StartRefusal::NoFile,
        },
        error if error.is_missing() => StartRefusal::Missing,
        TrustError::Io { source, .. } => system(source.raw_os_error()),
    })?;
    let stat = fstat(&file).map_err(|errno| system(Some(errno.raw_os_error())))?;
    if stat.st_mode & 0o111 == 0 {
        return Err(StartRefusal::NotExecutable);
    }
    Ok(file)
}

fn system(errno: Option<i32>) -> StartRefusal {
    StartRefusal::System(errno.unwrap_or(Errno::IO.raw_os_error()))
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

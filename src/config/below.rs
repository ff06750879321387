//! Paths that lead below the mount: what the daemon needs must not be among what it shows.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// Most symbolic links that are followed, as by the kernel.
const MAX_LINKS: usize = 40;

/// Whether `path` leads to `mount` or below it. Nothing below `mount` is touched: who looks
/// at a mount that nobody serves waits.
pub(crate) fn is_below(path: &Path, mount: &Path) -> bool {
    let mount = match (mount.parent(), mount.file_name()) {
        (Some(parent), Some(name)) => match parent.canonicalize() {
            Ok(parent) => parent.join(name),
            Err(_) => mount.to_owned(),
        },
        _ => mount.to_owned(),
    };
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut ahead = names(&absolute);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        at.push(name);
        if at == mount {
            return true;
        }
        // What is no link, or is missing, leads to where it stands.
        if links < MAX_LINKS
            && let Ok(target) = at.read_link()
        {
            links += 1;
            at.pop();
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            ahead.extend(names(&target));
        }
    }
    false
}

/// Names in `path`, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let named = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    let names = path.components().rev().filter(named);
    names.map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_path_leads_below_however_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        let mount = base.join("m");
        std::fs::create_dir_all(base.join("etc/deep")).unwrap();
        symlink(&mount, base.join("link")).unwrap();
        symlink("../m/app", base.join("etc/relative")).unwrap();
        symlink("deep", base.join("etc/harmless")).unwrap();
        symlink("loop", base.join("loop")).unwrap();
        symlink(&base, base.join("etc/home")).unwrap();
        for below in [
            "m",
            "m/policy.yaml",
            "etc/../m/x",
            "etc/deep/../../m/./x",
            "link/x",
            "etc/relative",
            "etc/home/m/x",
        ] {
            assert!(is_below(&base.join(below), &mount), "{below}");
            assert!(
                is_below(&base.join(below), &base.join("etc/home/m")),
                "{below}"
            );
        }
        for beside in [
            "",
            "mm",
            "etc/m",
            "m/../etc",
            "etc/harmless",
            "loop/x",
            "missing/m",
        ] {
            let beside = base.join(beside);
            assert_eq!(
                is_below(&beside, &mount),
                beside.ends_with("m/../etc"),
                "{}",
                beside.display()
            );
        }
    }
}

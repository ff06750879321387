//! Cgroups made by hand, and programs that run in them.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A cgroup of the unified hierarchy, removed when it goes out of scope.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    pub(crate) fn new(name: impl AsRef<OsStr>) -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let point = fields.next()?;
            (fields.next()? == "cgroup2").then_some(point)
        });
        let path = PathBuf::from(mount.expect("a unified hierarchy")).join(name.as_ref());
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// `program`, which enters the cgroup before it begins.
    pub(crate) fn command(&self, program: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "30", "sh", "-c"]);
        command.arg("echo $$ > \"$0\"; exec \"$@\"");
        command.arg(self.0.join("cgroup.procs")).args(program);
        command.env("LC_ALL", "C");
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
    }
}

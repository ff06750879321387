//! Small file systems of their own, for disks that fill up and fail.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system that is mounted somewhere, until it goes out of scope.
pub(crate) struct Volume(PathBuf);

fn must_run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

impl Volume {
    /// An ext4 of 16 MiB in the file `image`.
    pub(crate) fn ext4(image: &Path, at: &Path) -> Self {
        File::create(image).unwrap().set_len(16 << 20).unwrap();
        must_run("mkfs.ext4", &["-q", "-m", "0", image.to_str().unwrap()]);
        let volume = Self::mount(image, at);
        must_run("chmod", &["0700", at.to_str().unwrap()]);
        volume
    }

    /// The ext4 in the file `image`.
    pub(crate) fn mount(image: &Path, at: &Path) -> Self {
        let (image, at) = (image.to_str().unwrap(), at.to_str().unwrap());
        must_run("mount", &["-o", "loop,errors=remount-ro", image, at]);
        Self(at.into())
    }

    /// A tmpfs of so many bytes.
    pub(crate) fn tmpfs(size: &str, at: &Path) -> Self {
        let options = format!("size={size},mode=0700");
        let at = at.to_str().unwrap();
        must_run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", at]);
        Self(at.into())
    }

    /// Takes all space that is left.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let mut ballast = File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            while ballast.write_all(&vec![1; size]).is_ok() {}
        }
        ballast.sync_all().ok();
        path
    }

    /// An error of the device, after which the kernel lets nobody write.
    pub(crate) fn fail(&self) {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let ours = |line: &&str| line.split(' ').nth(1) == self.0.to_str();
        let device = mounts.lines().rfind(ours).unwrap();
        let device = device.split(' ').next().unwrap();
        let device = device.rsplit('/').next().unwrap();
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").unwrap();
    }

    /// Takes the file system away from its place, though it is in use.
    pub(crate) fn detach(&self) {
        must_run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // It may be detached already.
        Command::new("umount").arg("-l").arg(&self.0).output().ok();
    }
}

/// Sets or takes away attributes of a file: `+i`, `-a`.
pub(crate) fn chattr(attributes: &str, path: &Path) {
    must_run("chattr", &[attributes, path.to_str().unwrap()]);
}

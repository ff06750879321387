//! Directories, the daemons started in them, and their end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::VALUE;

/// Who reads: an ordinary user, as applications are.
pub(crate) const CLIENT: u32 = 61001;

/// A directory, the daemons started in it, and their end.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
    children: Vec<(Child, PathBuf)>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // For who reads to reach the mounts.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            dir,
            children: Vec::new(),
        }
    }

    pub(crate) fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join(part)
    }

    /// Starts a program that says a line once it serves `mount`; tells whether it does.
    fn start(&mut self, mut command: Command, mount: &Path) -> bool {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        self.children.push((child, mount.to_owned()));
        !line.is_empty()
    }

    /// A daemon with `[audit] durability`; `None` when it knows of no such setting.
    pub(crate) fn jarvis(&mut self, durability: &str) -> Option<PathBuf> {
        let etc = self.path(&format!("etc-{durability}"));
        let mount = self.path(&format!("jarvis-{durability}"));
        let ctl = || {
            let mut ctl = Command::new(env!("CARGO_BIN_EXE_jarvisctl"));
            ctl.arg("--mount").arg(&mount).stdout(Stdio::null());
            ctl
        };
        let init = ctl().arg("init").arg("--dir").arg(&etc).status();
        assert!(init.unwrap().success());
        let config = etc.join("config.toml");
        let text = fs::read_to_string(&config).unwrap();
        let text = text.replace("[http]", "[http]\nenabled = false");
        let wanted = format!("durability = \"{durability}\"");
        assert!(text.contains("durability = \"write\""));
        fs::write(&config, text.replace("durability = \"write\"", &wanted)).unwrap();
        let policy = format!(
            "clients:\n  admin: {{match: {{uid: 0}}, allow: ['*'], verbs: ['*']}}\n  \
             app: {{match: {{uid: {CLIENT}}}, allow: [file, 'cold*', 'dir1/**']}}\n"
        );
        fs::write(etc.join("policy.yaml"), policy).unwrap();
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_jarvis-secretsd"));
        daemon.arg("--config").arg(&config);
        if !self.start(daemon, &mount) {
            return None;
        }
        fs::write(self.path("value"), VALUE).unwrap();
        let set = ctl()
            .args(["set", "file", "--from-file"])
            .arg(self.path("value"))
            .status();
        assert!(set.unwrap().success());
        Some(mount)
    }

    /// A file system that does nothing.
    pub(crate) fn nothing(&mut self, which: &str) -> PathBuf {
        let mount = self.path(which);
        fs::create_dir(&mount).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--serve-nothing").arg(which).arg(&mount);
        assert!(self.start(command, &mount), "{which} did not start");
        mount
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for (child, mount) in &mut self.children {
            // A mount that is taken away from a daemon is made anew.
            child.kill().ok();
            child.wait().ok();
            let mut unmount = Command::new("umount");
            let unmount = unmount.arg("-l").arg(&*mount).stderr(Stdio::null());
            unmount.status().ok();
            let mut unseal = Command::new("chattr");
            let unseal = unseal.arg("-i").arg(mount).stderr(Stdio::null());
            unseal.status().ok();
        }
    }
}

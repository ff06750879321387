//! Containers of one static busybox.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use super::{User, run, text};

const IMAGE: &str = "jarvis-e2e:busybox";

fn docker(arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["60", "docker"]).args(arguments);
    run(command, b"")
}

/// Makes the image; it comes from no registry.
fn import_image() {
    let root = tempfile::tempdir().unwrap();
    let bin = root.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
    for applet in ["cat", "ls", "sh", "sleep"] {
        symlink("busybox", bin.join(applet)).unwrap();
    }
    let tar = root.path().join("image.tar");
    let packed = Command::new("tar")
        .arg("-cf")
        .arg(&tar)
        .arg("-C")
        .arg(root.path())
        .arg("bin")
        .status();
    assert!(packed.unwrap().success());
    let imported = docker(&["import", tar.to_str().unwrap(), IMAGE]);
    assert!(
        imported.status.success(),
        "is the Docker engine running? {imported:?}"
    );
}

/// A container without a network that does nothing by itself, removed at the
/// latest when it goes out of scope.
pub(crate) struct Container(String);

impl Container {
    /// Starts one as `user`, with `volume` in Docker's words.
    pub(crate) fn run(user: &User, volume: &str) -> Self {
        Self::run_with(user, volume, &[])
    }

    /// The same with more `options` of Docker's.
    pub(crate) fn run_with(user: &User, volume: &str, options: &[&str]) -> Self {
        static IMPORTED: std::sync::Once = std::sync::Once::new();
        IMPORTED.call_once(import_image);
        let user = format!("{}:{}", user.uid, user.gid);
        let run = ["run", "-d", "--rm", "--network", "none"];
        let of_whom = ["--user", &user, "-v", volume];
        let started = docker(&[&run[..], &of_whom, options, &[IMAGE, "sleep", "600"]].concat());
        assert!(started.status.success(), "{started:?}");
        Self(text(&started.stdout).trim().to_owned())
    }

    pub(crate) fn id(&self) -> &str {
        &self.0
    }

    /// Runs a program in it.
    pub(crate) fn exec(&self, program: &[&str]) -> Output {
        docker(&[&["exec", &self.0], program].concat())
    }

    /// Starts a program in it and waits for the line `ready` from it.
    pub(crate) fn start(&self, program: &[&str], ready: &str) -> ContainerProgram {
        let mut command = Command::new("timeout");
        command.args(["60", "docker", "exec", "-i", &self.0]);
        command.args(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), ready);
        ContainerProgram { child, output }
    }
}

/// A program at work in a container.
pub(crate) struct ContainerProgram {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl ContainerProgram {
    /// Gives it `input`; what it says until it ends.
    pub(crate) fn answer(mut self, input: &[u8]) -> String {
        self.child.stdin.take().unwrap().write_all(input).unwrap();
        let mut said = String::new();
        self.output.read_to_string(&mut said).unwrap();
        self.child.wait().unwrap();
        said
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        docker(&["rm", "-f", &self.0]);
    }
}

//! Whether a read would succeed now: the mount taken away, hidden or seen by nobody, and a
//! port that is taken. `/readyz`, `status`, `health` and `doctor` agree.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::harness::*;

/// Everything that tells how the daemon is.
struct Watcher<'h> {
    home: &'h TestDaemon,
    address: String,
}

impl Watcher<'_> {
    /// Code and text of `/readyz`; 0 when nobody answers.
    fn readyz(&self) -> (u16, String) {
        let mut answer = Vec::new();
        if let Ok(mut stream) = TcpStream::connect(&self.address) {
            stream
                .set_read_timeout(Some(Duration::from_secs(1)))
                .unwrap();
            stream.write_all(b"GET /readyz HTTP/1.1\r\n\r\n").ok();
            stream.read_to_end(&mut answer).ok();
        }
        let answer = text(&answer);
        let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        (code.unwrap_or_default(), answer)
    }

    fn health(&self) -> (Option<i32>, String) {
        let url = format!("http://{}", self.address);
        let output = self.home.ctl(&["health", "--url", &url], b"");
        (output.status.code(), text(&output.stderr))
    }

    fn status_at(&self, mount: &Path) -> (Option<i32>, String) {
        let output = self.home.ctl_at(mount, &["status"], b"");
        (output.status.code(), text(&output.stderr))
    }

    /// What doctor looks at and finds wrong, with its words.
    fn doctor(&self) -> Vec<(String, String)> {
        let etc = self.home.etc();
        let arguments = ["doctor", "--json", "--dir", etc.to_str().unwrap()];
        let output = self.home.ctl(&arguments, b"");
        let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = findings.as_array().unwrap().iter();
        let word = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
        let bad: Vec<_> = findings
            .filter(|finding| finding["ok"] == false)
            .map(|finding| (word(finding, "what"), word(finding, "finding")))
            .collect();
        assert_eq!(output.status.success(), bad.is_empty(), "{bad:?}");
        bad
    }

    #[track_caller]
    fn all_is_well(&self) {
        assert_eq!(self.readyz().0, 200, "{}", self.readyz().1);
        assert_eq!(self.status_at(&self.home.mount()).0, Some(0));
        assert_eq!(self.health().0, Some(0));
        assert_eq!(self.doctor(), []);
    }
}

/// A port that nobody has just now.
fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A daemon with a secret, and with a port that `doctor` can know.
fn served(home: &TestDaemon) -> (RunningDaemon<'_>, Watcher<'_>) {
    let address = free_port();
    let listen = format!("enabled = true\nlisten = \"{address}\"");
    home.configure("enabled = false", &listen);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let watcher = Watcher { home, address };
    watcher.all_is_well();
    (daemon, watcher)
}

fn reads(daemon: &RunningDaemon<'_>) -> bool {
    alice().read(&daemon.file("app/db")) == Ok(b"v".to_vec())
}

fn sh(script: &str, path: &Path) -> std::process::Output {
    let mut shell = Command::new("timeout");
    shell.args(["-s", "KILL", "60", "sh", "-ec", script, "sh"]);
    run_in(shell, path)
}

fn run_in(mut shell: Command, path: &Path) -> std::process::Output {
    shell.arg(path);
    run(shell, b"")
}

#[track_caller]
fn must(script: &str, path: &Path) {
    let output = sh(script, path);
    assert!(output.status.success(), "{script}: {output:?}");
}

/// Each of these once took the secrets away from everybody and was not noticed.
#[test]
fn a_mount_that_is_taken_away_is_made_anew() {
    for script in [
        "umount -l \"$1\"",
        "fusermount3 -uz \"$1\"",
        "umount \"$1\"",
    ] {
        let home = TestDaemon::new().init(POLICY);
        let (daemon, watcher) = served(&home);
        must(script, &home.mount());
        daemon.eventually("it is there again", || reads(&daemon));
        assert!(daemon.log().contains("it was taken away") || daemon.log().contains("was cut"));
        daemon.set("app/other", b"w");
        watcher.all_is_well();
        daemon.stop();
        assert!(home.verify().contains(" 0 of them after an unclean end"));
    }
}

/// As long as it is not back: while the vault is gone nobody can mount anew.
#[test]
fn while_the_mount_is_gone_nothing_says_ready() {
    let home = TestDaemon::new().init(POLICY);
    let (daemon, watcher) = served(&home);
    let (vault, away) = (
        home.path("etc/vault/vault.redb"),
        home.path("etc/vault/away"),
    );
    fs::rename(&vault, &away).unwrap();
    must("umount -l \"$1\"", &home.mount());
    daemon.eventually("it is noticed", || watcher.readyz().0 != 200);
    assert_eq!(watcher.status_at(&home.mount()).0, Some(5));
    let found = watcher.doctor();
    assert!(
        found.iter().any(|(what, _)| what == "http port"),
        "{found:?}"
    );
    assert_ne!(watcher.readyz().0, 200);
    assert_ne!(watcher.health().0, Some(0));
    fs::rename(away, vault).unwrap();
    daemon.eventually("it is there again", || reads(&daemon));
    watcher.all_is_well();
}

/// Supervisor and workers hang: requests wait, and nobody may wait with them to learn that.
#[test]
fn while_nobody_serves_nothing_says_ready() {
    let home = TestDaemon::new().init(POLICY);
    let (daemon, watcher) = served(&home);
    let (serving, standby) = daemon.workers();
    let all = [daemon.pid(), serving, standby];
    all.into_iter().for_each(stop_all_threads);
    assert_ne!(watcher.readyz().0, 200);
    assert_eq!(watcher.health().0, Some(5));
    let (code, said) = watcher.status_at(&home.mount());
    assert_eq!(code, Some(5), "{said}");
    let found = watcher.doctor();
    let found: Vec<_> = found.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(found, ["mount point", "http port"]);
    for pid in all {
        kill_process(pid, Signal::CONT).unwrap();
    }
    daemon.eventually("all is well", || watcher.readyz().0 == 200);
    daemon.eventually("it reads", || reads(&daemon));
    watcher.all_is_well();
}

/// A file that is open when the mount goes fails; it never shows another secret.
#[test]
fn an_aborted_connection_is_mounted_anew() {
    let home = TestDaemon::new().init(POLICY);
    let (daemon, watcher) = served(&home);
    let held = fs::File::open(daemon.file("app/db")).unwrap();
    let copy = home.path("copy");
    fs::create_dir(&copy).unwrap();
    must(
        &format!("mount --bind '{}' \"$1\"", home.mount().display()),
        &copy,
    );
    must("umount -f \"$1\"", &copy);
    daemon.eventually("it is there again", || reads(&daemon));
    assert!(held.read_at(&mut [0; 8], 0).is_err());
    watcher.all_is_well();
    daemon.stop();
}

/// The kernel gives the number of a connection that is gone to the next one.
#[test]
fn a_mount_that_is_gone_takes_no_other_along() {
    let (home, other) = (
        TestDaemon::new().init(POLICY),
        TestDaemon::new().init(POLICY),
    );
    let (daemon, watcher) = served(&home);
    let number = connection(&home.mount());
    stop_all_threads(daemon.pid());
    must("umount \"$1\"", &home.mount());
    let second = other.start();
    println!("{number:?} is gone, {:?} came", connection(&other.mount()));
    second.set("app/db", b"v");
    let held = fs::File::open(second.file("app/db")).unwrap();
    daemon.signal(Signal::CONT);
    daemon.eventually("it is there again", || reads(&daemon));
    assert_eq!(held.read_at(&mut [0; 8], 0).unwrap(), 1);
    assert!(reads(&second));
    watcher.all_is_well();
}

/// Device number of the mount on `path`.
fn connection(path: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut fields = mounts.lines().map(|line| line.split(' ').skip(2));
    fields.find_map(|mut fields| {
        let device = fields.next()?;
        (fields.nth(1) == path.to_str()).then(|| device.to_owned())
    })
}

#[test]
fn what_hides_the_mount_is_told_and_left_alone() {
    for above in [false, true] {
        let home = TestDaemon::new().init(POLICY);
        fs::create_dir(home.path("run")).unwrap();
        home.configure(
            home.mount().to_str().unwrap(),
            home.path("run/mnt").to_str().unwrap(),
        );
        let address = free_port();
        let listen = format!("enabled = true\nlisten = \"{address}\"");
        home.configure("enabled = false", &listen);
        let daemon = home.start();
        let watcher = Watcher {
            home: &home,
            address,
        };
        let mount = home.path("run/mnt");
        let copy = home.path("copy");
        fs::create_dir(&copy).unwrap();
        must(&format!("mount --bind '{}' \"$1\"", mount.display()), &copy);
        let cover = if above {
            home.path("run")
        } else {
            mount.clone()
        };
        must("mount -t tmpfs a-cover \"$1\"", &cover);
        daemon.eventually("it is told", || watcher.readyz().0 == 503);
        let (_, said) = watcher.readyz();
        assert!(said.contains("a-cover (type tmpfs)"), "{said}");
        assert!(daemon.log().contains("a-cover"), "{}", daemon.log());
        let (code, said) = watcher.health();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("a-cover"), "{said}");
        let (code, said) = watcher.status_at(&mount);
        assert_eq!(code, Some(5), "{said}");
        assert!(said.contains("a-cover"), "{said}");
        let (code, said) = watcher.status_at(&copy);
        assert_eq!(code, Some(1), "through another of its mounts: {said}");
        assert!(said.contains("a-cover"), "{said}");
        let etc = home.etc();
        let doctor = ["doctor", "--dir", etc.to_str().unwrap()];
        let doctor = text(&home.ctl_at(&mount, &doctor, b"").stdout);
        assert_eq!(doctor.matches("LOOK").count(), 2, "{doctor}");
        assert_eq!(doctor.matches("a-cover").count(), 2, "{doctor}");

        must("umount \"$1\"", &cover);
        daemon.eventually("all is well", || watcher.readyz().0 == 200);
        assert_eq!(watcher.status_at(&mount).0, Some(0));
        assert_eq!(watcher.health().0, Some(0));
        must("umount \"$1\"", &copy);
        daemon.stop();
    }
}

/// As in a unit with PrivateTmp=: nobody but the daemon would see the mount.
#[test]
fn a_mount_that_nobody_would_see_is_refused() {
    let home = TestDaemon::new().init(POLICY);
    let inner = home.daemon();
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "slave"]);
    command.arg(inner.get_program()).args(inner.get_args());
    let error = home.try_start(command, b"").err().unwrap();
    for word in [
        "no reader sees it",
        "PrivateTmp=",
        "ProtectSystem=",
        "rshared",
    ] {
        assert!(error.contains(word), "{error}");
    }
    // One whose mounts are seen outside, as a container's with rshared, is no reason.
    must(
        "mount --bind \"$1\" \"$1\"; mount --make-shared \"$1\"",
        &home.path(""),
    );
    let _bind = Bind(home.path(""));
    let address = free_port();
    let listen = format!("enabled = true\nlisten = \"{address}\"");
    home.configure("enabled = false", &listen);
    let inner = home.daemon();
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "unchanged"]);
    command.arg(inner.get_program()).args(inner.get_args());
    let daemon = home.start_command(command, b"");
    let watcher = Watcher {
        home: &home,
        address,
    };
    daemon.set("app/db", b"v");
    assert!(reads(&daemon));
    watcher.all_is_well();
    must("umount -l \"$1\"", &home.mount());
    daemon.eventually("it is there again", || reads(&daemon));
    watcher.all_is_well();
    daemon.stop();
}

/// A directory that is bound on itself.
struct Bind(PathBuf);

impl Drop for Bind {
    fn drop(&mut self) {
        sh("umount -l \"$1\"", &self.0);
    }
}

#[test]
fn a_taken_port_delays_no_secret() {
    let home = TestDaemon::new().init(POLICY);
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let listen = format!("enabled = true\nlisten = \"{address}\"");
    home.configure("enabled = false", &listen);
    let daemon = home.start();
    assert!(
        daemon.log().contains("no HTTP port yet"),
        "{}",
        daemon.log()
    );
    daemon.set("app/db", b"v");
    assert!(reads(&daemon));
    assert_eq!(home.ok(&["status"], b"")["ready"], true);
    let watcher = Watcher {
        home: &home,
        address,
    };
    let answer = std::thread::spawn(move || {
        // A program of another kind.
        let (mut stream, _) = other.accept().unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            .ok();
    });
    let found = watcher.doctor();
    answer.join().unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].1.contains("another program"), "{found:?}");
    daemon.eventually("the port is free", || watcher.readyz().0 == 200);
    watcher.all_is_well();
    // A new worker is given the port, too.
    let (serving, _) = daemon.workers();
    kill_process(serving, Signal::KILL).unwrap();
    daemon.eventually("another worker", || watcher.readyz().0 == 200);
    daemon.stop();
}

#[test]
fn what_the_daemon_needs_is_not_below_its_mount() {
    let home = TestDaemon::new().init(POLICY);
    let etc = home.etc();
    let doctor = || {
        let arguments = ["doctor", "--dir", etc.to_str().unwrap()];
        text(&home.ctl(&arguments, b"").stdout)
    };
    let original = fs::read_to_string(home.path("etc/config.toml")).unwrap();
    std::os::unix::fs::symlink(home.mount(), home.path("link")).unwrap();
    for (from, to) in [
        ("path = \"policy.yaml\"", "path = \"../mnt/policy.yaml\""),
        (
            "path = \"vault/vault.redb\"",
            "path = \"../mnt/v/vault.redb\"",
        ),
        ("key_file = \"vault.key\"", "key_file = \"../mnt/app/key\""),
        ("dir = \"audit\"", "dir = \"../link/audit\""),
        ("identity = \"identity.key\"", "identity = \"../mnt/id\""),
        (
            "durability = \"write\"",
            "durability = \"write\"\ncheckpoints = \"../link\"",
        ),
    ] {
        home.configure(from, to);
        let error = home.try_start(home.daemon(), b"").err().unwrap();
        assert!(error.contains("below the mount point"), "{to}: {error}");
        assert!(doctor().contains("below the mount point"), "{to}");
        fs::write(home.path("etc/config.toml"), &original).unwrap();
    }
    assert!(!home.mount().exists());
    // The configuration itself, and what `init` would make.
    for arguments in [
        vec!["init", "--dir", "mnt/etc"],
        vec!["init", "--dir", "new", "--key-file", "link/key"],
    ] {
        let is_path = |word: &str| word.contains('/') || word == "new";
        let paths: Vec<_> = arguments
            .iter()
            .map(|word| match *word {
                word if is_path(word) => home.path(word).to_str().unwrap().to_owned(),
                word => word.to_owned(),
            })
            .collect();
        let paths: Vec<_> = paths.iter().map(String::as_str).collect();
        let refused = home.ctl(&paths, b"");
        assert!(
            text(&refused.stderr).contains("below the mount point"),
            "{refused:?}"
        );
    }
    home.start().stop();
}

/// Docker makes a directory for a bind that is not there yet.
#[test]
fn what_was_made_in_the_bare_mount_point_is_told() {
    let home = TestDaemon::new().init(POLICY);
    fs::create_dir_all(home.mount().join("app")).unwrap();
    let (daemon, _) = {
        let address = free_port();
        let listen = format!("enabled = true\nlisten = \"{address}\"");
        home.configure("enabled = false", &listen);
        let daemon = home.start();
        (
            daemon,
            Watcher {
                home: &home,
                address,
            },
        )
    };
    assert!(
        daemon.log().contains("bare mount point"),
        "{}",
        daemon.log()
    );
    assert!(daemon.log().contains("names=app"), "{}", daemon.log());
    daemon.set("app/db", b"v");
    assert!(reads(&daemon));
    let etc = home.etc();
    let found = home.ctl(&["doctor", "--dir", etc.to_str().unwrap()], b"");
    assert_eq!(found.status.code(), Some(1));
    let found = text(&found.stdout);
    assert_eq!(found.matches("LOOK").count(), 1, "{found}");
    assert!(
        found.contains("LOOK  below the mount") && found.contains("lies app"),
        "{found}"
    );
    daemon.stop();
}

#[test]
fn a_bare_mount_point_that_we_made_refuses_everything() {
    let home = TestDaemon::new().init(POLICY);
    home.start().stop();
    let made = fs::create_dir(home.mount().join("app"));
    assert_eq!(made.map_err(|e| errno(&e)), Err(1), "also root");
    home.start().stop();
    must("chattr -i \"$1\"; rmdir \"$1\"", &home.mount());
}

//! Start, stop, and what must not leak.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;

use rustix::process::Signal;

use crate::harness::*;

fn mounted(home: &TestDaemon) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = home.mount();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == mount.to_str())
}

#[test]
fn signals_unmount_also_with_open_handles() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = TestDaemon::new().init(POLICY);
        let mut daemon = home.start();
        daemon.set("app/db", b"v");
        let held = fs::File::open(daemon.file("app/db")).unwrap();
        daemon.signal(signal);
        assert!(daemon.wait().success());
        assert!(!mounted(&home));
        assert!(held.read_at(&mut [0; 1], 0).is_err());
        assert_eq!(home.records().last().unwrap()["action"], "stop");
        home.verify();
    }
}

#[test]
fn a_dead_daemons_mount_is_cleared() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    daemon.kill();
    assert!(mounted(&home));
    assert!(fs::read_dir(home.mount()).is_err(), "nobody serves it");
    let daemon = home.start();
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"v".to_vec()));
    daemon.stop();
    assert!(!mounted(&home));
    assert!(home.verify().contains("2, 1 of them after an unclean end"));
}

#[test]
fn a_second_daemon_is_refused() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let error = home.try_start(home.daemon(), b"").err().unwrap();
    assert!(error.contains("already mounted"), "{error}");
    home.configure(
        &home.mount().to_string_lossy(),
        &home.path("elsewhere").to_string_lossy(),
    );
    let error = home.try_start(home.daemon(), b"").err().unwrap();
    assert!(error.contains("in use by another"), "{error}");
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"v".to_vec()));
}

#[test]
fn a_passphrase_opens_the_vault() {
    let home = TestDaemon::new();
    let etc = home.etc();
    let arguments = ["init", "--passphrase-stdin", "--dir", etc.to_str().unwrap()];
    assert!(home.ctl(&arguments, b"correct horse\n").status.success());
    home.configure("[http]", "[http]\nenabled = false");
    home.policy(POLICY);
    let command = || {
        let mut command = home.daemon();
        command.arg("--passphrase-stdin");
        command
    };
    let vault = fs::read(home.path("etc/vault/vault.redb")).unwrap();
    let error = home.try_start(command(), b"wrong\n").err().unwrap();
    assert!(error.contains("wrong passphrase"), "{error}");
    let error = home.try_start(home.daemon(), b"").err().unwrap();
    assert!(error.contains("--passphrase-stdin"), "{error}");
    assert!(vault == fs::read(home.path("etc/vault/vault.redb")).unwrap());
    let daemon = home.start_command(command(), b"correct horse\n");
    daemon.set("app/db", b"v");
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"v".to_vec()));
}

#[test]
fn key_files_are_checked() {
    let home = TestDaemon::new().init(POLICY);
    let key = home.path("etc/vault.key");
    let refused = |what: &str| {
        let error = home.try_start(home.daemon(), b"").err().unwrap();
        assert!(error.contains(what), "{error}");
    };
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    refused("chmod 0600");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let right = fs::read(&key).unwrap();
    fs::write(&key, [0; 32]).unwrap();
    refused("does not belong to");
    fs::write(&key, [0; 33]).unwrap();
    refused("exactly 32");
    fs::write(&key, right).unwrap();
    fs::set_permissions(
        home.path("etc/vault/vault.redb"),
        fs::Permissions::from_mode(0o666),
    )
    .unwrap();
    refused("mode 0666");
    fs::set_permissions(
        home.path("etc/vault/vault.redb"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    home.start().stop();
}

#[test]
fn init_overwrites_nothing() {
    let home = TestDaemon::new().init(POLICY);
    let again = home.ctl(&["init", "--dir", home.etc().to_str().unwrap()], b"");
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("exists already"));
    home.start().stop();
}

#[test]
fn nothing_planted_is_found_anywhere() {
    let home = TestDaemon::new().init(POLICY);
    let mut command = Command::new("sh");
    let inner = home.daemon();
    // A shell that allows core dumps, in a directory that could take one.
    command.args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.current_dir(home.path(""));
    let mut daemon = home.start_command(command, b"");
    let value = b"planted-value-4711";
    daemon.set("planted-dir/planted-name", value);
    home.ctl(&["set", "planted-dir/planted-name/below"], value);
    home.ctl(&["rotate", "planted-dir/planted-name"], b"");
    root()
        .read(&daemon.file("planted-dir/planted-name"))
        .unwrap();
    bob()
        .read(&daemon.file("planted-dir/planted-name"))
        .unwrap_err();
    let _held = fs::File::open(daemon.file("planted-dir/planted-name")).unwrap();
    let environ = fs::read(format!("/proc/{}/environ", daemon.pid().as_raw_nonzero())).unwrap();
    assert!(!contains(&environ, value));
    daemon.signal(Signal::ABORT);
    daemon.wait();
    let mut files = Vec::new();
    all_files(&home.path("etc"), &mut files);
    files.push(home.path("daemon.log"));
    assert!(files.len() > 6);
    for file in &files {
        let bytes = fs::read(file).unwrap();
        assert!(!contains(&bytes, value), "{}", file.display());
        if file.ends_with("vault.redb") {
            assert!(
                !contains(&bytes, b"planted-"),
                "a name in {}",
                file.display()
            );
        }
    }
    let left: Vec<_> = fs::read_dir(home.path(""))
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    assert!(
        !left.iter().any(|f| f.to_string_lossy().contains("core")),
        "{left:?}"
    );
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

fn all_files(dir: &std::path::Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all_files(&path, files);
        } else {
            files.push(path);
        }
    }
}

#[test]
fn memory_is_locked_and_not_for_others() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let pid = daemon.pid().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let locked = status
        .lines()
        .find_map(|l| l.strip_prefix("VmLck:"))
        .unwrap();
    let kib: u64 = locked.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib > 1000, "{locked}");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|l| l.starts_with("Max core file size"))
        .unwrap();
    assert!(
        core.split_whitespace().filter(|word| *word == "0").count() >= 2,
        "{core}"
    );
    // Not dumpable: only a privileged user may look at its memory.
    let maps = bob().read(format!("/proc/{pid}/maps").as_ref());
    assert_eq!(maps, Err(EACCES));
}

#[test]
fn a_low_limit_on_locked_memory_is_an_error_or_a_warning() {
    let home = TestDaemon::new().init(POLICY);
    let command = || {
        let inner = home.daemon();
        let mut command = Command::new("setpriv");
        // With SYS_RESOURCE the worker would lift the limit.
        let caps = "-ipc_lock,-sys_resource";
        command.arg(format!("--bounding-set={caps}"));
        command.arg(format!("--inh-caps={caps}"));
        command.args(["prlimit", "--memlock=8388608:8388608"]);
        command.arg(inner.get_program()).args(inner.get_args());
        command
    };
    let error = home.try_start(command(), b"").err().unwrap();
    assert!(
        error.contains("8388608 bytes") && error.contains("LimitMEMLOCK"),
        "{error}"
    );
    home.configure("developer = false", "developer = true");
    let daemon = home.start_command(command(), b"");
    assert!(
        daemon.log().contains("values may reach swap"),
        "{}",
        daemon.log()
    );
    daemon.set("app/db", b"v");
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"v".to_vec()));
}

#[test]
fn without_the_right_to_end_workers_the_daemon_does_not_start_or_ends_all_the_same() {
    let home = TestDaemon::new().init(POLICY);
    let command = || {
        let inner = home.daemon();
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-kill", "--inh-caps=-kill"]);
        command.arg(inner.get_program()).args(inner.get_args());
        command
    };
    let error = home.try_start(command(), b"").err().unwrap();
    assert!(error.contains("CAP_KILL"), "{error}");
    home.configure("developer = false", "developer = true");
    let daemon = home.start_command(command(), b"");
    daemon.set("app/db", b"v");
    let (serving, standby) = daemon.workers();
    daemon.stop();
    for worker in [serving, standby] {
        let pid = worker.as_raw_nonzero();
        eventually("it is gone", || !lives(pid));
    }
}

/// Limits that would end the daemon some time later.
#[test]
fn limits_on_files_and_processes_are_lifted_or_refused() {
    let home = TestDaemon::new().init(POLICY);
    let limited = |limit: &str| {
        let inner = home.daemon();
        let mut command = Command::new("prlimit");
        command.arg(limit);
        command.arg(inner.get_program()).args(inner.get_args());
        command
    };
    for (limit, said, remedy) in [
        (
            "--fsize=4294967296:4294967296",
            "4294967296 bytes",
            "LimitFSIZE=infinity",
        ),
        ("--nproc=20:20", "20 processes", "LimitNPROC=256"),
    ] {
        let error = home.try_start(limited(limit), b"").err().unwrap();
        assert!(error.contains(said) && error.contains(remedy), "{error}");
        let mut doctor = Command::new("prlimit");
        doctor.args([limit, jarvisctl().to_str().unwrap(), "doctor"]);
        let found = text(&run(doctor, b"").stdout);
        let row = found.lines().find(|row| row.contains("limits")).unwrap();
        assert!(row.contains(said) && row.contains(remedy), "{found}");
    }
    // A soft limit is lifted.
    let daemon = home.start_command(limited("--fsize=65536:unlimited"), b"");
    daemon.set("app/db", &[7; 400_000]);
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(vec![7; 400_000]));
    let pid = daemon.pid().as_raw_nonzero().to_string();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let file_size = limits
        .lines()
        .find(|l| l.starts_with("Max file size"))
        .unwrap();
    assert!(!file_size.contains("65536"), "{file_size}");
    daemon.stop();
    home.configure("developer = false", "developer = true");
    let daemon = home.start_command(limited("--fsize=4294967296:4294967296"), b"");
    assert!(daemon.log().contains("RLIMIT_FSIZE"), "{}", daemon.log());
}

#[test]
fn in_a_pid_namespace_of_its_own_the_daemon_says_so() {
    let home = TestDaemon::new().init(POLICY);
    let warning = "in a pid namespace of its own";
    let daemon = home.start();
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap();
    let is_nested = namespace.to_str() != Some("pid:[4026531836]");
    assert_eq!(daemon.log().contains(warning), is_nested);
    daemon.stop();
    // Its mount is in a mount namespace that ends with it.
    let inner = home.daemon();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["timeout", "-s", "KILL", "60"]);
    command.arg(inner.get_program()).args(inner.get_args());
    let daemon = home.start_command(command, b"");
    assert!(daemon.log().contains(warning), "{}", daemon.log());
}

/// Developer mode: an ordinary user with fusermount3 and nothing else.
#[test]
fn an_ordinary_user_serves_itself() {
    let home = TestDaemon::new();
    let alice = alice();
    // Its own, for what others have a hand in is not trusted.
    std::os::unix::fs::chown(home.path(""), Some(alice.uid), None).unwrap();
    let init = home.ctl_as(
        &alice,
        &["init", "--dir", home.etc().to_str().unwrap()],
        b"",
    );
    assert!(init.status.success(), "{init:?}");
    let edit =
        "clients: {me: {match: {user: jarvis-alice}, allow: ['*'], deny: [no], verbs: ['*']}}";
    alice.act(|| {
        fs::write(home.path("etc/policy.yaml"), edit).unwrap();
        home.configure("[http]", "[http]\nenabled = false");
    });
    let mut command = Command::new("setpriv");
    let inner = home.daemon();
    command
        .arg(format!("--reuid={}", alice.uid))
        .arg(format!("--regid={}", alice.gid));
    command
        .arg("--init-groups")
        .arg(inner.get_program())
        .args(inner.get_args());
    let mut daemon = home.start_command(command, b"");
    assert!(daemon.log().contains("not root"), "{}", daemon.log());
    let set = home.ctl_as(&alice, &["set", "app/db"], b"mine");
    assert!(set.status.success(), "{set:?}");
    let path = daemon.file("app/db");
    let mut cat = alice.command("cat");
    cat.arg(&path);
    assert_eq!(run(cat, b"").stdout, b"mine");
    assert_eq!(
        home.ctl_as(&alice, &["set", "no"], b"v").status.code(),
        Some(3)
    );
    assert!(bob().read(&path).is_err(), "the kernel lets nobody else in");
    assert!(root().read(&path).is_err());
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    assert!(!mounted(&home));
    home.verify();
}

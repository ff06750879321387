//! Paths that others than root have a hand in: nothing there is read or written.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use crate::harness::*;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The daemon says `why`, in which the path stands, and does not start.
fn refused(home: &TestDaemon, path: &Path, why: &str) {
    let error = home.try_start(home.daemon(), b"").err().unwrap();
    let shown = path.display().to_string();
    assert!(
        error.contains(&shown) && error.contains(why),
        "{why}: {error}"
    );
}

/// Has others have a hand in `path`, a file or directory that the daemon uses, in every way
/// in which they can.
fn refused_however(home: &TestDaemon, path: &Path, wrong_link: &str) {
    let before = fs::metadata(path).unwrap();
    chmod(path, 0o777);
    refused(home, path, "mode 0777");
    chmod(path, before.mode() & 0o7777);
    chown(path, Some(bob().uid), None).unwrap();
    refused(home, path, &format!("belongs to uid {}", bob().uid));
    chown(path, Some(before.uid()), None).unwrap();
    if before.is_file() {
        let second = home.path("second");
        fs::hard_link(path, &second).unwrap();
        refused(home, path, "2 names");
        fs::remove_file(second).unwrap();
    }
    // A link of somebody else's.
    let aside = home.path("aside");
    fs::rename(path, &aside).unwrap();
    symlink(&aside, path).unwrap();
    lchown(path, Some(bob().uid), None).unwrap();
    refused(home, path, wrong_link);
    fs::remove_file(path).unwrap();
    if before.is_file() {
        let mut mkfifo = std::process::Command::new("mkfifo");
        assert!(mkfifo.arg(path).status().unwrap().success());
        refused(home, path, "no regular file");
        fs::remove_file(path).unwrap();
    }
    fs::rename(aside, path).unwrap();
}

#[test]
fn files_and_directories_of_the_daemon_are_roots_alone() {
    let home = TestDaemon::new().init(POLICY);
    for directory in ["hooks", "notes"] {
        fs::create_dir(home.path(directory)).unwrap();
    }
    let quoted = |name: &str| format!("\"{}\"", home.path(name).display());
    let (hooks, notes) = (quoted("hooks"), quoted("notes"));
    home.configure("# dir = \"hooks\"", &format!("dir = {hooks}"));
    home.configure(
        "# checkpoints = \"/mnt/witness\"",
        &format!("checkpoints = {notes}"),
    );
    for used in [
        "etc/config.toml",
        "etc/policy.yaml",
        "etc/vault.key",
        "etc/identity.key",
        "etc",
        "etc/vault",
        "etc/vault/vault.redb",
        "etc/audit",
        "hooks",
        "notes",
    ] {
        // What a worker has been given is its own.
        if used != "etc/vault/vault.redb" {
            refused_however(&home, &home.path(used), "belongs to uid");
        }
    }
    // Above all of it.
    chmod(&home.path(""), 0o777);
    refused(
        &home,
        Path::new(home.path("").to_str().unwrap().trim_end_matches('/')),
        "mode 0777",
    );
    chmod(&home.path(""), 0o1777);
    let daemon = home.start();
    assert!(home.path("notes").read_dir().is_ok());
    daemon.stop();
    let note = fs::read_dir(home.path("notes"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    refused_however(&home, &note.path(), "no regular file");
    chmod(&home.path(""), 0o755);
    home.start().stop();
}

/// A policy that others could have written is not put in force.
#[test]
fn a_policy_that_others_can_write_is_not_loaded() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let everybody = POLICY.replace("jarvis-alice", "jarvis-bob");
    home.policy(&everybody);
    chmod(&home.path("etc/policy.yaml"), 0o666);
    let reload = home.ctl(&["policy", "reload"], b"");
    assert!(!reload.status.success(), "{reload:?}");
    assert!(text(&reload.stderr).contains("mode 0666"), "{reload:?}");
    assert_eq!(bob().read(&daemon.file("app/db")), Err(EACCES));
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"v".to_vec()));
    let doctor = home.ctl(&["doctor", "--dir", home.etc().to_str().unwrap()], b"");
    assert!(text(&doctor.stdout).contains("mode 0666"), "{doctor:?}");
    chmod(&home.path("etc/policy.yaml"), 0o644);
    home.ok(&["policy", "reload"], b"");
    assert_eq!(bob().read(&daemon.file("app/db")), Ok(b"v".to_vec()));
    daemon.stop();
}

#[test]
fn nothing_is_made_where_others_have_a_hand_in_it() {
    let home = TestDaemon::new();
    let init = |dir: &Path| home.ctl(&["init", "--dir", dir.to_str().unwrap()], b"");
    let place = home.path("place");
    fs::create_dir(&place).unwrap();
    let refused = |why: &str| {
        for dir in [place.clone(), place.join("below/etc")] {
            let made = init(&dir);
            assert!(!made.status.success());
            assert!(text(&made.stderr).contains(why), "{made:?}");
            assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        }
    };
    chmod(&place, 0o777);
    refused("mode 0777");
    chmod(&place, 0o755);
    chown(&place, Some(bob().uid), None).unwrap();
    refused("belongs to uid");
    chown(&place, Some(0), None).unwrap();
    // A key file of somebody else's.
    let key = home.path("key");
    fs::write(&key, [7; 32]).unwrap();
    chmod(&key, 0o600);
    chown(&key, Some(bob().uid), None).unwrap();
    let made = home.ctl(
        &[
            "init",
            "--dir",
            home.etc().to_str().unwrap(),
            "--key-file",
            key.to_str().unwrap(),
        ],
        b"",
    );
    assert!(text(&made.stderr).contains("belongs to uid"), "{made:?}");
    assert!(init(&place).status.success());
}

/// A worker that was taken over makes names in its directory for the next start.
#[test]
fn what_a_worker_planted_is_not_given_to_it() {
    let home = TestDaemon::new().init(POLICY);
    home.start().stop();
    let worker = user("jarvis");
    let precious = home.path("precious");
    fs::write(&precious, "root's").unwrap();
    chmod(&precious, 0o600);
    let audit = home.path("etc/audit");
    for planted in ["torn-x", "00000009.jsonl"] {
        let planted = audit.join(planted);
        fs::hard_link(&precious, &planted).unwrap();
        refused(&home, Path::new(planted.file_name().unwrap()), "2 names");
        assert_eq!(fs::metadata(&precious).unwrap().uid(), 0);
        fs::remove_file(&planted).unwrap();
    }
    let link = audit.join("torn-y");
    symlink(&precious, &link).unwrap();
    lchown(&link, Some(worker.uid), Some(worker.gid)).unwrap();
    home.start().stop();
    assert_eq!(fs::metadata(&precious).unwrap().uid(), 0);
    // The vault's directory is the worker's, too.
    let vault = home.path("etc/vault/vault.redb");
    assert_eq!(fs::metadata(&vault).unwrap().uid(), worker.uid);
    fs::remove_file(&vault).unwrap();
    fs::hard_link(&precious, &vault).unwrap();
    refused(&home, &vault, "2 names");
    assert_eq!(fs::metadata(&precious).unwrap().uid(), 0);
}

/// A socket of somebody else in the holder's place gets no device.
#[test]
fn only_root_is_taken_for_a_holder() {
    let home = TestDaemon::new().init(POLICY);
    let place = home.path("place");
    fs::create_dir(&place).unwrap();
    chown(&place, Some(bob().uid), None).unwrap();
    let socket = place.join("holder");
    let listener = bob().act(|| {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen};
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None);
        let listener = listener.unwrap();
        bind(&listener, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
        listen(&listener, 4).unwrap();
        listener
    });
    let mut command = home.daemon();
    command.arg("--holder").arg(&socket);
    let error = home.try_start(command, b"").err().unwrap();
    let why = format!("uid {} listens there", bob().uid);
    assert!(error.contains(&why), "{error}");
    drop(listener);
}

#[test]
fn worker_and_runner_are_two_users_and_none_of_them_root() {
    let home = TestDaemon::new().init(POLICY);
    let set = |line: &str, default: &str| home.configure(line, default);
    for (key, default, other, why) in [
        ("user", "jarvis", "jarvis-runner", "are both uid"),
        ("user", "jarvis", "root", "user is root"),
        ("runner_user", "jarvis-runner", "jarvis", "are both uid"),
        (
            "runner_user",
            "jarvis-runner",
            "root",
            "runner_user is root",
        ),
    ] {
        let (default, other) = (
            format!("\n# {key} = \"{default}\""),
            format!("\n{key} = \"{other}\""),
        );
        set(&default, &other);
        let error = home.try_start(home.daemon(), b"").err().unwrap();
        assert!(error.contains(why), "{error}");
        let doctor = home.ctl(&["doctor", "--dir", home.etc().to_str().unwrap()], b"");
        assert!(text(&doctor.stdout).contains(why), "{doctor:?}");
        set(&other, &default);
    }
    home.start().stop();
}

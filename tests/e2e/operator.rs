//! What operators are told, and do: by the daemon that runs, and never by another.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::*;

#[test]
fn the_running_daemon_tells_where_it_keeps_what_it_has() {
    let home = TestDaemon::new().init(POLICY);
    let (daemon, address) = home.start_http();
    daemon.set("app/db", b"v");
    let places = home.ok(&["status"], b"")["places"].clone();
    assert_eq!(places["config"], json!(home.path("etc/config.toml")));
    assert_eq!(places["audit"], json!(home.path("etc/audit")));
    assert_eq!(places["http"], json!(address.to_string()));
    let verified = home.ok(&["audit", "verify"], b"");
    assert_eq!(verified["host"], places["host"]);
    assert!(home.ok(&["audit", "tail"], b"").as_array().unwrap().len() > 1);
    assert_eq!(home.ok(&["health"], b"")["secrets_count"], json!(1));
    let doctor = home.ctl(&["doctor"], b"");
    let said = text(&doctor.stdout);
    assert!(said.contains(home.etc().to_str().unwrap()), "{said}");
    assert!(said.contains(&format!("{address}: ready")), "{said}");
}

#[test]
fn a_log_of_another_host_is_not_taken_for_the_daemons() {
    let other = TestDaemon::new().init(POLICY);
    other.start().stop();
    let home = TestDaemon::new().init(POLICY);
    let _daemon = home.start();
    let (etc, log, identity) = (
        other.etc(),
        other.path("etc/audit"),
        other.path("etc/identity.pub"),
    );
    let host = |arguments: &[&str]| {
        home.ok(&[&["audit", "verify"], arguments].concat(), b"")["host"].clone()
    };
    assert_eq!(host(&[]), home.ok(&["status"], b"")["places"]["host"]);
    assert_ne!(host(&[]), host(&["--dir", etc.to_str().unwrap()]));
    // One that was brought here is named as such.
    let copy = [
        "--log",
        log.to_str().unwrap(),
        "--identity",
        identity.to_str().unwrap(),
    ];
    home.ok(&[&["audit", "verify"], &copy[..]].concat(), b"");
    home.ok(&[&["audit", "verify"], &copy[..2]].concat(), b"");
}

#[test]
fn without_a_daemon_its_directory_is_to_be_named() {
    let home = TestDaemon::new().init(POLICY);
    home.start().stop();
    for arguments in [["audit", "verify"], ["audit", "tail"]] {
        let output = home.ctl(&arguments, b"");
        assert_eq!(output.status.code(), Some(5), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.contains("--dir"), "{said}");
        home.ok(
            &[&arguments[..], &["--dir", home.etc().to_str().unwrap()]].concat(),
            b"",
        );
    }
    let health = home.ctl(&["health"], b"");
    assert_eq!(health.status.code(), Some(5));
    assert!(text(&health.stderr).contains("--url"));
}

#[test]
fn a_value_is_stored_as_it_was_meant() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let stored = |options: &[&str], value: &[u8]| {
        let output = home.ctl(&[&["set", "app/db"], options].concat(), value);
        let code = output.status.code().unwrap();
        (
            code,
            text(&output.stderr),
            fs::read(daemon.file("app/db")).ok(),
        )
    };
    let (code, said, value) = stored(&[], b"");
    assert_eq!((code, value), (2, None));
    assert!(said.contains("--allow-empty"), "{said}");
    let (code, said, value) = stored(&[], b"one\n");
    assert_eq!((code, value), (0, Some(b"one\n".to_vec())));
    assert!(
        said.contains("newline") && said.contains("--trim"),
        "{said}"
    );
    for (option, given, kept) in [
        ("--keep-newline", &b"two\n"[..], &b"two\n"[..]),
        ("--trim", b"three\n", b"three"),
        ("--trim", b"four\r\n", b"four"),
        ("--trim", b"five\r\n\n", b"five\r\n"),
        ("--allow-empty", b"", b""),
    ] {
        let (code, said, value) = stored(&[option], given);
        assert_eq!(
            (code, &*said, value.as_deref()),
            (0, "", Some(kept)),
            "{option}"
        );
    }
}

#[test]
fn a_secret_is_not_generated_over_by_mistake() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"precious");
    let refused = home.ctl(&["generate", "app/db"], b"");
    assert_eq!(refused.status.code(), Some(7));
    let said = text(&refused.stderr);
    assert!(
        said.contains("rotate") && said.contains("--force"),
        "{said}"
    );
    assert_eq!(fs::read(daemon.file("app/db")).unwrap(), b"precious");
    home.ok(&["generate", "app/db", "--force"], b"");
    assert_ne!(fs::read(daemon.file("app/db")).unwrap(), b"precious");
    let pruned = home.ctl(&["prune", "app/db", "--keep", "1"], b"");
    let said = text(&pruned.stdout);
    assert!(said.contains("values of 1 versions destroyed"), "{said}");
}

/// jarvisctl at a terminal of its own, with what is typed there.
fn at_terminal(home: &TestDaemon, arguments: &str, typed: &[u8]) -> (Option<i32>, String) {
    let command = format!(
        "{} --mount {} {arguments}",
        jarvisctl().display(),
        home.mount().display()
    );
    let mut script = root().command("script");
    script.args(["-qec", &command, "/dev/null"]);
    let output = run(script, typed);
    (output.status.code(), text(&output.stdout))
}

#[test]
fn a_value_is_typed_twice_and_not_shown() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let (code, shown) = at_terminal(&home, "set app/db", b"hunter2\nhunter3\n");
    assert_eq!(code, Some(2), "{shown}");
    assert!(shown.contains("differ"), "{shown}");
    assert!(File::open(daemon.file("app/db")).is_err());
    let (code, shown) = at_terminal(&home, "set app/db", b"hunter2\nhunter2\n");
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(fs::read(daemon.file("app/db")).unwrap(), b"hunter2");
    // On a terminal the prompt stands in a line of its own; elsewhere nothing is added.
    let (_, shown) = at_terminal(&home, "get app/db", b"");
    assert_eq!(shown, "hunter2\r\n");
    assert_eq!(home.ctl(&["get", "app/db"], b"").stdout, b"hunter2");
}

#[test]
fn refusals_say_what_is_wrong_and_what_to_do() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let empty = home.path("empty");
    fs::create_dir(&empty).unwrap();
    let missing = home.path("missing");
    let (empty, missing) = (empty.to_str().unwrap(), missing.to_str().unwrap());
    for (arguments, code, words) in [
        (
            &["purge", "app/db"][..],
            7,
            &["not deleted", "delete it first"][..],
        ),
        (
            &["configure", "app/db", "--rotate-days", "9"],
            1,
            &["opaque", "schedule"],
        ),
        (
            &[
                "policy", "explain", "app/db", "--user", "root", "--verb", "foo",
            ],
            2,
            &["\"foo\"", "emergency"],
        ),
        (
            &[
                "revoke",
                "request",
                "app/db",
                "--reason",
                "security-incident",
                "--immediate",
                "--rotate",
            ],
            1,
            &["nothing was revoked", "without --rotate"],
        ),
        (
            &["audit", "verify", "--log", empty, "--dir", empty],
            4,
            &["no audit log in", empty],
        ),
        (
            &["audit", "tail", "--log", empty, "--dir", empty],
            4,
            &["no audit log in"],
        ),
        (&["audit", "verify", "--dir", missing], 4, &[missing]),
    ] {
        let output = home.ctl(arguments, b"");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: {word} not in {said}");
        }
    }
    assert_eq!(fs::read(daemon.file("app/db")).unwrap(), b"v");
    let done = [
        "revoke",
        "request",
        "app/db",
        "--reason",
        "security-incident",
        "--immediate",
    ];
    let said = text(&home.ctl(&done, b"").stdout);
    assert!(said.contains("executed without approval"), "{said}");
}

#[test]
fn a_policy_that_locks_everybody_out_takes_force() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    home.policy("clients:\n  jarvis-alice:\n    allow: [\"app/*\"]\n");
    let refused = home.ctl(&["policy", "reload"], b"");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = text(&refused.stderr);
    assert!(
        said.contains("verb `policy`") && said.contains("--force"),
        "{said}"
    );
    home.ok(&["list"], b"");
    assert_eq!(
        home.ok(&["policy", "reload", "--force"], b"")["clients"],
        json!(1)
    );
    assert_eq!(home.ctl(&["policy", "reload"], b"").status.code(), Some(3));
    // SIGHUP still loads the next one.
    home.policy(POLICY);
    daemon.signal(Signal::HUP);
    daemon.eventually("the policy is loaded", || {
        home.ctl(&["status"], b"").status.success()
    });
}

#[test]
fn init_that_fails_leaves_nothing_that_would_mislead() {
    let home = TestDaemon::new().init(POLICY);
    for lost in ["config.toml", "vault.key"] {
        fs::remove_file(home.etc().join(lost)).unwrap();
    }
    let init = |more: &[&str]| {
        let etc = home.etc();
        home.ctl(
            &[&["init", "--dir", etc.to_str().unwrap()], more].concat(),
            b"",
        )
    };
    let refused = init(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("vault.redb exists already"));
    assert!(!home.path("etc/vault.key").exists());
    let other = TestDaemon::new();
    let etc = other.etc();
    let none = other.ctl(
        &["init", "--passphrase-stdin", "--dir", etc.to_str().unwrap()],
        b"",
    );
    assert_eq!(none.status.code(), Some(2));
    assert!(!etc.exists());
}

/// As systemd-tmpfiles makes them before `init`.
#[test]
fn init_takes_the_directories_that_are_the_workers() {
    let home = TestDaemon::new();
    let worker = user("jarvis");
    fs::create_dir(home.etc()).unwrap();
    fs::set_permissions(home.etc(), Permissions::from_mode(0o700)).unwrap();
    for directory in ["etc/vault", "etc/audit"] {
        let path = home.path(directory);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&path, Some(worker.uid), Some(worker.gid)).unwrap();
    }
    let home = home.init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"v".to_vec()));
}

#[test]
fn a_mount_that_is_served_is_not_taken_away() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let mut unmount = home.daemon();
    unmount.arg("--unmount");
    let refused = run(unmount, b"");
    assert!(!refused.status.success());
    let said = text(&refused.stderr);
    assert!(said.contains("its daemon answers"), "{said}");
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"v".to_vec()));
}

fn found(home: &TestDaemon, arguments: &[&str], what: &str) -> (bool, String) {
    let doctor = home.ctl(&[&["doctor", "--json"], arguments].concat(), b"");
    let rows: Vec<Value> = serde_json::from_slice(&doctor.stdout).unwrap();
    let row = rows.iter().find(|row| row["what"] == what).unwrap();
    (
        row["ok"].as_bool().unwrap(),
        row["finding"].as_str().unwrap().to_owned(),
    )
}

#[test]
fn doctor_looks_at_the_daemon_it_is_asked_about() {
    let other = TestDaemon::new().init(POLICY);
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let (ok, finding) = found(&home, &[], "daemon");
    assert!(ok && finding.contains("serves"), "{finding}");
    // Another directory's configuration names another mount.
    let etc = other.etc();
    let (ok, finding) = found(&home, &["--dir", etc.to_str().unwrap()], "mount point");
    assert!(
        ok && finding.contains(other.mount().to_str().unwrap()),
        "{finding}"
    );
    // Nobody is told to empty a directory because of a typing mistake.
    let elsewhere = home.ctl_at(
        home.path("").as_path(),
        &["doctor", "--dir", "/nonexistent"],
        b"",
    );
    let said = text(&elsewhere.stdout);
    assert!(!said.contains("remove"), "{said}");
    // What is lost is not made anew.
    fs::rename(home.path("etc/identity.key"), home.path("lost")).unwrap();
    let (ok, finding) = found(&home, &[], "files");
    assert!(
        !ok && finding.contains("backup") && !finding.contains("init"),
        "{finding}"
    );
    drop(daemon);
}

//! jarvisctl, command by command.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::*;

#[test]
fn list_shows_each_caller_its_own() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    for name in ["app/db", "app/sub/key", "other"] {
        daemon.set(name, b"v");
    }
    let names = |arguments: &[&str]| -> Vec<String> {
        let rows = home.ok(arguments, b"");
        let name = |row: &Value| row["name"].as_str().unwrap().to_owned();
        rows.as_array().unwrap().iter().map(name).collect()
    };
    assert_eq!(names(&["list"]), ["app/db", "app/sub/key", "other"]);
    assert_eq!(names(&["list", "app/*"]), ["app/db"]);
    assert_eq!(names(&["list", "app/**"]), ["app/db", "app/sub/key"]);
    assert_eq!(home.ctl(&["list", "a//b"], b"").status.code(), Some(2));
    let table = text(&home.ctl_as(&alice(), &["list"], b"").stdout);
    assert!(
        table.contains("app/db") && !table.contains("other"),
        "{table}"
    );
    assert!(
        table.contains("expires_at") && table.contains("current"),
        "{table}"
    );
}

#[test]
fn get_prints_the_value_or_what_is_known_of_it() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let made = daemon.set("app/db", b"\x00raw\xff");
    assert_eq!(
        home.ctl_as(&alice(), &["get", "app/db"], b"").stdout,
        b"\x00raw\xff"
    );
    let encoded = home.ok(&["get", "app/db"], b"");
    assert_eq!(encoded, json!({"name": "app/db", "value_b64": "AHJhd/8="}));
    let meta = home.ok(&["get", "app/db", "--meta"], b"");
    assert_eq!(
        (&meta["kid"], &meta["version"]),
        (&made["kid"], &json!("1"))
    );
    assert_eq!(
        home.ctl_as(&bob(), &["get", "app/db"], b"").status.code(),
        Some(3)
    );
    assert_eq!(
        home.ctl_as(&bob(), &["get", "app/db", "--meta"], b"")
            .status
            .code(),
        Some(3)
    );
    assert_eq!(home.ctl(&["get", "none"], b"").status.code(), Some(4));
    assert_eq!(
        home.ctl(&["get", "../etc/passwd"], b"").status.code(),
        Some(2)
    );
}

/// Where nothing is mounted, files may stand under the same names.
#[test]
fn plain_files_are_no_daemon() {
    let home = TestDaemon::new().init(POLICY);
    let plain = home.mount().join("jarvisctl");
    let secret = home.mount().join("app/db");
    fs::create_dir_all(secret.parent().unwrap()).unwrap();
    fs::write(&plain, b"").unwrap();
    fs::write(&secret, b"no secret").unwrap();
    let requests: [&[&str]; 8] = [
        &["set", "app/db"],
        &["delete", "app/db"],
        &["key", "add", "--passphrase-stdin"],
        &["status"],
        &["get", "app/db"],
        &["get", "app/db", "--meta"],
        &["get", "app/other"],
        &["list"],
    ];
    for request in requests {
        let refused = home.ctl(request, b"hunter2 hunter2\n");
        assert_eq!(refused.status.code(), Some(5), "{request:?} {refused:?}");
        let said = text(&refused.stderr);
        assert!(said.contains("none is mounted there"), "{said}");
        assert!(
            said.contains("start the daemon") && said.contains("--mount"),
            "{said}"
        );
        assert_eq!(refused.stdout, b"", "{request:?}");
    }
    assert_eq!(fs::read(&plain).unwrap(), b"", "nothing was written");
    let wait = home.ctl(&["wait", "--timeout", "0"], b"");
    assert_eq!(wait.status.code(), Some(5));
    // A file that is bound over the control file gets nothing: each thread has a node of its
    // own there, so the kernel takes the mount away when the next one looks.
    fs::remove_dir_all(home.mount()).unwrap();
    let daemon = home.start();
    fs::write(home.path("plain"), b"").unwrap();
    let (from, to) = (home.path("plain"), daemon.file("jarvisctl"));
    let bound = Command::new("mount")
        .arg("--bind")
        .args([&from, &to])
        .status();
    assert!(bound.unwrap().success());
    let asked = home.ctl(&["set", "app/db"], b"v");
    assert_eq!(asked.status.code(), Some(0), "{asked:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = format!(" {} ", to.display());
    assert!(!mounts.contains(&place), "{mounts}");
    assert_eq!(fs::read(from).unwrap(), b"");
    // A bind of the mount is the daemon's.
    let copy = home.path("copy");
    fs::create_dir(&copy).unwrap();
    let bound = Command::new("mount")
        .arg("--bind")
        .args([&home.mount(), &copy])
        .status();
    assert!(bound.unwrap().success());
    let read = home.ctl_at(&copy, &["get", "app/db"], b"");
    let unbound = Command::new("umount").arg(&copy).status();
    assert!(unbound.unwrap().success());
    assert_eq!(read.stdout, b"v", "{read:?}");
}

#[test]
fn set_takes_a_file() {
    let home = TestDaemon::new().init(POLICY);
    let _daemon = home.start();
    fs::write(home.path("value"), b"from a file").unwrap();
    let file = home.path("value");
    home.ok(
        &["set", "app/db", "--from-file", file.to_str().unwrap()],
        b"ignored",
    );
    assert_eq!(home.ctl(&["get", "app/db"], b"").stdout, b"from a file");
    let missing = home.ctl(&["set", "app/db", "--from-file", "/none"], b"");
    assert_eq!(missing.status.code(), Some(4));
}

#[test]
fn policies_are_checked_and_explained() {
    let home = TestDaemon::new().init(POLICY);
    let _daemon = home.start();
    let file = home.path("etc/policy.yaml");
    assert_eq!(
        home.ok(&["policy", "check", file.to_str().unwrap()], b"")["clients"],
        2
    );
    fs::write(home.path("bad.yaml"), "clients:\n  x: {allwo: [a]}\n").unwrap();
    let bad = home.ctl(
        &["policy", "check", home.path("bad.yaml").to_str().unwrap()],
        b"",
    );
    assert_eq!(bad.status.code(), Some(2));
    assert!(text(&bad.stderr).contains("line 2, column 7"), "{bad:?}");

    let explain = |user: &str, name: &str| {
        let answer = home.ok(&["policy", "explain", "--user", user, name], b"");
        (
            answer["allowed"].as_bool().unwrap(),
            answer["rule"].as_str().unwrap().to_owned(),
        )
    };
    assert_eq!(
        explain("jarvis-alice", "app/db"),
        (true, "jarvis-alice allow \"app/**\"".into())
    );
    assert_eq!(
        explain("jarvis-alice", "app/forbidden"),
        (false, "jarvis-alice deny \"app/forbidden\"".into())
    );
    assert_eq!(
        explain("jarvis-bob", "app/db"),
        (false, "default deny".into())
    );
    let nobody = home.ctl(&["policy", "explain", "--user", "no-such-user", "a"], b"");
    assert_eq!(nobody.status.code(), Some(4));
}

#[test]
fn groups_of_a_login_are_explained() {
    let home = TestDaemon::new().init(
        "clients:\n  admin: {match: {uid: 0}, allow: ['*'], verbs: ['*']}\n  \
         ops: {match: {group: jarvis-ops}, allow: [a]}\n",
    );
    let _daemon = home.start();
    let answer = home.ok(&["policy", "explain", "--user", "jarvis-carol", "a"], b"");
    assert_eq!(answer["allowed"], true);
}

#[test]
fn the_audit_tail_shows_the_last_records() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    alice().read(&daemon.file("app/db")).unwrap();
    let etc = home.etc();
    let tail = ["audit", "tail", "-n", "2", "--dir", etc.to_str().unwrap()];
    let records = home.ok(&tail, b"");
    let actions: Vec<_> = records
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["action"])
        .collect();
    assert_eq!(actions, ["create", "read"]);
    let table = text(&home.ctl(&tail, b"").stdout);
    assert!(
        table.contains("app/db") && table.contains("jarvis-alice"),
        "{table}"
    );
    let verified = home.ok(&["audit", "verify", "--dir", etc.to_str().unwrap()], b"");
    assert_eq!(
        (&verified["records"], &verified["stopped"]),
        (&json!(home.all_records().len()), &json!(false))
    );
}

#[test]
fn the_audit_log_answers_questions() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    for name in ["app/a", "app/b", "app/never"] {
        daemon.set(name, b"v");
    }
    for (user, name) in [(alice(), "app/a"), (alice(), "app/b"), (bob(), "app/a")] {
        user.read(&daemon.file(name)).ok();
    }
    let dir = ["--dir", home.etc().to_str().unwrap()].map(str::to_owned);
    let ask = |arguments: &[&str]| {
        let dir = dir.each_ref().map(String::as_str);
        home.ok(&[&["audit"], arguments, &dir[..]].concat(), b"")
    };
    let seen = |arguments: &[&str]| {
        let found = ask(&[&["query"], arguments].concat());
        let text = |r: &Value, key: &str| r[key].as_str().unwrap_or("-").to_owned();
        let rows = found.as_array().unwrap().iter();
        rows.map(|r| format!("{} {}", text(r, "action"), text(r, "name")))
            .collect::<Vec<_>>()
    };
    assert_eq!(seen(&["--action", "read"]), ["read app/a", "read app/b"]);
    assert_eq!(seen(&["--failed"]), ["deny app/a"]);
    assert_eq!(
        seen(&["--result", "denied", "--actor", "jarvis-bob"]),
        ["deny app/a"]
    );
    assert_eq!(seen(&["--name", "*/b"]), ["create app/b", "read app/b"]);
    assert_eq!(seen(&["--name", "app/*", "-n", "1"]), ["deny app/a"]);
    let alices = alice().uid.to_string();
    assert_eq!(
        seen(&["--actor", &alices, "--since", "2020-01-01"]).len(),
        2
    );
    assert!(seen(&["--until", "2020-01-01T00:00:00Z"]).is_empty());

    let by = ask(&["summary", "--by", "secret", "--action", "read"]);
    assert_eq!(by[0], json!({"key": "app/a", "count": 1}));
    let last = ask(&["last-read", "app/b"]);
    assert_eq!(
        (&last[0]["name"], &last[0]["uid"]),
        (&json!("app/b"), &json!(alice().uid))
    );
    let unused = ask(&["unused", "--days", "1"]);
    assert_eq!(unused, json!([{"name": "app/never", "last_read": null}]));
    assert_eq!(ask(&["unused", "--days", "0"]).as_array().unwrap().len(), 3);

    let proof = home.ctl(&["audit", "receipt", "3", "--dir", &dir[1]], b"");
    fs::write(home.path("receipt"), &proof.stdout).unwrap();
    let file = home.path("receipt");
    let check = ["receipt", "--check", file.to_str().unwrap()];
    assert_eq!(ask(&check)["seq"], json!(3));
    let forged = text(&proof.stdout).replace("app/b", "app/x");
    fs::write(&file, forged).unwrap();
    let refused = home.ctl(&[&["audit"], &check[..], &["--dir", &dir[1]]].concat(), b"");
    assert_eq!(refused.status.code(), Some(6), "{refused:?}");
    let none = home.ctl(&["audit", "receipt", "9999", "--dir", &dir[1]], b"");
    assert_eq!(none.status.code(), Some(4));

    let csv = home.ctl(
        &["audit", "query", "--csv", "--failed", "--dir", &dir[1]],
        b"",
    );
    let csv = text(&csv.stdout);
    let mut lines = csv.lines();
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("seq,time,action,result,name")
    );
    assert!(
        lines.next().unwrap().contains(",deny,denied,app/a,"),
        "{csv}"
    );
    for wrong in [
        ["--action", "fly"],
        ["--since", "soon"],
        ["--actor", "nobody-there"],
    ] {
        let refused = home.ctl(
            &[&["audit", "query", "--dir", &dir[1]], &wrong[..]].concat(),
            b"",
        );
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn key_slots_are_managed_through_the_daemon() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let kinds = || -> Vec<String> {
        let slots = home.ok(&["key", "list"], b"");
        let kind = |slot: &Value| slot["kind"].as_str().unwrap().to_owned();
        slots.as_array().unwrap().iter().map(kind).collect()
    };
    assert_eq!(kinds(), ["key file"]);
    assert_eq!(
        home.ctl(&["key", "remove", "0"], b"").status.code(),
        Some(1),
        "the last one"
    );
    home.ok(&["key", "add", "--passphrase-stdin"], b"correct horse\n");
    assert_eq!(kinds(), ["key file", "passphrase"]);
    let used = home.ctl(&["key", "remove", "0"], b"");
    assert!(text(&used.stderr).contains("unlocked with"), "{used:?}");
    // The next worker, which has the root key from this one, knows it as well.
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    assert_eq!(
        home.ctl(&["key", "remove", "0"], b"").status.code(),
        used.status.code()
    );
    assert_eq!(kinds(), ["key file", "passphrase"]);
    assert_eq!(
        home.ctl(&["key", "remove", "5"], b"").status.code(),
        Some(4)
    );
    assert_eq!(home.ctl(&["key", "add"], b"").status.code(), Some(2));
    assert_eq!(
        home.ctl_as(&alice(), &["key", "list"], b"").status.code(),
        Some(3)
    );
    daemon.stop();
    let mut command = home.daemon();
    command.arg("--passphrase-stdin");
    let daemon = home.start_command(command, b"correct horse\n");
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"v".to_vec()));
    home.ok(&["key", "remove", "0"], b"");
    daemon.stop();
    let error = home.try_start(home.daemon(), b"").err().unwrap();
    assert!(error.contains("no key slot for a key file"), "{error}");
    let notes: Vec<_> = home
        .records_with(&[("action", json!("key"))])
        .iter()
        .map(|r| r["reason"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(notes, ["slot 1 added", "slot 0 removed"]);
}

#[test]
fn health_and_metrics_come_over_http() {
    let home = TestDaemon::new().init(POLICY);
    let (daemon, address) = home.start_http();
    let url = format!("http://{address}");
    daemon.set("app/db", b"v");
    alice().read(&daemon.file("app/db")).unwrap();
    bob().read(&daemon.file("app/db")).unwrap_err();
    let health = home.ok(&["health", "--url", &url], b"");
    assert_eq!(
        (&health["status"], &health["secrets_count"]),
        (&json!("ok"), &json!(1))
    );
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert!(health["uptime_secs"].is_u64());
    let metrics = text(&home.ctl(&["metrics", "--url", &url], b"").stdout);
    for line in [
        "jarvis_secrets 1",
        "jarvis_secrets_created_total 1",
        "jarvis_secrets_retrieved_total 1",
        "jarvis_policy_decisions_total{result=\"denied\"} 1",
    ] {
        assert!(
            metrics.lines().any(|l| l == line),
            "{line} not in {metrics}"
        );
    }
    assert!(!metrics.contains("app/db"), "no names in metrics");
    // A consumer that keeps a handle over a rotation.
    let held = File::open(daemon.file("app/db")).unwrap();
    let stale = || home.ok(&["metrics", "--url", &url], b"")["jarvis_stale_handles"].clone();
    assert_eq!(stale(), json!(0.0));
    daemon.set("app/db", b"w");
    assert_eq!(stale(), json!(1.0));
    drop(held);
    daemon.eventually("no stale handle", || stale() == json!(0.0));
    let gone = home.ctl(&["health", "--url", "http://127.0.0.1:1"], b"");
    assert_eq!(gone.status.code(), Some(5));
}

#[test]
fn wait_ends_when_the_daemon_serves() {
    let home = TestDaemon::new().init(POLICY);
    let late = home.ctl(&["wait", "--timeout", "0"], b"");
    assert_eq!(late.status.code(), Some(5));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| home.ctl(&["wait", "--timeout", "25"], b""));
        let _daemon = home.start();
        assert!(waiting.join().unwrap().status.success());
        assert_eq!(home.ok(&["wait"], b""), json!({"mount": home.mount()}));
    });
}

#[test]
fn doctor_tells_what_an_older_kernel_lacks() {
    let home = TestDaemon::new();
    let doctor = text(&home.ctl(&["doctor"], b"").stdout);
    for since in [(6, 12), (6, 13), (6, 15)] {
        let told = doctor.contains(&format!("before Linux {}.{}: ", since.0, since.1));
        assert_eq!(told, kernel() < since, "{since:?}: {doctor}");
    }
}

#[test]
fn doctor_finds_what_is_wrong() {
    let home = TestDaemon::new().init(POLICY);
    let doctor = || {
        let etc = home.etc();
        let output = home.ctl(&["doctor", "--json", "--dir", etc.to_str().unwrap()], b"");
        let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
        let bad = findings
            .as_array()
            .unwrap()
            .iter()
            .filter(|f| f["ok"] == false);
        let bad: Vec<String> = bad
            .map(|f| f["what"].as_str().unwrap().to_owned())
            .collect();
        (output.status.code(), bad)
    };
    assert_eq!(doctor(), (Some(0), vec![]));
    home.policy("clients: 7");
    assert_eq!(doctor(), (Some(1), vec!["configuration".into()]));
    home.policy(POLICY);
    fs::set_permissions(
        home.path("etc/identity.key"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    assert_eq!(doctor(), (Some(1), vec!["files".into()]));
    fs::set_permissions(
        home.path("etc/identity.key"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    home.start().kill();
    assert_eq!(doctor(), (Some(1), vec!["mount point".into()]));
}

#[test]
fn completions_are_scripts() {
    let home = TestDaemon::new();
    let script = home.ctl(&["completions", "bash"], b"");
    assert!(script.status.success());
    fs::write(home.path("script"), &script.stdout).unwrap();
    let syntax = Command::new("bash")
        .arg("-n")
        .arg(home.path("script"))
        .status();
    assert!(syntax.unwrap().success());
    assert!(text(&script.stdout).contains("explain"));
}

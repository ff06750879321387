//! The control file.

use std::io::Write;
use std::os::unix::fs::FileExt;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::*;

fn code(answer: &Value) -> &str {
    answer["error"]["code"].as_str().unwrap_or_default()
}

#[test]
fn requests_answer_on_their_own_handle() {
    let home = TestDaemon::new().init(POLICY);
    let _daemon = home.start();
    let mut first = Control::open(&home.mount()).unwrap();
    let mut second = Control::open(&home.mount()).unwrap();
    let (written, answer) = first.ask(r#"{"op":"set","name":"a","value":"one"}"#);
    assert_eq!(written, Ok(37));
    assert_eq!(
        (&answer["ok"], &answer["result"]["action"]),
        (&json!(true), &json!("create"))
    );
    let (refused, answer) = second.ask("rotate nope");
    assert_eq!(refused, Err(ENOENT));
    assert_eq!((&answer["ok"], code(&answer)), (&json!(false), "not_found"));
    // The next request on the same handle starts afresh.
    let (again, answer) = second.ask("set a \"two\"\n");
    assert_eq!(again, Ok(12));
    assert_eq!(answer["result"]["version"], 2);
    assert_eq!(root().read(&home.mount().join("a")), Ok(b"two".to_vec()));
}

#[test]
fn a_shell_gets_errno() {
    let home = TestDaemon::new().init(POLICY);
    let _daemon = home.start();
    let sh = |user: User, script: &str| {
        let mut command = user.command("bash");
        command.args(["-c", script]).current_dir(home.mount());
        run(command, b"")
    };
    assert!(
        sh(root(), "echo 'set db/pw \"hunter2\"' > jarvisctl")
            .status
            .success()
    );
    assert_eq!(sh(root(), "cat db/pw").stdout, b"hunter2");
    assert!(
        sh(root(), "echo 'set db/pw \"hunter3\"' >> jarvisctl")
            .status
            .success()
    );
    assert_eq!(sh(root(), "cat db/pw").stdout, b"hunter3");
    let missing = sh(root(), "echo 'rotate nope' > jarvisctl");
    assert!(!missing.status.success() && text(&missing.stderr).contains("No such file"));
    let stranger = sh(bob(), "echo 'set db/pw \"mine\"' > jarvisctl");
    assert!(
        text(&stranger.stderr).contains("Permission denied"),
        "{stranger:?}"
    );
    let denied = home.records_with(&[("action", json!("deny")), ("name", json!("jarvisctl"))]);
    assert_eq!((denied.len(), &denied[0]["uid"]), (1, &json!(bob().uid)));
}

/// A shell writes a line in pieces of 4,096 bytes, and each line by itself.
#[test]
fn no_piece_of_what_a_shell_writes_is_a_request() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let (pem, long) = (
        "-----BEGIN\ndelete app/victim\nset app/x \"y\"\n",
        "v".repeat(9000),
    );
    let sh = |script: &str| {
        let mut command = root().command("bash");
        command.args(["-c", script]).current_dir(home.mount());
        command.env("PEM", pem).env("LONG", &long);
        run(command, b"")
    };
    for script in [
        r#"echo "set app/pem $PEM" > jarvisctl"#,
        r#"echo "set app/pem \"$PEM\"" > jarvisctl"#,
        r#"printf '%s\n' "set app/pem $LONG" 'delete app/victim' > jarvisctl"#,
        r#"printf '%s\n' "set app/pem \"$LONG\"" > jarvisctl"#,
        "{ echo 'status'; echo 'delete app/victim'; } > jarvisctl",
    ] {
        daemon.set("app/victim", b"v");
        let shell = sh(script);
        assert!(!shell.status.success(), "{script}");
        assert!(
            text(&shell.stderr).contains("Invalid argument"),
            "{shell:?}"
        );
        assert_eq!(root().read(&daemon.file("app/victim")), Ok(b"v".to_vec()));
        for name in ["app/pem", "app/x"] {
            assert_eq!(root().read(&daemon.file(name)), Err(ENOENT), "{script}");
        }
    }
    let escaped = r#"echo 'set app/pem "-----BEGIN\n\"x\"\n"' > jarvisctl"#;
    assert!(sh(escaped).status.success());
    let stored = root().read(&daemon.file("app/pem"));
    assert_eq!(stored, Ok(b"-----BEGIN\n\"x\"\n".to_vec()));
    // Not the one that the name without the blank is.
    assert!(!sh("echo 'delete app/pem ' > jarvisctl").status.success());
    assert_eq!(root().read(&daemon.file("app/pem")), stored);
}

#[test]
fn a_handle_for_writing_only_takes_one_request_ever() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let path = home.mount().join("jarvisctl");
    for first in [&b"set a \"1\""[..], b"dance"] {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).open(&path).unwrap();
        let mut write = |request: &[u8]| file.write(request).map_err(|e| errno(&e));
        let answered = write(first);
        assert!(matches!(answered, Ok(7) | Ok(9) | Err(EINVAL)));
        assert_eq!(write(b"set b \"2\""), Err(EINVAL));
        let generation = daemon.workers();
        kill_process(generation.0, Signal::KILL).unwrap();
        daemon.eventually("another serves", || daemon.workers().0 != generation.0);
        assert_eq!(
            write(b"set b \"2\""),
            Err(EINVAL),
            "nor from another worker"
        );
    }
    assert_eq!(root().read(&daemon.file("a")), Ok(b"1".to_vec()));
    assert_eq!(root().read(&daemon.file("b")), Err(ENOENT));
}

#[test]
fn opaque_secrets_are_not_rotated() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("a", b"v");
    let mut control = Control::open(&home.mount()).unwrap();
    let (refused, answer) = control.ask("rotate a");
    assert_eq!((refused, code(&answer)), (Err(95), "no_generator"));
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("`set`"),
        "advice"
    );
    let made = home.ok(&["generate", "p", "--length", "64"], b"");
    let first = root().read(&daemon.file("p")).unwrap();
    let rotated = home.ok(&["rotate", "p"], b"");
    let second = root().read(&daemon.file("p")).unwrap();
    assert!(first.len() == 64 && second.len() == 64 && first != second);
    assert!(made["kid"] != rotated["kid"] && rotated["version"] == 2);
    assert_eq!(home.records_with(&[("action", json!("rotate"))]).len(), 1);
}

#[test]
fn set_can_demand_what_it_replaces() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let set = |kid: &str| home.ctl(&["set", "a", "--if-kid", kid], b"v").status.code();
    assert_eq!(set("a-20200101-000000"), Some(7), "nothing there");
    assert_eq!(set("none"), Some(0));
    assert_eq!(set("none"), Some(7), "there by now");
    let kid = daemon.set("a", b"2")["kid"].as_str().unwrap().to_owned();
    assert_eq!(set(&kid), Some(0));
    assert_eq!(set(&kid), Some(7), "used up");
    let mut control = Control::open(&home.mount()).unwrap();
    let request = json!({"op": "set", "name": "a", "value": "v", "if_kid": kid});
    let (refused, answer) = control.ask(request.to_string());
    assert_eq!((refused, code(&answer)), (Err(116), "conflict"), "ESTALE");
}

#[test]
fn a_batch_happens_whole_or_not() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let mut control = Control::open(&home.mount()).unwrap();
    let good = r#"[{"op":"set","name":"x/a","value":"1"},{"op":"set","name":"x/b","value":"2"}]"#;
    let (_, answer) = control.ask(good);
    assert_eq!(answer["result"].as_array().unwrap().len(), 2);
    let bad = r#"[{"op":"set","name":"x/a","value":"3"},{"op":"delete","name":"x/none"}]"#;
    assert_eq!(control.ask(bad).0, Err(ENOENT));
    assert_eq!(root().read(&daemon.file("x/a")), Ok(b"1".to_vec()));
}

#[test]
fn malformed_requests_say_what_is_wrong() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let mut control = Control::open(&home.mount()).unwrap();
    let name = |n: &str| format!("set {n} \"v\"");
    let deep = format!(r#"{{"op":{}"#, "[".repeat(5000));
    let seventeen = vec!["a"; 17].join("/");
    let cases: Vec<(String, i32, &str)> = vec![
        ("dance".into(), EINVAL, "unknown request"),
        ("{".into(), EINVAL, "ends early at line 1"),
        (deep, EINVAL, "JSON"),
        (r#"{"op":"set","op":"set"}"#.into(), EINVAL, "given twice"),
        (
            r#"{"op":"set","name":"a","colour":1}"#.into(),
            EINVAL,
            "unknown field",
        ),
        (name(".."), EINVAL, "dot"),
        (name(".kid"), EINVAL, "dot"),
        (name("a//b"), EINVAL, "segment 2"),
        (name("a/"), EINVAL, "segment 2"),
        (name("jarvisctl"), EINVAL, "control file"),
        (name("nul\0"), EINVAL, "U+0000"),
        (name(&"n".repeat(256)), 36, "256 bytes"),
        (name(&seventeen), 36, "17 segments"),
        (
            format!("set a \"{}\"", "v".repeat(512 * 1024 + 1)),
            90,
            "524289 bytes",
        ),
    ];
    for (request, errno, message) in cases {
        let shown: String = request.chars().take(60).collect();
        let (refused, answer) = control.ask(&request);
        assert_eq!(refused, Err(errno), "{shown}");
        let said = answer["error"]["message"].as_str().unwrap();
        assert!(said.contains(message), "{shown}: {said}");
    }
    assert_eq!(control.ask(b"set a \xff").0, Err(EINVAL));
    for name in [&"n".repeat(255), &vec!["a"; 16].join("/")] {
        assert!(
            control.ask(format!("set {name} \"v\"")).0.is_ok(),
            "the limits themselves"
        );
    }
    assert_eq!(
        root().read(&daemon.file("a")),
        Err(21),
        "no partial effect: `a` is a directory"
    );
}

/// A write longer than the kernel's piece never counts as a request, whole or
/// in part.
#[test]
fn a_write_in_pieces_is_refused() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let path = home.mount().join("jarvisctl");
    let open = || {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).open(&path).unwrap()
    };
    // Valid in its first part alone, in buffers that start anywhere in a page.
    for len in [
        983_041, 1_044_000, 1_048_000, 1_048_575, 1_048_576, 1_048_577, 2_000_000,
    ] {
        for start in [0, 1, 1000, 4095] {
            let mut buffer = vec![b' '; start + len];
            let request = br#"{"op":"set","name":"a","value":"v"}"#;
            buffer[start..start + request.len()].copy_from_slice(request);
            let refused = open().write(&buffer[start..]).map_err(|e| errno(&e));
            assert_eq!(refused, Err(90), "{len} from {start}");
        }
    }
    let mut longest = br#"{"op":"set","name":"longest","value":"v"}"#.to_vec();
    longest.resize(983_040, b' ');
    assert_eq!(open().write(&longest).unwrap(), 983_040);
    for extra in [0, 1, 4096, 1024 * 1024] {
        let mut file = open();
        let request = format!("set a \"{}\"", "v".repeat(1024 * 1024 - 8 + extra));
        let refused = file.write(request.as_bytes()).map_err(|e| errno(&e));
        assert_eq!(refused, Err(90), "{extra}");
        let at_offset = file
            .write_at(b"set a \"x\"", 1024 * 1024)
            .map_err(|e| errno(&e));
        assert_eq!(at_offset, Err(EINVAL), "the handle had its request");
    }
    assert_eq!(root().read(&daemon.file("a")), Err(ENOENT));
}

#[test]
fn a_control_handle_serves_its_opener_alone() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let mut control = Control::open(&home.mount()).unwrap();
    let refused = bob().act(|| {
        let mut options = std::fs::OpenOptions::new();
        let own = options.write(true).open(home.mount().join("jarvisctl"));
        assert_eq!(own.map(drop).map_err(|e| errno(&e)), Err(EACCES));
        // root's descriptor, used by bob.
        control.write(b"set a \"mine\"").map_err(|e| errno(&e))
    });
    assert_eq!(refused, Err(EACCES));
    assert_eq!(root().read(&daemon.file("a")), Err(ENOENT));
    let denied = home.records_with(&[("action", json!("deny")), ("uid", json!(bob().uid))]);
    assert_eq!(denied.len(), 2);
}

#[test]
fn verbs_bound_what_a_manager_may_do() {
    let home = TestDaemon::new().init(
        "clients:\n  admin: {match: {uid: 0}, allow: ['*'], verbs: ['*']}\n  \
         jarvis-carol: {allow: ['app/**'], verbs: [rotate]}\n",
    );
    let _daemon = home.start();
    home.ok(&["generate", "app/p"], b"");
    home.ok(&["generate", "other"], b"");
    let carol = |arguments: &[&str]| home.ctl_as(&carol(), arguments, b"v").status.code();
    assert_eq!(carol(&["rotate", "app/p"]), Some(0));
    assert_eq!(carol(&["rotate", "other"]), Some(3));
    assert_eq!(carol(&["set", "app/p"]), Some(3));
    assert_eq!(carol(&["delete", "app/p"]), Some(3));
    assert_eq!(carol(&["policy", "reload"]), Some(3));
    assert_eq!(carol(&["status"]), Some(0));
    assert_eq!(carol(&["get", "app/p"]), Some(3));
    assert_eq!(carol(&["get", "none"]), Some(4));
    let denied = home.records_with(&[("action", json!("deny"))]);
    let reasons: Vec<_> = denied
        .iter()
        .map(|r| r["reason"].as_str().unwrap())
        .collect();
    assert_eq!(reasons, ["rotate", "write", "write", "policy", "read"]);
}

/// "*" of a client with a subtree is all that can be done with the secrets in it.
#[test]
fn a_manager_of_a_subtree_does_not_manage_the_vault() {
    let home = TestDaemon::new().init(
        "clients:\n  admin: {match: {uid: 0}, allow: ['*'], verbs: ['*']}\n  \
         jarvis-alice: {allow: ['team/**'], verbs: ['*']}\n",
    );
    let daemon = home.start();
    let code = |arguments: &[&str]| home.ctl_as(&alice(), arguments, b"v").status.code();
    assert_eq!(code(&["set", "team/a"]), Some(0));
    assert_eq!(alice().read(&daemon.file("team/a")), Ok(b"v".to_vec()));
    let slots = || home.ok(&["key", "list"], b"").as_array().unwrap().len();
    for request in [
        &["key", "list"][..],
        &["key", "add", "--passphrase-stdin"],
        &["key", "remove", "0"],
        &["policy", "reload"],
        &["audit", "rotate"],
        &["audit", "checkpoint"],
    ] {
        assert_eq!(code(request), Some(3), "{request:?}");
    }
    assert_eq!(slots(), 1);
    let denied = home.records_with(&[("action", json!("deny"))]);
    let reasons: Vec<_> = denied
        .iter()
        .map(|r| r["reason"].as_str().unwrap())
        .collect();
    assert_eq!(reasons, ["key", "key", "key", "policy", "audit", "audit"]);

    // Who writes it down is told, and the old policy stays.
    let narrow = "clients:\n  admin: {match: {uid: 0}, allow: ['*'], verbs: ['*']}\n  \
                  jarvis-alice:\n    allow: ['team/**']\n    verbs: [read, key]\n";
    home.policy(narrow);
    let refused = home.ctl(&["policy", "reload"], b"");
    let why = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{why}");
    assert!(why.contains("line 5, column 19"), "{why}");
    assert!(why.contains("`key` is about the whole vault"), "{why}");
    assert_eq!(code(&["set", "team/a"]), Some(0), "still in force");
}

/// What a change writes along with the secret that was asked for is asked for, too.
#[test]
fn every_name_of_a_change_is_authorised() {
    let home = TestDaemon::new().init(
        "clients:\n  admin: {match: {uid: 0}, allow: ['*'], verbs: ['*']}\n  \
         jarvis-bob: {allow: [bob/one], verbs: [read, write, rotate]}\n  \
         jarvis-carol: {allow: [bob/one, bob/one.pub], verbs: [read, rotate]}\n",
    );
    let daemon = home.start();
    let ask = |user: &User, arguments: &[&str]| home.ctl_as(user, arguments, b"").status.code();
    let pair = ["generate", "bob/one", "--type", "ed25519"];
    let public = || root().read(&daemon.file("bob/one.pub"));
    assert_eq!(ask(&bob(), &pair), Some(3));
    assert_eq!(public(), Err(ENOENT), "nothing of the change is made");
    assert_eq!(bob().read(&daemon.file("bob/one")), Err(ENOENT));
    home.ok(&pair, b"");
    let first = public().unwrap();
    assert_eq!(ask(&bob(), &["rotate", "bob/one"]), Some(3));
    assert_eq!(ask(&bob(), &["rollback", "bob/one", "1"]), Some(3));
    let batch = r#"[{"op":"set","name":"bob/one","value":"v","type":"opaque"},
        {"op":"generate","name":"bob/one","type":"ed25519"}]"#;
    let written = bob().act(|| {
        let path = home.mount().join("jarvisctl");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).open(path).unwrap();
        file.write(batch.as_bytes()).map_err(|e| errno(&e))
    });
    assert_eq!(written, Err(EACCES));
    assert_eq!(public().unwrap(), first);
    let denied = home.records_with(&[("action", json!("deny")), ("name", json!("bob/one.pub"))]);
    let reasons: Vec<_> = denied
        .iter()
        .map(|r| (r["uid"].clone(), r["reason"].as_str().unwrap()))
        .collect();
    let by_bob = |verb| (json!(bob().uid), verb);
    assert_eq!(reasons, ["write", "rotate", "rotate", "write"].map(by_bob));
    // A rotation that waits for its hook will write it: that is asked at its beginning.
    home.ok(&["configure", "bob/one", "--hook", "later"], b"");
    assert_eq!(ask(&bob(), &["rotate", "bob/one"]), Some(3));
    let pending = || home.ok(&["versions", "bob/one"], b"")["pending"].clone();
    assert_eq!(pending(), json!(null), "not even begun");
    home.ok(&["configure", "bob/one", "--hook", "default"], b"");
    assert_eq!(ask(&carol(), &["rotate", "bob/one"]), Some(0));
    assert!(public().unwrap() != first);
}

#[test]
fn the_command_line_reports_an_absent_daemon() {
    let home = TestDaemon::new().init(POLICY);
    std::fs::create_dir(home.mount()).unwrap();
    assert_eq!(home.ctl(&["status"], b"").status.code(), Some(5));
    assert_eq!(home.ctl(&["frobnicate"], b"").status.code(), Some(2));
}

/// Whether a process has `needle` in its memory, that which it shares with others included.
fn has_in_memory(pid: rustix::process::Pid, needle: &str) -> bool {
    let pid = pid.as_raw_nonzero();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut writable = maps.lines().filter(|line| line.contains(" rw"));
    writable.any(|line| {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let at = |hex| u64::from_str_radix(hex, 16).unwrap();
        // Of stretches that are not there nothing is read, nor of secret memory.
        let mut piece = vec![0; 1 << 20];
        (at(start)..at(end))
            .step_by(piece.len() - 4096)
            .any(|from| {
                let len = piece.len().min(usize::try_from(at(end) - from).unwrap());
                let read = memory.read_at(&mut piece[..len], from).unwrap_or(0);
                String::from_utf8_lossy(&piece[..read]).contains(needle)
            })
    })
}

#[test]
fn a_request_is_wiped_once_it_is_answered() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"a value that is being held");
    let _held = std::fs::File::open(daemon.file("app/db")).unwrap();
    let (worker, _) = daemon.workers();
    let halves = ["correct horse ", "battery staple"];
    assert!(has_in_memory(worker, "a value that is being held"));
    // Long, so that it would lie in pages that later requests do not overwrite.
    let passphrase = halves.concat().repeat(8);
    let request = json!({"op": "key_add", "passphrase": passphrase});
    let mut control = Control::open(&home.mount()).unwrap();
    let (written, answer) = control.ask(request.to_string());
    assert!(written.is_ok(), "{answer}");
    daemon.eventually("the passphrase is nowhere", || {
        !has_in_memory(worker, &halves.concat())
    });
}

//! No record, no secret.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::*;

#[test]
fn each_checkpoint_goes_to_who_wants_it() {
    use std::os::unix::fs::PermissionsExt;
    let home = TestDaemon::new().init(POLICY);
    let executable = fs::Permissions::from_mode(0o755);
    fs::create_dir(home.path("etc/programs")).unwrap();
    fs::set_permissions(home.path("etc/programs"), executable.clone()).unwrap();
    let out = home.path("out");
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
    let tell = home.path("etc/programs/tell");
    let told = out.join("told");
    fs::write(
        &tell,
        format!("#!/bin/sh\ncat >{0}.new; mv {0}.new {0}\n", told.display()),
    )
    .unwrap();
    fs::set_permissions(&tell, executable).unwrap();
    home.configure(
        "[rotation]",
        "[[notify]]\ncommand = \"programs/tell\"\nevents = [\"checkpoint\"]\n\n[rotation]",
    );
    let (daemon, url) = home.start_http();
    daemon.eventually("it is told", || told.exists());
    let event: Value = serde_json::from_slice(&fs::read(&told).unwrap()).unwrap();
    assert_eq!(event["kind"], "checkpoint");
    let delivered = "jarvis_notifications_total{kind=\"checkpoint\",result=\"delivered\"}";
    daemon.eventually("it is counted", || {
        let metrics = home.ok(&["metrics", "--url", &format!("http://{url}")], b"");
        metrics[delivered]
            .as_f64()
            .is_some_and(|count| count >= 1.0)
    });
    daemon.stop();
    // It is a note that the log is good against.
    let note = home.path("note");
    fs::write(&note, event["checkpoint"].as_str().unwrap()).unwrap();
    let (etc, note) = (home.etc(), note.display().to_string());
    let verified = home.ctl(
        &[
            "audit",
            "verify",
            "--dir",
            etc.to_str().unwrap(),
            "--against",
            &note,
        ],
        b"",
    );
    assert!(verified.status.success(), "{}", text(&verified.stderr));
}

#[test]
fn every_event_is_in_the_verified_log() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"1");
    daemon.set("app/db", b"2");
    home.ok(&["generate", "app/p"], b"");
    home.ok(&["rotate", "app/p"], b"");
    alice().read(&daemon.file("app/db")).unwrap();
    bob().read(&daemon.file("app/db")).unwrap_err();
    home.ok(&["delete", "app/db"], b"");
    home.ok(&["restore", "app/db"], b"");
    home.ok(&["delete", "app/db"], b"");
    home.ok(&["purge", "app/db"], b"");
    home.ok(&["policy", "reload"], b"");
    daemon.stop();
    let actions: Vec<_> = home
        .records()
        .iter()
        .map(|r| r["action"].as_str().unwrap().to_owned())
        .collect();
    let expected = [
        "start", "create", "update", "create", "rotate", "read", "deny", "delete", "restore",
        "delete", "purge", "policy", "stop",
    ];
    assert_eq!(actions, expected);
    let report = home.verify();
    let records = format!("records   {} in", home.all_records().len());
    assert!(
        report.contains(&records) && report.contains("stopped in order"),
        "{report}"
    );
    let read = &home.records_with(&[("action", json!("read"))])[0];
    for (key, value) in [
        ("name", json!("app/db")),
        ("version", json!(2)),
        ("uid", json!(alice().uid)),
        ("pid", json!(std::process::id())),
        ("client", json!("jarvis-alice")),
        ("rule", json!("app/**")),
        ("vault_seq", json!(4)),
    ] {
        assert_eq!(read[key], value, "{key}");
    }
}

#[test]
fn the_verifier_names_the_first_bad_record() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    for n in 0..5 {
        daemon.set("a", &[n]);
    }
    daemon.stop();
    let log = fs::read(home.audit_log()).unwrap();
    let third = log
        .iter()
        .enumerate()
        .filter(|(_, b)| **b == b'\n')
        .nth(2)
        .unwrap()
        .0;
    let file = OpenOptions::new()
        .write(true)
        .open(home.audit_log())
        .unwrap();
    file.write_all_at(b"X", third as u64 + 40).unwrap();
    let output = home.audit_verify();
    assert_eq!(output.status.code(), Some(6));
    assert!(
        text(&output.stderr).contains("record 4 is bad"),
        "{output:?}"
    );
}

#[test]
fn a_restored_vault_is_refused_unless_accepted() {
    let home = TestDaemon::new().init(POLICY);
    let vault = home.path("etc/vault/vault.redb");
    let daemon = home.start();
    daemon.set("a", b"1");
    daemon.stop();
    let copy = fs::read(&vault).unwrap();
    let daemon = home.start();
    daemon.set("a", b"2");
    daemon.stop();
    fs::write(&vault, &copy).unwrap();
    let log = fs::read(home.audit_log()).unwrap();
    let error = home.try_start(home.daemon(), b"").err().unwrap();
    assert!(error.contains("older than its audit log"), "{error}");
    assert!(error.contains("--accept-restored-vault"), "{error}");
    assert!(fs::read(home.audit_log()).unwrap() == log && fs::read(&vault).unwrap() == copy);
    let mut accepting = home.daemon();
    accepting.arg("--accept-restored-vault");
    let daemon = home.start_command(accepting, b"");
    assert_eq!(root().read(&daemon.file("a")), Ok(b"1".to_vec()));
    daemon.stop();
    let starts = home.records_with(&[("action", json!("start"))]);
    assert!(starts[2]["reason"].as_str().unwrap().contains("accepted"));
    home.verify();
}

/// The longest name and rule there can be, every byte of them escaped in JSON.
#[test]
fn the_longest_names_fit_a_record() {
    let segment = "\\\"".repeat(127) + "a";
    let name = [segment.as_str(); 8].join("/");
    let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
    let home = TestDaemon::new().init(&format!(
        "clients:\n  admin: {{match: {{uid: 0}}, allow: [\"{quoted}\"], verbs: ['*']}}\n"
    ));
    let daemon = home.start();
    let mut control = Control::open(&home.mount()).unwrap();
    let (written, answer) =
        control.ask(json!({"op": "set", "name": name, "value": "v"}).to_string());
    assert!(written.is_ok(), "{answer}");
    assert_eq!(root().read(&daemon.file(&name)), Ok(b"v".to_vec()));
    daemon.stop();
    home.verify();
}

/// The supervisor keeps checkpoints where the worker can't reach them; with one
/// a log that lost its end is told from one that did not.
#[test]
fn a_checkpoint_shows_what_the_log_alone_cannot() {
    let home = TestDaemon::new().init(POLICY);
    let witness = home.path("witness");
    fs::create_dir(&witness).unwrap();
    let setting = format!("checkpoints = {:?}", witness.to_str().unwrap());
    home.configure("# checkpoints = \"/mnt/witness\"", &setting);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let note = || {
        let notes = fs::read_dir(&witness).unwrap().map(|e| e.unwrap().path());
        notes
            .into_iter()
            .find(|path| path.extension().is_some_and(|e| e == "checkpoint"))
    };
    daemon.eventually("a first checkpoint", || note().is_some());
    alice().read(&daemon.file("app/db")).unwrap();
    let asked = home.ctl(&["audit", "checkpoint"], b"");
    assert!(
        text(&asked.stdout).starts_with("jarvis-audit-checkpoint v1\n"),
        "{asked:?}"
    );
    fs::write(home.path("asked"), &asked.stdout).unwrap();
    let denied = home.ctl_as(&alice(), &["audit", "checkpoint"], b"");
    assert_eq!(denied.status.code(), Some(3));
    daemon.stop();

    let verify = |against: &Path| {
        let (dir, note) = (home.etc(), against.to_str().unwrap().to_owned());
        let arguments = [
            "audit",
            "verify",
            "--dir",
            dir.to_str().unwrap(),
            "--against",
            &note,
        ];
        home.ctl(&arguments, b"")
    };
    let last = note().unwrap();
    for note in [&last, &home.path("asked")] {
        let verified = verify(note);
        assert!(
            text(&verified.stdout).contains("anchored  the log has"),
            "{verified:?}"
        );
    }
    // Cut off the stop record, of which the last checkpoint tells.
    let log = fs::read_to_string(home.audit_log()).unwrap();
    let cut = log.trim_end().rfind('\n').unwrap() + 1;
    fs::write(home.audit_log(), &log[..cut]).unwrap();
    assert!(
        home.audit_verify().status.success(),
        "the log alone does not tell"
    );
    assert!(verify(&home.path("asked")).status.success());
    let found = verify(&last);
    assert_eq!(found.status.code(), Some(6), "{found:?}");
    assert!(
        text(&found.stderr).contains("ends before the checkpoint"),
        "{found:?}"
    );
    fs::write(home.path("none"), "no note").unwrap();
    assert_eq!(verify(&home.path("none")).status.code(), Some(2));
}

/// `--strict` is for who accepts nothing that the log can't show.
#[test]
fn strict_leaves_no_doubt() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let note = home.ctl(&["audit", "checkpoint"], b"");
    fs::write(home.path("note"), note.stdout).unwrap();
    daemon.stop();
    let (dir, note) = (home.etc(), home.path("note"));
    let strict = |against: &[&str]| {
        let verify = [
            "audit",
            "verify",
            "--strict",
            "--dir",
            dir.to_str().unwrap(),
        ];
        home.ctl(&[&verify, against].concat(), b"")
    };
    let against = ["--against", note.to_str().unwrap()];
    let alone = strict(&[]);
    assert_eq!(alone.status.code(), Some(6), "{alone:?}");
    assert!(
        text(&alone.stderr).contains("no checkpoint vouches for its end"),
        "{alone:?}"
    );
    assert!(text(&alone.stdout).contains("all good"), "{alone:?}");
    assert!(strict(&against).status.success());

    home.start().kill();
    home.start().stop();
    assert!(home.verify().contains(" 1 of them after an unclean end"));
    let crashed = strict(&against);
    assert_eq!(crashed.status.code(), Some(6), "{crashed:?}");
    assert!(
        text(&crashed.stderr).contains("1 start(s) came after an unclean end"),
        "{crashed:?}"
    );
}

/// On a terminal there is a bar while it runs; nowhere else.
#[test]
fn verification_shows_how_far_it_is() {
    let home = TestDaemon::new().init(POLICY);
    home.start().stop();
    let command = |flags: &str| {
        let program = env!("CARGO_BIN_EXE_jarvisctl");
        let dir = home.etc();
        format!("{program} {flags} audit verify --dir {}", dir.display())
    };
    let on_a_terminal = |flags: &str| {
        let mut script = Command::new("timeout");
        script.args(["30", "script", "-qec", &command(flags), "/dev/null"]);
        script.env("TERM", "xterm");
        text(&run(script, b"").stdout)
    };
    let shown = on_a_terminal("");
    assert!(
        shown.contains("[===") && shown.contains("all good"),
        "{shown}"
    );
    assert!(!on_a_terminal("--json").contains("[==="));
    let elsewhere = home.audit_verify();
    assert!(
        elsewhere.status.success() && elsewhere.stderr.is_empty(),
        "{elsewhere:?}"
    );
}

/// A verifier in another language, written from the document alone, agrees.
#[test]
fn an_independent_verifier_agrees() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    alice().read(&daemon.file("app/db")).unwrap();
    bob().read(&daemon.file("app/db")).unwrap_err();
    root().read(&daemon.file("app/db")).unwrap();
    let suspicious = || home.records_with(&[("action", json!("suspicious"))]);
    daemon.eventually("a finding", || suspicious().len() == 1);
    let note = home.ctl(&["audit", "checkpoint"], b"");
    fs::write(home.path("note"), note.stdout).unwrap();
    daemon.stop();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ask = |log: &Path, identity: &Path, note: Option<&Path>| {
        let mut python = Command::new("timeout");
        python
            .args(["30", "python3"])
            .arg(root.join("examples/verify_audit.py"));
        run(
            {
                python.arg(log).arg(identity).args(note);
                python
            },
            b"",
        )
    };
    let (log, identity) = (home.path("etc/audit"), home.path("etc/identity.pub"));
    let head = home.ok(
        &["audit", "verify", "--dir", home.etc().to_str().unwrap()],
        b"",
    )["head"]
        .as_str()
        .unwrap()
        .to_owned();
    for note in [None, Some(home.path("note"))] {
        let said = ask(&log, &identity, note.as_deref());
        assert!(text(&said.stdout).contains(&head), "{said:?}");
        assert_eq!(text(&said.stdout).contains("anchored by"), note.is_some());
    }
    let vectors = root.join("audit/tests/vectors");
    let frozen = ask(
        &vectors.join("log-v2"),
        &vectors.join("log-v2-identity.pub"),
        None,
    );
    let head = fs::read_to_string(vectors.join("log-v2-head")).unwrap();
    assert!(text(&frozen.stdout).contains(head.trim()), "{frozen:?}");
    let pruned = ask(
        &vectors.join("log-segments"),
        &vectors.join("log-v2-identity.pub"),
        Some(&vectors.join("log-segments.checkpoint")),
    );
    assert!(text(&pruned.stdout).contains("anchored by"), "{pruned:?}");

    let whole = fs::read(home.audit_log()).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 20) {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        fs::write(home.audit_log(), bytes).unwrap();
        let record = whole[..at].iter().filter(|&&b| b == b'\n').count() + 1;
        let found = ask(&log, &identity, None);
        assert_eq!(found.status.code(), Some(6), "byte {at}");
        // A record without a signature may be found by the next one, which does not follow it.
        let blamed = [record, record + 1].map(|record| format!("record {record} is bad"));
        for said in [found, home.audit_verify()] {
            let said = text(&said.stderr);
            assert!(
                blamed.iter().any(|blamed| said.contains(blamed)),
                "byte {at}: {said}"
            );
        }
    }
    let lines: Vec<_> = whole.split_inclusive(|&b| b == b'\n').collect();
    fs::write(home.audit_log(), lines[..2].concat()).unwrap();
    let cut = ask(&log, &identity, Some(&home.path("note")));
    assert_eq!(cut.status.code(), Some(6), "{cut:?}");
}

//! Versions, settings and revocations, through the mount and the CLI.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::*;

const EXPIRED: i32 = 127;

/// Alice asks, carol (by her group) agrees.
const PERSONS: &str = r#"
clients:
  admin:
    match: {uid: 0}
    allow: ["*"]
    verbs: ["*"]
  jarvis-alice:
    allow: ["app/**"]
    verbs: [read, list, rotate, revoke, approve]
  jarvis-bob:
    allow: ["app/**"]
    verbs: [read, approve]
"#;

fn versions(home: &Home, name: &str) -> Vec<Value> {
    home.ok(&["versions", name], b"")["versions"]
        .as_array()
        .unwrap()
        .clone()
}

fn kids(home: &Home, name: &str) -> Vec<String> {
    let versions = versions(home, name);
    let kids = versions
        .iter()
        .map(|v| v["kid"].as_str().unwrap().to_owned());
    kids.collect()
}

fn states(home: &Home, name: &str) -> Vec<String> {
    let versions = versions(home, name);
    let states = versions
        .iter()
        .map(|v| v["state"].as_str().unwrap().to_owned());
    states.collect()
}

fn by_kid(home: &Home, name: &str, kid: &str) -> PathBuf {
    home.mount().join(".kid").join(name).join(kid)
}

#[test]
fn versions_in_grace_are_read_by_their_key_ids() {
    let home = Home::new().init(POLICY);
    let daemon = home.start();
    for value in [b"one", b"two"] {
        daemon.set("app/db", value);
    }
    let kids = kids(&home, "app/db");
    assert_eq!(states(&home, "app/db"), ["grace", "current"]);
    let old = by_kid(&home, "app/db", &kids[0]);
    assert_eq!(alice().read(&old), Ok(b"one".to_vec()));
    assert_eq!(
        alice().read(&by_kid(&home, "app/db", &kids[1])),
        Ok(b"two".to_vec())
    );
    assert_eq!(bob().read(&old), Err(EACCES));
    assert_eq!(alice().read(&by_kid(&home, "app/db", "db-0")), Err(ENOENT));
    let read = &home.records_with(&[("action", json!("read")), ("version", json!(1))])[0];
    assert_eq!(
        (&read["name"], &read["kid"]),
        (&json!("app/db"), &json!(kids[0]))
    );

    let list = |user: &User, path: &str| {
        let path = home.mount().join(path);
        user.act(|| {
            let names = fs::read_dir(&path).unwrap();
            let mut names: Vec<_> = names.map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        })
    };
    assert!(
        !list(&alice(), "").iter().any(|name| name == ".kid"),
        "it is not listed"
    );
    assert_eq!(list(&alice(), ".kid"), ["app"]);
    assert_eq!(list(&alice(), ".kid/app"), ["db"]);
    assert_eq!(list(&alice(), ".kid/app/db"), [&*kids[0], &*kids[1]]);
    assert!(list(&bob(), ".kid").is_empty() && list(&bob(), ".kid/app/db").is_empty());
    let metadata = alice().act(|| fs::metadata(&old).unwrap());
    assert_eq!(metadata.len(), 3);
    assert!(alice().act(|| File::create(&old)).is_err());

    // An open handle keeps it when the grace is over.
    let mut held = alice().act(|| File::open(&old).unwrap());
    home.ok(&["deprecate", "app/db", "1"], b"");
    assert_eq!(states(&home, "app/db"), ["deprecated", "current"]);
    assert_eq!(alice().read(&old), Err(ENOENT));
    assert_eq!(list(&alice(), ".kid/app/db"), [&*kids[1]]);
    let mut value = Vec::new();
    held.read_to_end(&mut value).unwrap();
    assert_eq!(value, b"one");
    daemon.stop();
    home.verify();
}

#[test]
fn grace_can_be_none_for_a_secret() {
    let home = Home::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"one");
    home.ok(
        &[
            "configure",
            "app/db",
            "--grace-days",
            "0",
            "--keep-versions",
            "2",
        ],
        b"",
    );
    daemon.set("app/db", b"two");
    assert_eq!(states(&home, "app/db"), ["retired", "current"]);
    let old = by_kid(&home, "app/db", &kids(&home, "app/db")[0]);
    assert_eq!(alice().read(&old), Err(ENOENT));
    daemon.set("app/db", b"three");
    assert_eq!(states(&home, "app/db"), ["destroyed", "retired", "current"]);
    let settings = home.ok(&["configure", "app/db"], b"");
    assert_eq!(
        (&settings["grace_days"], &settings["keep_versions"]),
        (&json!(0), &json!(2))
    );
    home.ok(&["configure", "app/db", "--grace-days", "default"], b"");
    assert_eq!(states(&home, "app/db"), ["destroyed", "grace", "current"]);
    let bad = home.ctl(&["configure", "app/db", "--windows", "never"], b"");
    assert_eq!(bad.status.code(), Some(2), "{bad:?}");
    assert!(text(&bad.stderr).contains("is no window"), "{bad:?}");
}

#[test]
fn a_rollback_brings_an_old_value_back_as_a_new_version() {
    let home = Home::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"good");
    daemon.set("app/db", b"bad");
    home.ok(&["rollback", "app/db", "1", "--reason", "bad was bad"], b"");
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"good".to_vec()));
    let all = versions(&home, "app/db");
    assert_eq!(all[2]["reason"], "rollback to version 1: bad was bad");
    assert_eq!(
        (&all[2]["by_uid"], &all[2]["state"]),
        (&json!(0), &json!("current"))
    );
    let missing = home.ctl(&["rollback", "app/db", "9"], b"");
    assert_eq!(missing.status.code(), Some(4), "{missing:?}");
    home.ok(&["prune", "app/db", "--keep", "1"], b"");
    assert_eq!(
        states(&home, "app/db"),
        ["destroyed", "destroyed", "current"]
    );
    let gone = home.ctl(&["rollback", "app/db", "1"], b"");
    assert!(
        text(&gone.stderr).contains("version 1 of `app/db` is destroyed"),
        "{gone:?}"
    );
}

#[test]
fn versions_are_compared_without_being_shown() {
    let home = Home::new().init(PERSONS);
    let daemon = home.start();
    daemon.set("app/j", br#"{"a":1,"b":"hunter2","c":[1]}"#);
    daemon.set("app/j", br#"{"b":"hunter3","c":[1],"d":true}"#);
    daemon.set("app/j", br#"{"b":"hunter3","c":[1],"d":true}"#);
    let diff = |from: &str, to: &str| home.ok(&["diff", "app/j", from, to], b"");
    let found = diff("1", "2");
    assert_eq!(found["equal"], false);
    let keys = json!({"added": ["d"], "removed": ["a"], "changed": ["b"]});
    assert_eq!(found["json_keys"], keys);
    assert_eq!(found["length_class"][0], "up to 32 bytes");
    assert_eq!(diff("2", "3")["equal"], true);
    assert!(!found.to_string().contains("hunter"));
    daemon.set("other", b"x");
    let denied = home.ctl_as(&alice(), &["diff", "other", "1", "1"], b"");
    assert_eq!(denied.status.code(), Some(3), "{denied:?}");
    let missing = home.ctl(&["diff", "app/j", "1", "7"], b"");
    assert_eq!(missing.status.code(), Some(4));
}

#[test]
fn two_persons_take_a_secret_out_of_service() {
    let home = Home::new().init(PERSONS);
    let daemon = home.start();
    daemon.set("app/db", b"one");
    daemon.set("app/db", b"two");
    let db = daemon.file("app/db");
    let old = by_kid(&home, "app/db", &kids(&home, "app/db")[0]);
    let ask = |user: &User, arguments: &[&str]| {
        let output = home.ctl_as(user, &[&["revoke"], arguments].concat(), b"");
        (output.status.code().unwrap(), text(&output.stderr))
    };
    let request = [
        "request",
        "app/db",
        "--reason",
        "system-breach",
        "--note",
        "host 7",
    ];
    assert_eq!(ask(&bob(), &request).0, 3, "he has not the verb");
    assert_eq!(ask(&alice(), &request).0, 0);
    let held = alice().act(|| File::open(&db).unwrap());
    let (code, why) = ask(&alice(), &["approve", "1"]);
    assert_eq!(code, 3, "{why}");
    assert!(why.contains("same user"), "{why}");
    assert_eq!(ask(&alice(), &["execute", "1"]).0, 1, "nobody has approved");
    assert_eq!(ask(&bob(), &["approve", "1"]).0, 0);
    assert_eq!(ask(&bob(), &["approve", "1"]).0, 1, "again");
    assert_eq!(alice().read(&db), Ok(b"two".to_vec()), "not yet");
    assert_eq!(ask(&bob(), &["execute", "1"]).0, 3);
    assert_eq!(ask(&alice(), &["execute", "1"]).0, 0);

    let mut byte = [0];
    let fenced = alice().act(|| held.read_at(&mut byte, 0).unwrap_err());
    assert_eq!(fenced.raw_os_error(), Some(EKEYREVOKED));
    assert_eq!(alice().read(&db), Err(EKEYREVOKED));
    assert_eq!(alice().read(&old), Err(ENOENT));
    assert_eq!(states(&home, "app/db"), ["revoked", "revoked"]);
    // It stays so: for the next worker and the next daemon, with held handles.
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    assert_eq!(alice().read(&db), Err(EKEYREVOKED));
    let fenced = alice().act(|| held.read_at(&mut byte, 0).unwrap_err());
    assert_eq!(fenced.raw_os_error(), Some(EKEYREVOKED));
    drop(held);
    daemon.stop();
    let daemon = home.start();
    assert_eq!(alice().read(&db), Err(EKEYREVOKED));
    let shown = home.ok(&["revoke", "show", "1"], b"");
    assert_eq!(
        (&shown["status"], &shown["note"]),
        (&json!("executed"), &json!("host 7"))
    );
    assert_eq!(shown["decided"]["uid"], json!(bob().uid));
    assert_eq!(shown["executed"]["uid"], json!(alice().uid));
    daemon.set("app/db", b"clean");
    assert_eq!(alice().read(&db), Ok(b"clean".to_vec()));
    let denied = home.records_with(&[("action", json!("deny")), ("errno", json!(EKEYREVOKED))]);
    assert!(denied.len() >= 3, "{denied:?}");
    let told: Vec<_> = home
        .records_with(&[("action", json!("revoke"))])
        .iter()
        .map(|r| r["reason"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        told,
        [
            "revocation 1 requested: system_breach, high",
            "revocation 1 executed: system_breach, high"
        ]
    );
    daemon.stop();
    home.verify();
}

#[test]
fn an_emergency_needs_no_second_person_and_can_bring_a_clean_value() {
    let home = Home::new().init(PERSONS);
    let daemon = home.start();
    home.ok(&["generate", "app/p"], b"");
    let p = daemon.file("app/p");
    let old = alice().read(&p).unwrap();
    let held = alice().act(|| File::open(&p).unwrap());
    let arguments = [
        "revoke",
        "request",
        "app/p",
        "--reason",
        "security-incident",
        "--severity",
        "critical",
        "--immediate",
        "--rotate",
    ];
    let done = home.ctl_as(&alice(), &arguments, b"");
    assert!(done.status.success(), "{done:?}");
    let mut byte = [0];
    let fenced = alice().act(|| held.read_at(&mut byte, 0).unwrap_err());
    assert_eq!(fenced.raw_os_error(), Some(EKEYREVOKED));
    let new = alice().read(&p).unwrap();
    assert!(new != old && new.len() == old.len());
    let shown = home.ok(&["revoke", "show", "1"], b"");
    assert_eq!(
        (&shown["immediate"], &shown["severity"]),
        (&json!(true), &json!("critical"))
    );
    assert_eq!(shown["decided"], Value::Null);
    assert_eq!(versions(&home, "app/p")[1]["reason"], "after revocation 1");
    // Without the verb, no emergency.
    let denied = home.ctl_as(&bob(), &arguments, b"");
    assert_eq!(denied.status.code(), Some(3));
    assert_eq!(
        home.ok(&["revoke", "list"], b"").as_array().unwrap().len(),
        1
    );
}

#[test]
fn a_mapped_secret_is_fenced_too() {
    let home = Home::new().init(PERSONS);
    let daemon = home.start();
    home.ok(&["set", "app/m", "--allow-cached-reads"], b"mapped");
    let held = alice().act(|| File::open(daemon.file("app/m")).unwrap());
    let mut byte = [0];
    alice().act(|| held.read_at(&mut byte, 0).unwrap());
    let arguments = [
        "revoke",
        "request",
        "app/m",
        "--reason",
        "manual-request",
        "--immediate",
    ];
    home.ok(&arguments, b"");
    let fenced = alice().act(|| held.read_at(&mut byte, 0));
    assert_eq!(fenced.map_err(|e| errno(&e)), Err(EKEYREVOKED));
}

#[test]
fn rejected_requests_stay_rejected_and_lists_show_what_one_may_see() {
    let home = Home::new().init(PERSONS);
    let daemon = home.start();
    daemon.set("app/db", b"one");
    daemon.set("other", b"x");
    let request = |name: &str| {
        home.ok(
            &["revoke", "request", name, "--reason", "manual-request"],
            b"",
        )
    };
    assert_eq!(request("app/db")["revocation"], 1);
    assert_eq!(request("other")["revocation"], 2);
    let run = |user: &User, arguments: &[&str]| {
        home.ctl_as(user, &[&["revoke"], arguments].concat(), b"")
            .status
            .code()
    };
    assert_eq!(run(&bob(), &["reject", "2"]), Some(3), "none of his");
    assert_eq!(run(&bob(), &["show", "2"]), Some(3));
    assert_eq!(run(&bob(), &["reject", "1"]), Some(0));
    assert_eq!(run(&bob(), &["approve", "1"]), Some(1));
    assert_eq!(run(&alice(), &["execute", "1"]), Some(1));
    assert_eq!(run(&root(), &["show", "7"]), Some(4));
    let seen = home.ctl_as(&bob(), &["revoke", "list", "--json"], b"");
    let seen: Value = serde_json::from_slice(&seen.stdout).unwrap();
    assert_eq!(seen.as_array().unwrap().len(), 1);
    assert_eq!(seen[0]["status"], "rejected");
    assert!(alice().read(&daemon.file("app/db")).is_ok());
}

/// Of two approvals at the same time one is made.
#[test]
fn racing_approvals_are_one() {
    let home = Home::new().init(PERSONS);
    let daemon = home.start();
    daemon.set("app/db", b"one");
    home.ok(
        &["revoke", "request", "app/db", "--reason", "manual-request"],
        b"",
    );
    let approve = |user: User| {
        let home = &home;
        move || {
            home.ctl_as(&user, &["revoke", "approve", "1"], b"")
                .status
                .success()
        }
    };
    let (a, b) = std::thread::scope(|scope| {
        let (a, b) = (scope.spawn(approve(alice())), scope.spawn(approve(bob())));
        (a.join().unwrap(), b.join().unwrap())
    });
    assert!(a != b, "one of them");
    assert_eq!(home.records_with(&[("action", json!("approve"))]).len(), 1);
}

#[test]
fn an_expired_secret_is_refused_where_it_is_set_so() {
    let home = Home::new().init(POLICY);
    home.configure("# expiry_days = 90", "expiry_days = 0");
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let db = daemon.file("app/db");
    assert!(alice().read(&db).is_ok(), "served by default");
    home.ok(&["configure", "app/db", "--refuse-expired", "true"], b"");
    assert_eq!(alice().read(&db), Err(EXPIRED));
    daemon.eventually("an expiry record", || {
        !home.records_with(&[("action", json!("expiry"))]).is_empty()
    });
    home.ok(&["configure", "app/db", "--refuse-expired", "false"], b"");
    assert!(alice().read(&db).is_ok());
}

#[test]
fn consumers_are_declared_and_forgotten() {
    let home = Home::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let add = [
        "consumer",
        "add",
        "app/db",
        "web",
        "--criticality",
        "high",
        "--owner",
        "ops",
    ];
    home.ok(&add, b"");
    home.ok(&["consumer", "add", "app/db", "cron"], b"");
    let known = || home.ok(&["versions", "app/db"], b"")["consumers"].clone();
    assert_eq!(
        known()[0],
        json!({"name": "web", "criticality": "high", "owner": "ops", "restart": null})
    );
    home.ok(&["consumer", "remove", "app/db", "web"], b"");
    assert_eq!(known().as_array().unwrap().len(), 1);
    let gone = home.ctl(&["consumer", "remove", "app/db", "web"], b"");
    assert_eq!(gone.status.code(), Some(4), "{gone:?}");
}

/// The log tells who read what, the vault who says so.
#[test]
fn impact_and_adoption_tell_who_depends_on_a_secret() {
    let home = Home::new().init(PERSONS);
    let daemon = home.start();
    daemon.set("app/db", b"1");
    daemon.set("app/other", b"1");
    let etc = home.etc();
    let etc = etc.to_str().unwrap();
    home.ok(
        &[
            "consumer",
            "add",
            "app/db",
            "web",
            "--criticality",
            "high",
            "--owner",
            "ops",
        ],
        b"",
    );
    home.ok(
        &["consumer", "add", "app/db", "cron", "--criticality", "low"],
        b"",
    );
    for user in [alice(), bob()] {
        user.read(&daemon.file("app/db")).unwrap();
    }
    let impact = home.ok(&["impact", "app/db", "--dir", etc], b"");
    assert_eq!(impact["criticality"], "high");
    assert_eq!(impact["declared"].as_array().unwrap().len(), 2);
    let uids: Vec<_> = impact["observed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["uid"].clone())
        .collect();
    let mut expected = [alice().uid, bob().uid];
    expected.sort_unstable();
    assert_eq!(uids, expected);
    let window = impact["suggested_window"].as_str().unwrap();
    assert!(window.ends_with(":00 UTC"), "{window}");

    daemon.set("app/db", b"2");
    let adoption = || home.ok(&["adoption", "app/db", "--dir", etc], b"");
    assert_eq!(
        (&adoption()["current"], &adoption()["adopted"]),
        (&json!(2), &json!(0))
    );
    bob().read(&daemon.file("app/db")).unwrap();
    let found = adoption();
    assert_eq!(found["adopted"], 1);
    for consumer in found["consumers"].as_array().unwrap() {
        assert_eq!(consumer["adopted"], json!(consumer["uid"] == bob().uid));
    }

    let graph = home.ctl(&["graph", "--dir", etc], b"");
    let dot = text(&graph.stdout);
    assert!(
        dot.contains("\"web\" -> \"app/db\" [style=dashed]"),
        "{dot}"
    );
    assert!(
        dot.contains("-> \"app/db\";") && !dot.contains("app/other"),
        "{dot}"
    );
    let edges = home.ok(&["graph", "--dir", etc], b"");
    assert_eq!(edges.as_array().unwrap().len(), 4);
}

/// Every type through the CLI: made, read, rotated, and what other programs make
/// of it.
#[test]
fn secrets_of_every_type_are_made_and_rotated() {
    let home = Home::new().init(POLICY);
    let daemon = home.start();
    let template = home.path("template.json");
    fs::write(
        &template,
        r#"{"user":"app","password":{"$generate":{"type":"password","length":24}}}"#,
    )
    .unwrap();
    let cases: [(&str, &[&str]); 7] = [
        (
            "app/password",
            &[
                "--classes",
                "lower,digit,symbol",
                "--no-ambiguous",
                "--length",
                "30",
            ],
        ),
        ("app/api_key", &["--prefix", "sk_", "--length", "20"]),
        ("app/random", &["--bytes", "64", "--encoding", "raw"]),
        ("app/uuid", &[]),
        ("app/jwt", &["--algorithm", "HS512"]),
        ("app/ed25519", &[]),
        ("app/json", &["--template", template.to_str().unwrap()]),
    ];
    let lengths = [30, 23, 64, 36, 86, 0, 0];
    for ((name, options), length) in cases.into_iter().zip(lengths) {
        let kind = name.trim_start_matches("app/");
        home.ok(
            &[&["generate", name, "--type", kind], options].concat(),
            b"",
        );
        let read = || alice().read(&daemon.file(name)).unwrap();
        let first = read();
        home.ok(&["rotate", name], b"");
        assert!(first != read(), "{name} is another one");
        if length > 0 {
            assert_eq!((first.len(), read().len()), (length, length), "{name}");
        }
        assert_eq!(home.ok(&["versions", name], b"")["type"], kind);
    }
    let json: Value =
        serde_json::from_slice(&alice().read(&daemon.file("app/json")).unwrap()).unwrap();
    assert_eq!(
        (&json["user"], json["password"].as_str().unwrap().len()),
        (&json!("app"), 24)
    );

    // OpenSSL signs with one half and verifies with the other.
    let (message, signature) = (home.path("message"), home.path("signature"));
    fs::write(&message, "signed").unwrap();
    let openssl = |arguments: &[&std::ffi::OsStr]| {
        let mut command = std::process::Command::new("openssl");
        command
            .arg("pkeyutl")
            .args(arguments)
            .arg("-rawin")
            .arg("-in")
            .arg(&message);
        run(command, b"")
    };
    let (key, public) = (daemon.file("app/ed25519"), daemon.file("app/ed25519.pub"));
    let signed = openssl(&[
        "-sign".as_ref(),
        "-inkey".as_ref(),
        key.as_ref(),
        "-out".as_ref(),
        signature.as_ref(),
    ]);
    assert!(signed.status.success(), "{signed:?}");
    let verified = openssl(&[
        "-verify".as_ref(),
        "-pubin".as_ref(),
        "-inkey".as_ref(),
        public.as_ref(),
        "-sigfile".as_ref(),
        signature.as_ref(),
    ]);
    assert!(
        text(&verified.stdout).contains("Verified Successfully"),
        "{verified:?}"
    );
    let records = home.records_with(&[("name", json!("app/ed25519.pub"))]);
    let actions: Vec<_> = records
        .iter()
        .filter(|r| r["action"] != "read")
        .map(|r| r["action"].clone())
        .collect();
    assert_eq!(actions, ["create", "rotate"]);

    for (arguments, message) in [
        (&["generate", "x", "--type", "rot13"][..], "unknown `type`"),
        (
            &["generate", "x", "--type", "uuid", "--length", "9"],
            "unknown field among its options",
        ),
        (
            &["generate", "x", "--length", "5"],
            "`length` must be 8 to 4096",
        ),
        (
            &["generate", "x", "--type", "random", "--encoding", "hunter2"],
            "type `random`",
        ),
    ] {
        let refused = home.ctl(arguments, b"");
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(text(&refused.stderr).contains(message), "{refused:?}");
        assert!(!text(&refused.stderr).contains("hunter2"), "{refused:?}");
    }
    let wrong = home.ctl(&["set", "app/ed25519"], b"no key");
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let types = home.ok(&["types"], b"");
    assert_eq!(types.as_array().unwrap().len(), 8);
    daemon.stop();
    home.verify();
}

#[test]
fn grace_ends_early_once_everybody_has_the_new_version() {
    let home = Home::new().init(PERSONS);
    let daemon = home.start();
    for name in ["app/db", "app/other"] {
        daemon.set(name, b"1");
        home.ok(
            &["configure", name, "--end-grace-when-adopted", "true"],
            b"",
        );
        for user in [alice(), bob()] {
            user.read(&daemon.file(name)).unwrap();
        }
        daemon.set(name, b"2");
        alice().read(&daemon.file(name)).unwrap();
    }
    bob().read(&daemon.file("app/db")).unwrap();
    // The next worker looks first thing.
    kill_process(daemon.workers().0, Signal::KILL).unwrap();
    daemon.eventually("an end", || {
        states(&home, "app/db") == ["deprecated", "current"]
    });
    assert_eq!(
        states(&home, "app/other"),
        ["grace", "current"],
        "bob has the old one"
    );
    let told = home.records_with(&[("action", json!("configure")), ("version", json!(1))]);
    let reason = told.last().unwrap()["reason"].as_str().unwrap();
    assert_eq!(reason, "deprecated: all 2 consumers have version 2");
}

/// A worker dies at every system call on the way of a revocation: it is made, told
/// and recorded, or it is none of that; and once it was told, no read succeeds.
#[test]
fn a_revocation_is_whole_wherever_a_worker_dies() {
    let home = Home::new().init(PERSONS);
    let daemon = home.start();
    let mut killed = 0;
    for (call, most) in [
        ("pwrite64", 8),
        ("fdatasync", 3),
        ("write", 3),
        ("writev", 2),
    ] {
        for nth in 1..=most {
            let name = format!("app/{call}{nth}");
            daemon.set(&name, b"v");
            let path = daemon.file(&name);
            let held = alice().act(|| File::open(&path).unwrap());
            let worker = daemon.workers().0.as_raw_nonzero().to_string();
            let mut strace = std::process::Command::new("timeout");
            let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
            strace.args(["-k", "1", "20", "strace", "-f", "-o", "/dev/null", "-e"]);
            strace.args([&format!("trace={call}"), "-e", &inject, "-p", &worker]);
            let mut strace = strace.stderr(std::process::Stdio::piped()).spawn().unwrap();
            // It says so once it is attached.
            let mut said = [0; 1];
            strace
                .stderr
                .as_mut()
                .unwrap()
                .read_exact(&mut said)
                .unwrap();
            let mut control = Control::open(&home.mount()).unwrap();
            let request = json!({
                "op": "revoke", "name": name, "reason": "manual_request", "immediate": true,
            });
            let (written, answer) = control.ask(request.to_string());
            let what = format!("{call} {nth}: {written:?} {answer}");
            assert!(written.is_ok(), "{what}");
            let mut byte = [0];
            let fenced = alice().act(|| held.read_at(&mut byte, 0));
            assert_eq!(fenced.map_err(|e| errno(&e)), Err(EKEYREVOKED), "{what}");
            assert_eq!(alice().read(&path), Err(EKEYREVOKED), "{what}");
            kill_process(Pid::from_child(&strace), Signal::TERM).ok();
            strace.wait().unwrap();
            killed += usize::from(!Path::new(&format!("/proc/{worker}")).exists());
            let told = home.records_with(&[("action", json!("revoke")), ("name", json!(name))]);
            let requested: Vec<_> = told.iter().filter(|r| r["recovered"] != true).collect();
            assert!(!told.is_empty() && requested.len() <= 2, "{what}: {told:?}");
        }
    }
    assert!(killed >= 8, "only {killed} workers died");
    let all = home.ok(&["revoke", "list"], b"");
    assert_eq!(all.as_array().unwrap().len(), 16, "each once");
    daemon.stop();
    home.verify();
}

#[test]
fn a_history_is_taken_elsewhere_encrypted() {
    let home = Home::new().init(PERSONS);
    let daemon = home.start();
    for value in [b"first", b"other", b"third"] {
        daemon.set("app/db", value);
    }
    home.ok(&["prune", "app/db", "--keep", "2"], b"");
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let (taken, pass) = (file("app-db.history"), "--passphrase-stdin");
    let phrase = b"correct horse\n";
    let answer = home.ok(&["history", "export", "app/db", &taken, pass], phrase);
    assert_eq!(answer["versions"], json!([2, 3]));
    assert_eq!(fs::metadata(&taken).unwrap().mode() & 0o777, 0o600);
    let again = home.ctl(&["history", "export", "app/db", &taken, pass], phrase);
    assert!(!again.status.success(), "no file is written over");
    // Who may read but not rotate can't have the old ones.
    for user in [bob(), carol()] {
        let other = format!("/tmp/{}.history", user.uid);
        let denied = home.ctl_as(
            &user,
            &["history", "export", "app/db", &other, pass],
            phrase,
        );
        assert_eq!(denied.status.code(), Some(3), "{denied:?}");
        assert!(!Path::new(&other).exists());
    }
    daemon.stop();
    let records = home.records_with(&[("action", json!("export"))]);
    let told: Vec<_> = records
        .iter()
        .map(|r| (&r["name"], &r["version"]))
        .collect();
    let name = json!("app/db");
    assert_eq!(told, [(&name, &json!(2)), (&name, &json!(3))]);
    assert_eq!(records[0]["uid"], json!(0));
    home.verify();

    // No daemon is needed to open it.
    let shown = home.ok(&["history", "show", &taken, pass], phrase);
    let has = shown["versions"].as_array().unwrap().iter();
    let has: Vec<_> = has.map(|v| v["value"].clone()).collect();
    assert_eq!(has, [json!(false), json!(true), json!(true)]);
    let get =
        |version: &str, phrase: &[u8]| home.ctl(&["history", "get", &taken, version, pass], phrase);
    assert_eq!(get("2", phrase).stdout, b"other");
    assert_eq!(get("1", phrase).status.code(), Some(4));
    assert_eq!(get("2", b"another\n").status.code(), Some(6));
    fs::write(&taken, b"{}").unwrap();
    assert_eq!(get("2", phrase).status.code(), Some(6));
}

/// The first read of a process tells its program, to the log and to whoever asks
/// who depends on the secret.
#[test]
fn programs_are_told_from_each_other() {
    let home = Home::new().init(PERSONS);
    let daemon = home.start();
    daemon.set("app/db", b"1");
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let reader = Path::new(env!("CARGO_BIN_EXE_jarvisctl"));
    let copies = ["one", "two", "odd\nname"].map(|name| place.path().join(name));
    let exes = |user: &User| -> Vec<Value> {
        let reads = home.records_with(&[("action", json!("read")), ("uid", json!(user.uid))]);
        reads.iter().map(|read| read["exe"].clone()).collect()
    };
    let shown = |path: &PathBuf| json!(path.to_str().unwrap());
    let (one, two) = (shown(&copies[0]), shown(&copies[1]));
    // What would break a terminal is not recorded.
    for (copy, expected) in copies.iter().zip([&one, &two, &Value::Null]) {
        fs::copy(reader, copy).unwrap();
        // A machine that is very busy does not answer in time.
        daemon.eventually("a read with its program", || {
            let read = alice()
                .command(copy)
                .args(["--mount", home.mount().to_str().unwrap(), "get", "app/db"])
                .output()
                .unwrap();
            assert_eq!(read.stdout, b"1", "{read:?}");
            exes(&alice()).last() == Some(expected)
        });
    }
    // A thread that reads twice is asked about once.
    let db = daemon.file("app/db");
    let own = shown(&std::env::current_exe().unwrap());
    daemon.eventually("two reads with one program", || {
        bob().act(|| [fs::read(&db).unwrap(), fs::read(&db).unwrap()]);
        exes(&bob()).ends_with(&[own.clone(), Value::Null])
    });

    let etc = home.etc();
    let impact = home.ok(&["impact", "app/db", "--dir", etc.to_str().unwrap()], b"");
    let mut programs: Vec<_> = impact["observed"].as_array().unwrap().iter().collect();
    programs.sort_by_key(|observed| observed["uid"] != json!(alice().uid));
    let programs: Vec<_> = programs.iter().map(|o| o["programs"].clone()).collect();
    assert_eq!(programs, [json!([one, two]), json!([own])]);
    let query = [
        "audit",
        "query",
        "--exe",
        copies[0].to_str().unwrap(),
        "--dir",
    ];
    let found = home.ok(&[&query[..], &[etc.to_str().unwrap()]].concat(), b"");
    assert_eq!(found.as_array().unwrap().len(), 1);
    daemon.stop();
    home.verify();
}

/// What was asked of one secret is not done to another that has its name now.
#[test]
fn a_revocation_is_of_a_secret_not_of_a_name() {
    let home = Home::new().init(PERSONS);
    let daemon = home.start();
    let (file, reason) = (daemon.file("app/db"), "--reason=system-breach");
    home.ok(&["generate", "app/db"], b"");
    home.ok(&["revoke", "request", "app/db", reason], b"");
    let approved = home.ctl_as(&bob(), &["revoke", "approve", "1"], b"");
    assert!(approved.status.success(), "{approved:?}");
    home.ok(&["delete", "app/db"], b"");
    home.ok(&["generate", "app/db"], b"");
    let innocent = alice().read(&file).unwrap();
    let rotate = home.ctl(&["revoke", "execute", "1", "--rotate"], b"");
    assert_eq!(rotate.status.code(), Some(4), "{rotate:?}");
    home.ok(&["revoke", "execute", "1"], b"");
    assert_eq!(alice().read(&file), Ok(innocent));
    home.ok(&["delete", "app/db"], b"");
    home.ok(&["purge", "app/db"], b"");
}

//! Callers in namespaces and cgroups of their own.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde_json::json;

use crate::harness::*;

/// Names of commands and cgroups are bytes: a command's is cut after 15 of them, also
/// inside a character.
#[test]
fn names_that_are_no_text_change_nothing() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let db = daemon.file("app/db");
    for user in [root(), alice()] {
        let read = user.act(|| {
            rustix::thread::set_name(c"gebl\xC3").unwrap();
            std::fs::read(&db).map_err(|error| errno(&error))
        });
        assert_eq!(read, Ok(b"v".to_vec()), "{}", user.name);
    }
    let cgroup = Cgroup::new(OsStr::from_bytes(b"jarvis-test-\xC3"));
    let cat = run(cgroup.command(&["cat", db.to_str().unwrap()]), b"");
    assert_eq!(cat.stdout, b"v", "{cat:?}");
    // A program that runs under such a name is told as well as it can be.
    let program = home
        .path("cat")
        .with_file_name(OsStr::from_bytes(b"ca\xC3"));
    copy_program("/bin/cat", &program);
    let mut cat = alice().command(&program);
    cat.arg(&db);
    assert_eq!(run(cat, b"").stdout, b"v");
    let read = home.records_with(&[("action", json!("read"))]);
    assert!(
        read[3]["exe"].as_str().unwrap().ends_with("/ca\u{FFFD}"),
        "{}",
        read[3]
    );
}

/// A policy in which carol's and bob's subordinate ids 1 to 20 may read `app`, and
/// what lies beneath it is denied to bob by his uid and to carol by her group.
fn policy() -> String {
    let ids = |user: User| (1..=20).map(move |id| user.subordinate(id).to_string());
    let ids: Vec<_> = ids(bob()).chain(ids(carol())).collect();
    format!(
        "clients:\n  admin: {{match: {{uid: 0}}, allow: ['**'], verbs: ['*']}}\n  \
         app: {{match: {{uid: [{}, {}, {}]}}, allow: ['app/**'], verbs: [read, approve, revoke]}}\n  \
         bob: {{match: {{user: jarvis-bob}}, deny: [app/bob]}}\n  \
         ops: {{match: {{group: jarvis-ops}}, allow: ['ops/*'], deny: [app/ops]}}\n",
        bob().uid,
        carol().uid,
        ids.join(", "),
    )
}

/// Reads `file` as `id` of `user`'s own namespace, without groups.
fn read_as(user: &User, id: u32, file: &std::path::Path) -> Result<Vec<u8>, i32> {
    let mut command = user.namespaced("setpriv");
    command.args([format!("--reuid={id}"), format!("--regid={id}")]);
    command.args(["--clear-groups", "cat"]).arg(file);
    output(command)
}

/// What a program says, if it is not refused.
fn output(command: std::process::Command) -> Result<Vec<u8>, i32> {
    let output = run(command, b"");
    if output.status.success() {
        return Ok(output.stdout);
    }
    let why = text(&output.stderr);
    assert!(why.contains("Permission denied"), "{why}");
    Err(EACCES)
}

#[test]
fn subordinate_ids_escape_no_denial_and_have_no_groups() {
    let home = TestDaemon::new().init(&policy());
    let daemon = home.start();
    for name in ["app/db", "app/bob", "app/ops", "ops/db"] {
        daemon.set(name, b"v");
    }
    let file = |name| daemon.file(name);
    let value: Result<_, i32> = Ok(b"v".to_vec());
    // A uid counts as it is, and records tell whose it is.
    for user in [bob(), carol()] {
        assert_eq!(user.read(&file("app/db")), value);
        assert_eq!(read_as(&user, 5, &file("app/db")), value, "{}", user.name);
        let uid = json!(user.subordinate(5));
        let read = home.records_with(&[("action", json!("read")), ("uid", uid)]);
        assert_eq!(read[0]["account"], user.uid);
    }
    assert_eq!(read_as(&carol(), 21, &file("app/db")), Err(EACCES));
    // A denial by uid.
    assert_eq!(bob().read(&file("app/bob")), Err(EACCES));
    assert_eq!(read_as(&bob(), 5, &file("app/bob")), Err(EACCES));
    assert_eq!(read_as(&carol(), 5, &file("app/bob")), value);
    // One by group.
    assert_eq!(carol().read(&file("app/ops")), Err(EACCES));
    assert_eq!(read_as(&carol(), 5, &file("app/ops")), Err(EACCES));
    assert_eq!(read_as(&carol(), 0, &file("app/ops")), Err(EACCES));
    // A right by group: also as oneself, with all groups.
    assert_eq!(carol().read(&file("ops/db")), value);
    let mut as_herself = carol().namespaced("cat");
    as_herself.arg(file("ops/db"));
    assert_eq!(output(as_herself), Err(EACCES));
    let mut as_herself = carol().namespaced("cat");
    as_herself.arg(file("app/db"));
    assert_eq!(output(as_herself), value);
    // A namespace within another is no way out.
    let mut nested = bob().namespaced("unshare");
    nested
        .args(["--user", "--map-root-user", "cat"])
        .arg(file("app/bob"));
    assert_eq!(output(nested), Err(EACCES));
}

/// A copy of `program` that runs with the ids `mode` says of `user`'s id 5, made in a
/// namespace of theirs, for the host.
fn set_id_program(home: &TestDaemon, user: &User, (program, mode): (&str, &str)) -> PathBuf {
    let dir = home.path(&format!("{}-{mode}", user.name));
    std::fs::create_dir_all(&dir).unwrap();
    std::os::unix::fs::chown(&dir, Some(user.uid), None).unwrap();
    let made = dir.join(program);
    let owner = if mode == "2755" { "0:5" } else { "5:5" };
    let script = format!("cp /usr/bin/{program} $0; chown {owner} $0; chmod {mode} $0");
    let mut shell = user.namespaced("sh");
    shell.args(["-c", &script]).arg(&made);
    let done = run(shell, b"");
    assert!(done.status.success(), "{done:?}");
    made
}

/// In a namespace of one's own one can give a file to a subordinate id, and have it run as
/// that outside.
#[test]
fn subordinate_ids_brought_to_the_host_are_their_owners() {
    let home = TestDaemon::new().init(&policy());
    let daemon = home.start();
    for name in ["app/db", "app/bob", "app/ops", "ops/db"] {
        daemon.set(name, b"v");
    }
    let read = |user: &User, mode: &str, name: &str| {
        let mut cat = user.command(set_id_program(&home, user, ("cat", mode)));
        cat.arg(daemon.file(name));
        output(cat)
    };
    let value: Result<_, i32> = Ok(b"v".to_vec());
    assert_eq!(read(&bob(), "4755", "app/db"), value);
    let uid = json!(bob().subordinate(5));
    let record = &home.records_with(&[("action", json!("read")), ("uid", uid)])[0];
    assert_eq!(record["account"], bob().uid);
    assert_eq!(read(&bob(), "4755", "app/bob"), Err(EACCES));
    // Her groups she has, but they give nothing and deny.
    for mode in ["2755", "4755", "6755"] {
        assert_eq!(read(&carol(), mode, "app/db"), value, "{mode}");
        assert_eq!(read(&carol(), mode, "ops/db"), Err(EACCES), "{mode}");
        assert_eq!(read(&carol(), mode, "app/ops"), Err(EACCES), "{mode}");
    }
    let denied = home.records_with(&[("name", json!("ops/db")), ("action", json!("deny"))]);
    for record in denied {
        assert_eq!(record["account"], carol().uid);
        assert_eq!(
            record["reason"],
            "read; groups not counted: subordinate ids"
        );
    }
    // Nor is she a second person.
    let request = ["revoke", "request", "app/db", "--reason", "system-breach"];
    let asked = home.ctl_as(&carol(), &request, b"");
    assert!(asked.status.success(), "{asked:?}");
    let mut approve = carol().command(set_id_program(&home, &carol(), ("tee", "4755")));
    approve.arg(daemon.file("jarvisctl"));
    let refused = run(approve, br#"{"op":"revoke_approve","id":1}"#);
    let why = text(&refused.stderr);
    assert!(why.contains("Permission denied"), "{refused:?}");
    let shown = home.ok(&["revoke", "show", "1"], b"");
    assert_eq!(shown["status"], "requested");
}

#[test]
fn nobody_is_the_second_person_from_a_user_namespace() {
    let home = TestDaemon::new().init(&policy());
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let request = ["revoke", "request", "app/db", "--reason", "system-breach"];
    let asked = home.ctl_as(&carol(), &request, b"");
    assert!(asked.status.success(), "{asked:?}");
    for id in [0, 5] {
        let mut approve = carol().namespaced("setpriv");
        approve.args([format!("--reuid={id}"), format!("--regid={id}")]);
        approve
            .args(["--clear-groups", "tee"])
            .arg(daemon.file("jarvisctl"));
        let refused = run(approve, br#"{"op":"revoke_approve","id":1}"#);
        let why = text(&refused.stderr);
        assert!(why.contains("Permission denied"), "{refused:?}");
    }
    let denials = home.records_with(&[("action", json!("deny")), ("name", json!("jarvisctl"))]);
    assert_eq!(denials.len(), 2);
    for denial in denials {
        assert_eq!(denial["account"], carol().uid);
        let reason = denial["reason"].as_str().unwrap();
        assert!(reason.contains("another user namespace"), "{denial}");
    }
    let shown = home.ok(&["revoke", "show", "1"], b"");
    assert_eq!(shown["status"], "requested");
    let approved = home.ctl_as(&bob(), &["revoke", "approve", "1"], b"");
    assert!(approved.status.success(), "{approved:?}");
}

/// Opens files in turn as each of its ids, says how many it got, and waits.
const OPEN_AS_MANY: &str = "
import os, sys
held = []
for id in range(1, 21):
    os.setegid(id)
    os.seteuid(id)
    try:
        held.append(os.open(sys.argv[1], os.O_RDONLY))
    except OSError as error:
        if error.errno != 24:
            raise
    os.seteuid(0)
    os.setegid(0)
print(len(held), flush=True)
sys.stdin.readline()
";

#[test]
fn subordinate_ids_are_counted_as_their_owner() {
    let home = TestDaemon::new().init(&policy());
    home.configure("# handles_per_uid = 1024", "handles_per_uid = 8");
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let db = daemon.file("app/db");
    let mut holder = carol().namespaced("python3");
    holder.args(["-c", OPEN_AS_MANY]).arg(&db);
    holder.stdin(std::process::Stdio::piped());
    holder.stdout(std::process::Stdio::piped());
    let mut holder = holder.spawn().unwrap();
    assert_eq!(first_line(&mut holder), "8\n", "of all her ids together");
    assert_eq!(carol().read(&db), Err(EMFILE), "and of herself");
    assert_eq!(bob().read(&db), Ok(b"v".to_vec()));
    let limits = home.records_with(&[("action", json!("limit"))]);
    assert_eq!(limits.len(), 1, "one record a burst");
    assert_eq!(limits[0]["account"], carol().uid);
    // The next worker counts the same.
    rustix::process::kill_process(daemon.workers().0, rustix::process::Signal::KILL).unwrap();
    assert_eq!(carol().read(&db), Err(EMFILE));
    drop(holder.stdin.take());
    holder.wait().unwrap();
    daemon.eventually("released", || carol().read(&db).is_ok());
}

#[test]
fn denials_of_subordinate_ids_are_their_owners() {
    let home = TestDaemon::new().init(&policy());
    let daemon = home.start();
    daemon.set("shared", b"v");
    for id in 1..=5 {
        assert_eq!(read_as(&bob(), id, &daemon.file("shared")), Err(EACCES));
    }
    let told = home.records_with(&[("action", json!("suspicious"))]);
    assert_eq!(told.len(), 1, "five denials");
    assert_eq!(told[0]["uid"], bob().uid);
    let etc = home.etc();
    let found = home.ok(
        &["audit", "suspicious", "--dir", etc.to_str().unwrap()],
        b"",
    );
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
}

/// What root made for a container or a service, such as Docker's userns-remap: its ids can
/// be named, and it counts for itself.
#[test]
fn a_namespace_that_root_made_counts_for_itself() {
    const FIRST: u32 = 165_536;
    let home = TestDaemon::new().init(&format!(
        "clients:\n  app: {{match: {{uid: {}}}, allow: [app/db]}}\n  \
         group: {{match: {{gid: {}}}, allow: [app/group]}}\n  \
         admin: {{match: {{uid: 0}}, allow: ['**'], verbs: ['*']}}\n",
        FIRST + 5,
        FIRST + 6
    ));
    let daemon = home.start();
    for name in ["app/db", "app/group"] {
        daemon.set(name, b"v");
    }
    let mut holder = std::process::Command::new("unshare");
    holder.args(["--user", "sh", "-c", "echo ready; read go"]);
    holder.stdin(std::process::Stdio::piped());
    holder.stdout(std::process::Stdio::piped());
    let mut holder = holder.spawn().unwrap();
    assert_eq!(first_line(&mut holder), "ready\n");
    for map in ["uid_map", "gid_map"] {
        let path = format!("/proc/{}/{map}", holder.id());
        std::fs::write(path, format!("0 {FIRST} 1000")).unwrap();
    }
    let cat = |name: &str| {
        let mut command = std::process::Command::new("timeout");
        command.args(["10", "nsenter", "--user", "--setuid=5", "--setgid=6"]);
        command.args(["--target", &holder.id().to_string(), "cat"]);
        command.arg(daemon.file(name)).env("LC_ALL", "C");
        output(command)
    };
    assert_eq!(cat("app/db"), Ok(b"v".to_vec()));
    assert_eq!(cat("app/group"), Err(EACCES));
    let read = &home.records_with(&[("action", json!("read"))])[0];
    assert_eq!(read["uid"], FIRST + 5);
    // The namespace's number, as lsns shows it.
    assert!(read["account"].as_u64().unwrap() >= 0xF000_0000, "{read}");
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

fn first_line(child: &mut std::process::Child) -> String {
    let mut line = String::new();
    let output = child.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
    line
}

//! Who may read: by uid, user, gid, group and supplementary group.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::harness::*;

/// Under `selector` exactly `can` of the three users may read.
fn matrix(selector: &str, can: &[&str]) {
    let policy = format!(
        "clients:\n  admin: {{match: {{uid: 0}}, allow: ['*'], verbs: ['*']}}\n  \
         under_test: {{match: {{{selector}}}, allow: [app/db]}}\n"
    );
    let home = TestDaemon::new().init(&policy);
    let daemon = home.start();
    daemon.set("app/db", b"the value");
    daemon.set("app/other", b"another");
    for user in [alice(), bob(), carol()] {
        let may = can.contains(&user.name);
        let expected = if may {
            Ok(b"the value".to_vec())
        } else {
            Err(EACCES)
        };
        assert_eq!(
            user.read(&daemon.file("app/db")),
            expected,
            "{selector} {}",
            user.name
        );
        assert_eq!(user.read(&daemon.file("app/other")), Err(EACCES));
        let (action, result) = if may {
            ("read", "ok")
        } else {
            ("deny", "denied")
        };
        let records = home.records_with(&[
            ("name", json!("app/db")),
            ("uid", json!(user.uid)),
            ("action", json!(action)),
        ]);
        assert_eq!(records.len(), 1, "{selector} {}", user.name);
        assert_eq!(records[0]["result"], result);
        assert_eq!(records[0]["gid"], user.gid);
        if may {
            assert_eq!(records[0]["client"], "under_test");
        } else {
            assert_eq!(records[0]["rule"], "default");
            assert_eq!(records[0]["errno"], EACCES);
        }
    }
    daemon.stop();
    home.verify();
}

#[test]
fn by_uid() {
    matrix(&format!("uid: {}", alice().uid), &["jarvis-alice"]);
}

#[test]
fn by_user_name() {
    matrix(
        "user: [jarvis-alice, jarvis-bob]",
        &["jarvis-alice", "jarvis-bob"],
    );
}

#[test]
fn by_primary_gid() {
    matrix(&format!("gid: {}", bob().gid), &["jarvis-bob"]);
}

#[test]
fn by_supplementary_group() {
    // carol has it besides her own; the others don't.
    assert!(carol().gid != ops());
    matrix("group: jarvis-ops", &["jarvis-carol"]);
    matrix(&format!("gid: {}", ops()), &["jarvis-carol"]);
}

#[test]
fn all_selectors_must_hold() {
    matrix("user: jarvis-alice, group: jarvis-ops", &[]);
    matrix("user: jarvis-carol, group: jarvis-ops", &["jarvis-carol"]);
}

#[test]
fn root_has_no_rights_without_a_rule() {
    let home = TestDaemon::new().init("clients: {jarvis-alice: {allow: ['*'], verbs: ['*']}}");
    let daemon = home.start();
    let made = home.ctl_as(&alice(), &["set", "a"], b"v");
    assert!(made.status.success(), "{made:?}");
    assert_eq!(root().read(&daemon.file("a")), Err(EACCES));
    assert_eq!(alice().read(&daemon.file("a")), Ok(b"v".to_vec()));
}

#[test]
fn whole_programs_are_told_apart() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"the value");
    let cat = |user: User| {
        let mut command = user.command("cat");
        command.arg(daemon.file("app/db"));
        run(command, b"")
    };
    assert_eq!(cat(alice()).stdout, b"the value");
    let refused = cat(bob());
    assert!(refused.stdout.is_empty() && text(&refused.stderr).contains("Permission denied"));
}

#[test]
fn the_policy_reloads_and_a_bad_one_is_refused() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let db = daemon.file("app/db");
    assert_eq!(bob().read(&db), Err(EACCES));

    home.policy(&POLICY.replace("jarvis-alice:", "jarvis-bob:"));
    daemon.signal(rustix::process::Signal::HUP);
    daemon.eventually("reloaded", || bob().read(&db).is_ok());
    assert_eq!(alice().read(&db), Err(EACCES));

    home.policy("clients:\n  x:\n    allwo: [a]\n");
    let refused = home.ctl(&["policy", "reload"], b"");
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        text(&refused.stderr).contains("line 3, column 5"),
        "{refused:?}"
    );
    daemon.signal(rustix::process::Signal::HUP);
    daemon.eventually("logged", || daemon.log().contains("the old one stays"));
    assert!(bob().read(&db).is_ok(), "the old policy stays");

    home.policy(POLICY);
    home.ok(&["policy", "reload"], b"");
    assert_eq!(bob().read(&db), Err(EACCES));
    let loads = home.records_with(&[("action", json!("policy"))]);
    let results: Vec<_> = loads
        .iter()
        .map(|r| r["result"].as_str().unwrap())
        .collect();
    assert_eq!(results, ["ok", "failed", "failed", "ok"]);
}

#[test]
fn a_bad_policy_keeps_the_daemon_from_starting() {
    let home = TestDaemon::new().init("clients:\n  nobody-has-this-name:\n    allow: [a]\n");
    let error = home.try_start(home.daemon(), b"").err().unwrap();
    assert!(
        error.contains("line 2, column 3") && error.contains("policy.yaml"),
        "{error}"
    );
    assert!(
        !home.audit_log().exists(),
        "a refused start leaves no record"
    );
}

/// A file system stacked on ours asks with its mounter's uid.
#[test]
fn a_stacked_overlay_does_not_lend_its_mounters_rights() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"the value");
    for part in ["upper", "work", "merged"] {
        std::fs::create_dir(home.path(part)).unwrap();
    }
    let merged = home.path("merged");
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        home.mount().display(),
        home.path("upper").display(),
        home.path("work").display()
    );
    // An upper directory must be on another file system than the temporary one
    // may be: a read-only overlay of two lower directories will do as well.
    let read_only = format!(
        "lowerdir={}:{}",
        home.mount().display(),
        home.path("upper").display()
    );
    let mounted = [options, read_only].iter().any(|options| {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "overlay", "overlay", "-o", options])
            .arg(&merged);
        mount
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap()
            .success()
    });
    assert!(mounted, "an overlay on the mount");
    let _unmount = Unmount(&merged);
    // overlayfs itself goes by the mode that its mounter sees.
    assert_eq!(bob().read(&merged.join("app/db")), Err(EACCES));
    // With a capability that passes this check, the request reaches us as root's.
    let mut cat = Command::new("timeout");
    cat.args([
        "10",
        "setpriv",
        &format!("--reuid={}", bob().uid),
        &format!("--regid={}", bob().gid),
    ]);
    cat.args([
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
        "cat",
    ]);
    cat.arg(merged.join("app/db")).env("LC_ALL", "C");
    let refused = run(cat, b"");
    assert!(
        text(&refused.stderr).contains("Permission denied"),
        "{refused:?}"
    );
    assert!(refused.stdout.is_empty());
    let denied = home.records_with(&[("action", json!("deny")), ("name", json!("app/db"))]);
    assert!(!denied.is_empty());
    let reason = denied[0]["reason"].as_str().unwrap();
    assert!(reason.contains("other credentials"), "{reason}");
    assert!(home.records_with(&[("action", json!("read"))]).is_empty());
}

struct Unmount<'p>(&'p Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0).status().ok();
    }
}

/// The daemon lives in a child pid namespace: a caller outside of it has pid 0.
#[test]
fn a_caller_outside_the_pid_namespace_is_nobody() {
    let home = TestDaemon::new().init(POLICY);
    let mut command = Command::new("unshare");
    let inner = home.daemon();
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--mount"]);
    command.arg(inner.get_program()).args(inner.get_args());
    let daemon = home.start_command(command, b"");
    let enter = |extra: &[&str], program: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["10", "nsenter", "--target"]);
        command
            .arg(child_of(daemon.pid()).to_string())
            .arg("--mount");
        command.args(extra).args(program).env("LC_ALL", "C");
        run(command, b"v")
    };
    let mount = home.mount();
    let ctl = jarvisctl();
    let (mount, ctl) = (mount.to_str().unwrap(), ctl.to_str().unwrap());
    let file = format!("{mount}/app/db");
    let inside = enter(&["--pid"], &[ctl, "--mount", mount, "set", "app/db"]);
    assert!(inside.status.success(), "{inside:?}");
    assert_eq!(enter(&["--pid"], &["cat", &file]).stdout, b"v");
    let outside = enter(&[], &["cat", &file]);
    assert!(
        text(&outside.stderr).contains("Permission denied"),
        "{outside:?}"
    );
    let denied = home.records_with(&[("action", json!("deny"))]);
    assert_eq!(denied.len(), 1);
    assert!(
        denied[0]["reason"]
            .as_str()
            .unwrap()
            .contains("pid namespace")
    );
}

fn child_of(pid: rustix::process::Pid) -> u32 {
    let pid = pid.as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_proc_of_another_namespace_keeps_the_daemon_from_starting() {
    let home = TestDaemon::new().init(POLICY);
    let mut command = Command::new("unshare");
    let inner = home.daemon();
    command.args(["--pid", "--fork", "--kill-child"]);
    command.arg(inner.get_program()).args(inner.get_args());
    let error = home.try_start(command, b"").err().unwrap();
    assert!(error.contains("another pid namespace"), "{error}");
}

#[test]
fn a_handle_passed_to_another_user_is_recorded_once() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"the value");
    let open = || alice().act(|| std::fs::File::open(daemon.file("app/db")).unwrap());
    let read = |file: &std::fs::File| {
        use std::os::unix::fs::FileExt;
        let mut bytes = [0; 9];
        bob().act(|| file.read_at(&mut bytes, 0).map_err(|e| errno(&e)))
    };
    let file = open();
    assert_eq!((read(&file), read(&file)), (Ok(9), Ok(9)));
    let shared = || home.records_with(&[("action", json!("shared_handle"))]);
    assert_eq!(shared().len(), 1);
    assert_eq!(shared()[0]["uid"], bob().uid);
    assert_eq!(shared()[0]["result"], "ok");

    home.policy(&format!("strict_handles: true\n{POLICY}"));
    home.ok(&["policy", "reload"], b"");
    assert_eq!(read(&open()), Err(EACCES));
    assert_eq!(shared()[1]["result"], "denied");
}

/// A descriptor without rights (O_PATH), or one whose opener had them, opened
/// anew by somebody else: the opener of now decides.
#[test]
fn reopening_a_descriptor_asks_anew() {
    use std::os::unix::fs::OpenOptionsExt;
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let db = daemon.file("app/db");
    let path_only = || {
        let mut options = std::fs::OpenOptions::new();
        options
            .read(true)
            .custom_flags(rustix::fs::OFlags::PATH.bits() as i32)
            .open(&db)
            .unwrap()
    };
    for file in [
        alice().act(path_only),
        alice().act(|| std::fs::File::open(&db).unwrap()),
    ] {
        let again = std::path::PathBuf::from(format!("/proc/thread-self/fd/{}", file.as_raw_fd()));
        assert_eq!(bob().read(&again), Err(EACCES));
        assert_eq!(alice().read(&again), Ok(b"v".to_vec()));
    }
    assert_eq!(
        home.records_with(&[("action", json!("deny")), ("uid", json!(bob().uid))])
            .len(),
        2
    );
}

#[test]
fn a_setuid_program_reads_as_its_owner() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let cat = home.path("cat");
    copy_program("/bin/cat", &cat);
    std::os::unix::fs::chown(&cat, Some(alice().uid), None).unwrap();
    let setuid = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    std::fs::set_permissions(&cat, setuid).unwrap();
    let mut command = bob().command(&cat);
    command.arg(daemon.file("app/db"));
    assert_eq!(run(command, b"").stdout, b"v");
    let read = &home.records_with(&[("action", json!("read"))])[0];
    assert_eq!(read["uid"], alice().uid);
}

#[test]
fn namespaces_change_nobodys_rights() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let cat = |user: User, wrapper: &[&str]| {
        let mut command = user.command(wrapper[0]);
        command
            .args(&wrapper[1..])
            .arg("cat")
            .arg(daemon.file("app/db"));
        run(command, b"")
    };
    // Root in a user namespace of one's own is still oneself.
    let mapped = ["unshare", "--user", "--map-root-user"];
    assert_eq!(cat(alice(), &mapped).stdout, b"v");
    let refused = cat(bob(), &mapped);
    assert!(
        text(&refused.stderr).contains("Permission denied"),
        "{refused:?}"
    );
    // The host's root in a user namespace is not the host's root any more.
    let refused = cat(root(), &mapped);
    assert!(
        text(&refused.stderr).contains("Permission denied"),
        "{refused:?}"
    );
    // A pid namespace below ours is seen into.
    let mut nested = Command::new("timeout");
    nested.args(["10", "unshare", "--pid", "--fork", "setpriv"]);
    nested.args([
        format!("--reuid={}", alice().uid),
        format!("--regid={}", alice().gid),
    ]);
    nested
        .arg("--init-groups")
        .arg("cat")
        .arg(daemon.file("app/db"));
    assert_eq!(run(nested, b"").stdout, b"v");
}

/// Ten seconds of everything a stranger can do.
#[test]
fn a_stranger_disturbs_nobody() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"value");
    let (dir, file) = (home.path("bound"), home.path("bound-file"));
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(&file, b"").unwrap();
    let binds = [(daemon.file("app"), &dir), (daemon.file("app/db"), &file)];
    let _unmounts = binds.each_ref().map(|(from, to)| {
        let status = Command::new("mount")
            .arg("--bind")
            .arg(from)
            .arg(to)
            .status();
        assert!(status.unwrap().success());
        Unmount(to)
    });
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let stranger = || {
        bob().become_thread();
        let mut buffer = [0; 64];
        while std::time::Instant::now() < end {
            for path in [
                daemon.file("app/db"),
                daemon.file("app"),
                dir.join("db"),
                file.clone(),
            ] {
                let _ = std::fs::metadata(&path);
                let _ = std::fs::File::open(&path);
                let _ = rustix::fs::access(&path, rustix::fs::Access::READ_OK);
                let _ = rustix::fs::getxattr(&path, "user.jarvis.kid", &mut buffer);
                let _ = std::fs::read_dir(&path).map(Iterator::count);
                let _ = std::fs::metadata(path.join("none"));
            }
        }
    };
    let reader = || {
        alice().become_thread();
        let mut reads = 0;
        while std::time::Instant::now() < end {
            for path in [daemon.file("app/db"), dir.join("db"), file.clone()] {
                assert_eq!(std::fs::read(&path).unwrap(), b"value");
                assert_eq!(std::fs::metadata(&path).unwrap().len(), 5);
                reads += 1;
            }
        }
        reads
    };
    let reads: u64 = std::thread::scope(|scope| {
        let strangers = [scope.spawn(stranger), scope.spawn(stranger)];
        let reads = scope.spawn(reader).join().unwrap();
        for stranger in strangers {
            stranger.join().unwrap();
        }
        reads
    });
    assert!(reads > 100, "{reads}");
    daemon.set("app/db", b"rotated");
    assert_eq!(alice().read(&file), Ok(b"rotated".to_vec()));
    assert!(
        home.records_with(&[("action", json!("read")), ("uid", json!(bob().uid))])
            .is_empty()
    );
}

/// io_uring can open with credentials that another thread registered: the
/// header then shows theirs, and only `/proc` shows who really asks.
#[test]
fn an_io_uring_personality_lends_no_rights() {
    use io_uring::{IoUring, opcode, types};
    use std::os::unix::ffi::OsStrExt;
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let path = std::ffi::CString::new(daemon.file("app/db").as_os_str().as_bytes()).unwrap();
    let mut ring = IoUring::new(4).unwrap();
    let roots = ring.submitter().register_personality().unwrap();
    let alices = alice().act(|| ring.submitter().register_personality().unwrap());
    let mut open_as = |user: &User, personality: u16| {
        let open = opcode::OpenAt::new(types::Fd(rustix::fs::CWD.as_raw_fd()), path.as_ptr())
            .flags(0)
            .build()
            .personality(personality);
        user.act(|| {
            // SAFETY: `path` outlives the request, which is waited for here.
            unsafe { ring.submission().push(&open).unwrap() };
            ring.submit_and_wait(1).unwrap();
            ring.completion().next().unwrap().result()
        })
    };
    assert_eq!(
        open_as(&bob(), roots),
        -EACCES,
        "root's rights are not lent"
    );
    assert_eq!(open_as(&bob(), alices), -EACCES, "nor are alice's");
    assert_eq!(open_as(&bob(), 0), -EACCES, "nor has bob any");
    assert!(open_as(&alice(), 0) >= 0, "io_uring itself is fine");
    let denied = home.records_with(&[("action", json!("deny"))]);
    assert_eq!(denied[0]["uid"], 0, "what the request claimed");
    assert!(
        denied[0]["reason"]
            .as_str()
            .unwrap()
            .contains("other credentials")
    );
}

/// Clients killed at any moment of their open leave no handle and no thread
/// that waits.
#[test]
fn killed_clients_leave_nothing_open() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", &[1; 100_000]);
    for n in 0..150u32 {
        let mut cat = Command::new("cat");
        cat.arg(daemon.file("app/db"))
            .stdout(std::process::Stdio::null());
        let mut child = cat.spawn().unwrap();
        for _ in 0..n * 3000 {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let open = || home.ok(&["status"], b"")["open_handles"].as_u64().unwrap();
    daemon.eventually("released", || open() == 1);
    assert_eq!(alice().read(&daemon.file("app/db")).unwrap().len(), 100_000);
    daemon.stop();
    home.verify();
}

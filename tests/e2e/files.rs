//! What applications see.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use serde_json::json;

use crate::harness::*;

fn names(user: &User, dir: &Path) -> Vec<String> {
    user.act(|| {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    })
}

#[test]
fn each_caller_sees_itself_as_owner() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"12345");
    let file = daemon.file("app/db");
    for (user, mode) in [
        (alice(), 0o100_400),
        (bob(), 0o100_000),
        (root(), 0o100_400),
    ] {
        let seen = user.act(|| fs::metadata(&file)).unwrap();
        assert_eq!((seen.uid(), seen.gid()), (user.uid, user.gid));
        assert_eq!(seen.mode(), mode, "{}", user.name);
        assert_eq!(seen.len(), 5, "the size is the true one for all");
    }
}

#[test]
fn access_tells_the_truth() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let file = daemon.file("app/db");
    let may = |user: &User, what| {
        user.act(|| accessat(CWD, &file, what, AtFlags::empty()).map_err(Errno::raw_os_error))
    };
    assert_eq!(may(&alice(), Access::READ_OK), Ok(()));
    assert_eq!(may(&bob(), Access::READ_OK), Err(EACCES));
    assert_eq!(may(&bob(), Access::EXISTS), Ok(()));
    assert_eq!(may(&alice(), Access::WRITE_OK), Err(EROFS));
    assert_eq!(may(&alice(), Access::EXEC_OK), Err(EACCES));
    for (user, code) in [(alice(), 0), (bob(), 1)] {
        let mut test = user.command("test");
        test.arg("-r").arg(&file);
        assert_eq!(run(test, b"").status.code(), Some(code));
    }
    assert!(
        home.records_with(&[("action", json!("deny"))]).is_empty(),
        "asking is free"
    );
}

#[test]
fn listings_show_what_may_be_read() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    for name in ["app/db", "app/forbidden", "ops/key", "shared", "top"] {
        daemon.set(name, b"v");
    }
    assert_eq!(names(&alice(), &home.mount()), ["app", "shared"]);
    assert_eq!(names(&alice(), &daemon.file("app")), ["db"]);
    assert_eq!(names(&bob(), &home.mount()), [""; 0]);
    assert_eq!(
        names(&root(), &home.mount()),
        ["app", "jarvisctl", "ops", "shared", "top"]
    );
    // A name that may not be listed exists all the same: lookups are alike for all.
    assert!(bob().act(|| fs::metadata(daemon.file("ops/key"))).is_ok());
    assert_eq!(bob().read(&daemon.file("ops/none")), Err(ENOENT));
}

/// Stores `chunks` times 500 secrets in `directory`.
fn fill(home: &TestDaemon, directory: &str, chunks: u32) {
    let mut control = Control::open(&home.mount()).unwrap();
    for chunk in 0..chunks {
        let name = |n| format!("{directory}/s{chunk}-{n}");
        let sets: Vec<_> = (0..500)
            .map(|n| json!({"op": "set", "name": name(n), "value": "v"}))
            .collect();
        // A worker that takes seconds for one request would be replaced as one that hangs.
        for batch in sets.chunks(500 / slowness() as usize) {
            assert_eq!(control.ask(json!(batch).to_string()).1["ok"], true);
        }
    }
}

#[test]
fn a_large_directory_is_listed_whole() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    fill(&home, "app/many", 4);
    let listed = names(&alice(), &daemon.file("app/many"));
    assert_eq!(listed.len(), 2000);
    assert_eq!(
        listed
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        2000
    );
}

/// Bob may read one secret of a large directory.
const BOBS_NEEDLE: &str = r#"
  jarvis-bob:
    allow: [app/many/s0-0, app/many/s4-399]
"#;

#[test]
fn a_listing_hinders_nobody_however_much_it_passes_over() {
    let home = TestDaemon::new().init(&with_admin(BOBS_NEEDLE));
    let daemon = home.start();
    fill(&home, "app/many", 5);
    let directory = daemon.file("app/many");
    // A request looks at a bounded number of entries: its answer says where to go on,
    // with an entry that programs skip.
    let (entries, skipped) = bob().act(|| raw_entries(&directory));
    assert_eq!(entries, [".", "..", "s0-0", "s4-399"]);
    assert!(skipped >= 2000 / 128, "{skipped}");
    let stranger = User {
        uid: 300_000,
        ..bob()
    };
    let (entries, skipped) = stranger.act(|| raw_entries(&directory));
    assert_eq!((entries.len(), skipped), (2, 0), "nothing is looked for");
    assert_eq!(names(&bob(), &directory), ["s0-0", "s4-399"]);
    for (program, arguments) in [("ls", &["-a"][..]), ("python3", &["-c", LIST])] {
        let mut command = bob().command(program);
        let listed = run(
            {
                command.args(arguments).arg(&directory);
                command
            },
            b"",
        );
        let listed = text(&listed.stdout);
        let listed = listed.lines().filter(|name| !name.starts_with('.'));
        assert_eq!(listed.collect::<Vec<_>>(), ["s0-0", "s4-399"], "{program}");
    }
    let done = AtomicBool::new(false);
    let list = || {
        bob().become_thread();
        while !done.load(Ordering::Relaxed) {
            assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
        }
    };
    let mut waits = std::thread::scope(|scope| {
        let listers: Vec<_> = (0..8).map(|_| scope.spawn(list)).collect();
        let waits: Vec<_> = (0..50)
            .map(|_| {
                let start = Instant::now();
                fs::read(directory.join("s0-1")).unwrap();
                start.elapsed()
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        listers
            .into_iter()
            .for_each(|lister| lister.join().unwrap());
        waits
    });
    waits.sort_unstable();
    assert!(waits[25] < Duration::from_millis(50), "{:?}", waits[25]);
}

/// A directory's names, sorted, by Python.
const LIST: &str = "import os, sys; print('\\n'.join(sorted(os.listdir(sys.argv[1]))))";

/// Names in a directory as the kernel gives them, and how many it has programs skip.
fn raw_entries(directory: &Path) -> (Vec<String>, usize) {
    let directory = File::open(directory).unwrap();
    let mut room = [std::mem::MaybeUninit::uninit(); 4096];
    let mut entries = rustix::fs::RawDir::new(directory, &mut room);
    let (mut names, mut skipped) = (Vec::new(), 0);
    while let Some(entry) = entries.next() {
        let entry = entry.unwrap();
        match entry.ino() {
            0 => skipped += 1,
            _ => names.push(entry.file_name().to_str().unwrap().to_owned()),
        }
    }
    (names, skipped)
}

#[test]
fn values_are_binary_safe_up_to_the_limit() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let every_byte: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..251).cycle().take(512 * 1024).collect();
    for (name, value) in [
        ("empty", &b""[..]),
        ("bytes", &every_byte),
        ("large", &large),
    ] {
        daemon.set(&format!("app/{name}"), value);
        assert!(
            alice().read(&daemon.file(&format!("app/{name}"))).unwrap() == value,
            "{name}"
        );
    }
    let over = [&large[..], b"x"].concat();
    let refused = home.ctl(&["set", "app/over"], &over);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("524288"), "{refused:?}");
    assert_eq!(alice().read(&daemon.file("app/over")), Err(ENOENT));
}

#[test]
fn reads_honour_offset_and_length() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"0123456789");
    let mut file = File::open(daemon.file("app/db")).unwrap();
    let mut part = [0; 3];
    file.read_exact_at(&mut part, 4).unwrap();
    assert_eq!(&part, b"456");
    assert_eq!(file.read_at(&mut part, 10).unwrap(), 0);
    assert_eq!(file.read_at(&mut part, u64::MAX / 4).unwrap(), 0);
    assert_eq!(file.seek(SeekFrom::End(-2)).unwrap(), 8);
    let mut rest = String::new();
    file.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "89");
}

#[test]
fn nothing_can_be_written_through_the_tree() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let (file, other) = (daemon.file("app/db"), daemon.file("app/new"));
    let dir = daemon.file("app");
    let attempt = |result: io::Result<()>| result.map_err(|e| errno(&e));
    let attempts: Vec<(&str, Result<(), i32>)> = vec![
        (
            "O_WRONLY",
            attempt(OpenOptions::new().write(true).open(&file).map(drop)),
        ),
        (
            "O_RDWR",
            attempt(
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&file)
                    .map(drop),
            ),
        ),
        (
            "O_TRUNC",
            attempt(
                OpenOptions::new()
                    .write(true)
                    .truncate(true)
                    .open(&file)
                    .map(drop),
            ),
        ),
        ("create", attempt(File::create_new(&other).map(drop))),
        ("unlink", attempt(fs::remove_file(&file))),
        ("rename", attempt(fs::rename(&file, &other))),
        (
            "chmod",
            attempt(fs::set_permissions(
                &file,
                fs::Permissions::from_mode(0o777),
            )),
        ),
        ("mkdir", attempt(fs::create_dir(&other))),
        ("rmdir", attempt(fs::remove_dir(&dir))),
        ("link", attempt(fs::hard_link(&file, &other))),
        ("symlink", attempt(std::os::unix::fs::symlink("x", &other))),
        (
            "chown",
            attempt(std::os::unix::fs::chown(&file, Some(1), None)),
        ),
    ];
    let errno_of = |result: rustix::io::Result<()>| result.map_err(Errno::raw_os_error);
    let more = [
        (
            "setxattr",
            errno_of(rustix::fs::setxattr(
                &file,
                "user.x",
                b"v",
                rustix::fs::XattrFlags::empty(),
            )),
        ),
        (
            "removexattr",
            errno_of(rustix::fs::removexattr(&file, "user.jarvis.kid")),
        ),
        (
            "utimensat",
            attempt(
                File::open(&file)
                    .unwrap()
                    .set_modified(std::time::SystemTime::UNIX_EPOCH),
            ),
        ),
        (
            "mknod",
            errno_of(rustix::fs::mknodat(
                CWD,
                &other,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR,
                0,
            )),
        ),
    ];
    for (what, result) in attempts.into_iter().chain(more) {
        assert_eq!(result, Err(EROFS), "{what}");
    }
    assert_eq!(alice().read(&file), Ok(b"v".to_vec()));
}

#[test]
fn attributes_tell_of_the_secret_not_its_value() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let made = daemon.set("app/db", b"hunter2");
    let file = daemon.file("app/db");
    let get = |user: &User, name: &str| {
        user.act(|| {
            let mut buffer = [0; 256];
            rustix::fs::getxattr(&file, name, &mut buffer)
                .map(|len| text(&buffer[..len]))
                .map_err(Errno::raw_os_error)
        })
    };
    assert_eq!(
        get(&alice(), "user.jarvis.kid").unwrap(),
        made["kid"].as_str().unwrap()
    );
    assert_eq!(get(&alice(), "user.jarvis.version").unwrap(), "1");
    assert_eq!(get(&alice(), "user.jarvis.state").unwrap(), "current");
    let (created, expires) = (
        get(&alice(), "user.jarvis.created_at").unwrap(),
        get(&alice(), "user.jarvis.expires_at").unwrap(),
    );
    let days = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_second() / 86_400;
    assert_eq!(days(&expires) - days(&created), 90);
    assert_eq!(get(&bob(), "user.jarvis.kid"), Err(EACCES));
    assert_eq!(get(&alice(), "user.jarvis.value"), Err(61), "ENODATA");
    let mut names = [0; 512];
    let len = rustix::fs::listxattr(&file, &mut names).unwrap();
    assert_eq!(
        names[..len]
            .split(|&b| b == 0)
            .filter(|n| !n.is_empty())
            .count(),
        5
    );
    let denied = home.records_with(&[("action", json!("deny")), ("uid", json!(bob().uid))]);
    assert_eq!(denied.len(), 1);
}

/// splice, sendfile and mappings would put plaintext into the page cache.
#[test]
fn cached_reads_are_refused() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", &[7; 10_000]);
    let file = File::open(daemon.file("app/db")).unwrap();
    let (_reader, writer) = rustix::pipe::pipe().unwrap();
    let spliced = rustix::pipe::splice(
        &file,
        None,
        &writer,
        None,
        4096,
        rustix::pipe::SpliceFlags::empty(),
    );
    // Older kernels splice as they read: past the page cache.
    let answer = if kernel() < (6, 5) {
        Ok(4096)
    } else {
        Err(EINVAL)
    };
    assert_eq!(spliced.map_err(Errno::raw_os_error), answer);
    let mut copy = OpenOptions::new();
    let copy = copy
        .write(true)
        .create(true)
        .mode(0o600)
        .open(home.path("copy"))
        .unwrap();
    let sent = rustix::fs::sendfile(&copy, &file, None, 4096);
    assert_eq!(sent.map_err(Errno::raw_os_error), answer);
}

#[test]
fn statfs_counts_secrets() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let figures = rustix::fs::statvfs(home.mount()).unwrap();
    let used = figures.f_files - figures.f_ffree;
    assert_eq!((used, figures.f_namemax), (1, 255));
    let mut df = std::process::Command::new("df");
    let shown = df
        .args(["--output=iused,ipcent"])
        .arg(home.mount())
        .output();
    let shown = text(&shown.unwrap().stdout);
    let figures: Vec<_> = shown.split_whitespace().skip(2).collect();
    assert_eq!(figures, ["1", "1%"], "nobody need worry");
    daemon.stop();
}

/// What programs do that copy a file with its labels, or put labels on a tree.
#[test]
fn labels_and_access_lists_are_not_supported() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let file = daemon.file("app/db");
    for path in [&file, &daemon.file("app"), &daemon.file("jarvisctl")] {
        for name in ["security.selinux", "security.ima", "trusted.x"] {
            let set = rustix::fs::setxattr(path, name, b"v", rustix::fs::XattrFlags::empty());
            assert_eq!(set, Err(Errno::OPNOTSUPP), "{name}");
            let removed = rustix::fs::removexattr(path, name);
            assert_eq!(removed, Err(Errno::OPNOTSUPP), "{name}");
        }
        let get = rustix::fs::getxattr(path, "security.selinux", &mut [0; 64][..]);
        assert_eq!(get, Err(Errno::NODATA));
    }
    daemon.stop();
}

/// The longest name there may be, by its path and its key id.
#[test]
fn what_can_be_stored_can_be_read() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let longest = format!("{}/{}", vec!["a".repeat(253); 8].join("/"), "b".repeat(16));
    assert_eq!(longest.len(), 2048);
    let segment = format!("app/{}", "c".repeat(255));
    for name in [&longest, &segment] {
        daemon.set(name, b"v");
        assert_eq!(fs::read(daemon.file(name)).unwrap(), b"v");
        assert_eq!(home.ctl(&["get", name], b"").stdout, b"v");
        let kid = &home.kids(name)[0];
        assert_eq!(fs::read(home.by_kid(name, kid)).unwrap(), b"v", "{kid}");
    }
    let mut control = Control::open(&home.mount()).unwrap();
    let longer = json!({"op": "set", "name": format!("{longest}b"), "value": "v"});
    assert_eq!(control.ask(longer.to_string()).0, Err(36), "ENAMETOOLONG");
    daemon.stop();
}

/// A stranger's lookups must not make names go away for others.
#[test]
fn bind_mounts_survive_strangers_and_deletion_of_siblings() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    daemon.set("app/other", b"w");
    let target = home.path("bound");
    fs::create_dir(&target).unwrap();
    let bind = std::process::Command::new("mount")
        .args(["--bind"])
        .arg(daemon.file("app"))
        .arg(&target)
        .status();
    assert!(bind.unwrap().success());
    bob().act(|| {
        for _ in 0..200 {
            fs::metadata(daemon.file("app/db")).unwrap();
            File::open(daemon.file("app/db")).unwrap_err();
            fs::read_dir(daemon.file("app")).unwrap().count();
        }
    });
    home.ok(&["delete", "app/other"], b"");
    assert_eq!(alice().read(&target.join("db")), Ok(b"v".to_vec()));
    assert_eq!(bob().read(&target.join("db")), Err(EACCES));
    home.ok(&["set", "app/db"], b"rotated");
    assert_eq!(alice().read(&target.join("db")), Ok(b"rotated".to_vec()));
    std::process::Command::new("umount")
        .arg(&target)
        .status()
        .unwrap();
}

/// A known limit. What is bound elsewhere stays.
#[test]
fn a_mount_on_a_secret_goes_with_its_version() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"first");
    let (cover, path) = (home.path("cover"), daemon.file("app/db"));
    fs::write(&cover, b"cover").unwrap();
    let mut bind = std::process::Command::new("mount");
    let bound = bind.arg("--bind").args([&cover, &path]).status();
    assert!(bound.unwrap().success());
    assert_eq!(fs::read(&path).unwrap(), b"cover");
    let other = alice().read(&daemon.file("app/db"));
    assert_eq!(other, Ok(b"cover".to_vec()), "whoever looks at it");
    daemon.set("app/db", b"second");
    assert_eq!(fs::read(&path).unwrap(), b"second");
    daemon.stop();
}

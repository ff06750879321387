//! Sizes agree with bytes, whichever of them a reader trusts.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::harness::*;

/// A program that reads a file so many times: name, command, part of the reads.
type Reader = (&'static str, &'static str, u32);

/// What they find whole is 8 times `a`, 100 times `b` or 3,000 times `c`.
const READERS: [Reader; 9] = [
    ("C fstat", "./reader fstat \"$F\" \"$N\"", 1),
    ("C fseek", "./reader fseek \"$F\" \"$N\"", 1),
    ("C read", "./reader read \"$F\" \"$N\"", 1),
    ("Node", "node reader.js \"$F\" \"$N\"", 1),
    ("Python", "python3 reader.py read \"$F\" \"$N\"", 1),
    ("Perl", "perl reader.pl \"$F\" \"$N\"", 1),
    ("Java", "java Reader.java \"$F\" \"$N\"", 1),
    // A process, or three, for each read.
    ("coreutils", "sh reader.sh \"$F\" \"$N\"", 10),
    ("Python map", "python3 reader.py map \"$F\" \"$N\"", 1),
];
/// Readers but the one that maps.
const UNMAPPED: usize = READERS.len() - 1;

/// The programs' sources, and the one that is compiled, in a directory for everybody.
fn build_readers(home: &TestDaemon) -> PathBuf {
    let place = home.path("readers");
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, PermissionsExt::from_mode(0o777)).unwrap();
    for (name, source) in [
        ("reader.c", include_str!("../readers/reader.c")),
        ("reader.js", include_str!("../readers/reader.js")),
        ("reader.py", include_str!("../readers/reader.py")),
        ("reader.pl", include_str!("../readers/reader.pl")),
        ("Reader.java", include_str!("../readers/Reader.java")),
        ("reader.sh", include_str!("../readers/reader.sh")),
    ] {
        fs::write(place.join(name), source).unwrap();
    }
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-w", "-o", "reader", "reader.c"]);
    let built = cc.current_dir(&place).status();
    assert!(built.unwrap().success());
    place
}

fn start_reader(place: &Path, file: &Path, command: &str, reads: u32) -> Child {
    // Longer than a user's program may take elsewhere.
    let mut shell = Command::new("timeout");
    shell.args(["-k", "1", "1500", "setpriv", "--init-groups"]);
    shell.arg(format!("--reuid={}", alice().uid));
    shell.arg(format!("--regid={}", alice().gid));
    shell
        .args(["sh", "-c", command])
        .env("LC_ALL", "C")
        .env("PATH", SYSTEM_PATH)
        .stdin(Stdio::null())
        .env("F", file)
        .env("N", reads.to_string())
        .env("HOME", place)
        .current_dir(place)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Has the `readers` read `file` while `app/db` is given values of 8, 100 and 3,000 bytes.
fn read_under_rotation(home: &TestDaemon, file: &Path, readers: &[Reader], reads: u32) {
    let place = build_readers(home);
    let left = AtomicUsize::new(readers.len());
    let start = Barrier::new(readers.len() + 1);
    std::thread::scope(|scope| {
        let read = |&(name, command, share): &Reader| {
            start.wait();
            let reads = reads / share;
            let child = start_reader(&place, file, command, reads);
            let output = child.wait_with_output().unwrap();
            left.fetch_sub(1, Ordering::Relaxed);
            (name, reads, output)
        };
        let readers: Vec<_> = readers
            .iter()
            .map(|reader| scope.spawn(move || read(reader)))
            .collect();
        let mut control = Control::open(&home.mount()).unwrap();
        start.wait();
        let mut rewrites = 0;
        for (letter, len) in [("a", 8), ("b", 100), ("c", 3000)].into_iter().cycle() {
            if left.load(Ordering::Relaxed) == 0 {
                break;
            }
            let set = json!({"op": "set", "name": "app/db", "value": letter.repeat(len)});
            let (written, answer) = control.ask(set.to_string());
            assert!(written.is_ok(), "{answer}");
            rewrites += 1;
        }
        println!("{rewrites} rewrites");
        let wrong: Vec<_> = readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .filter(|(_, reads, output)| text(&output.stdout) != format!("{reads} read, 0 wrong\n"))
            .map(|(name, _, output)| (name, text(&output.stdout), text(&output.stderr)))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

fn by_path(arguments: &[&str], readers: &[Reader], reads: u32) {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    home.ok(&[&["set", "app/db"], arguments].concat(), b"aaaaaaaa");
    read_under_rotation(&home, &daemon.file("app/db"), readers, reads);
    daemon.stop();
}

fn by_bind(arguments: &[&str], readers: &[Reader], reads: u32) {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    home.ok(&[&["set", "app/db"], arguments].concat(), b"aaaaaaaa");
    let bound = Bound::of(&daemon.file("app/db"), home.path("bound"));
    read_under_rotation(&home, &bound.0, readers, reads);
    drop(bound);
    daemon.stop();
}

/// A bind mount of a single file.
struct Bound(PathBuf);

impl Bound {
    fn of(file: &Path, at: PathBuf) -> Self {
        fs::write(&at, b"").unwrap();
        let mut mount = Command::new("mount");
        let mounted = mount.arg("--bind").args([file, &at]).status();
        assert!(mounted.unwrap().success());
        Self(at)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

const CACHED: &[&str] = &["--allow-cached-reads"];

#[test]
fn readers_by_path_get_whole_values() {
    by_path(&[], &READERS[..UNMAPPED], 300);
}

#[test]
fn readers_by_path_get_whole_values_from_the_page_cache() {
    by_path(CACHED, &READERS, 300);
}

#[test]
fn readers_of_a_bound_file_get_whole_values() {
    by_bind(&[], &READERS[..UNMAPPED], 300);
}

#[test]
fn readers_of_a_bound_file_get_whole_values_where_cached_reads_are_allowed() {
    by_bind(CACHED, &READERS[..UNMAPPED], 300);
}

// The scenario `sizes` of tests/soak.sh.

#[test]
#[ignore = "takes minutes; tests/soak.sh"]
fn soak_by_path() {
    by_path(&[], &READERS[..UNMAPPED], 10_000);
}

#[test]
#[ignore = "takes minutes; tests/soak.sh"]
fn soak_by_path_cached() {
    by_path(CACHED, &READERS, 10_000);
}

#[test]
#[ignore = "takes minutes; tests/soak.sh"]
fn soak_by_bind() {
    by_bind(&[], &READERS[..UNMAPPED], 10_000);
}

#[test]
#[ignore = "takes minutes; tests/soak.sh"]
fn soak_by_bind_cached() {
    by_bind(CACHED, &READERS[..UNMAPPED], 10_000);
}

/// What `file` says of its size, in each way, and the bytes that it has.
fn sizes(mut file: &File) -> (u64, u64, Vec<u8>) {
    let by_stat = file.metadata().unwrap().len();
    let by_seek = file.seek(SeekFrom::End(0)).unwrap();
    let mut bytes = vec![0; 8192];
    let len = file.read_at(&mut bytes, 0).unwrap();
    bytes.truncate(len);
    (by_stat, by_seek, bytes)
}

fn assert_whole(file: &File, value: &[u8]) {
    let len = value.len() as u64;
    assert_eq!(sizes(file), (len, len, value.to_vec()));
}

/// Also for who has several versions open, at the same place, and when another worker
/// serves it; a name has one inode number throughout.
#[test]
fn handles_keep_size_and_attributes_of_their_version() {
    for bound in [false, true] {
        let home = TestDaemon::new().init(POLICY);
        let daemon = home.start();
        let values = [&b"eight by"[..], &[b'b'; 100], &[b'c'; 3000]];
        daemon.set("app/db", values[0]);
        let bind = bound.then(|| Bound::of(&daemon.file("app/db"), home.path("bound")));
        let path = bind
            .as_ref()
            .map_or_else(|| daemon.file("app/db"), |bind| bind.0.clone());
        let ino = fs::metadata(&path).unwrap().ino();
        let first = File::open(&path).unwrap();
        daemon.set("app/db", values[1]);
        assert_eq!(fs::metadata(daemon.file("app/db")).unwrap().len(), 100);
        assert_whole(&first, values[0]);
        let second = File::open(&path).unwrap();
        assert_whole(&second, values[1]);
        daemon.set("app/db", values[2]);
        assert_whole(&second, values[1]);
        rustix::process::kill_process(daemon.workers().0, rustix::process::Signal::KILL).unwrap();
        assert_whole(&second, values[1]);
        // By path each version has a node. A bound file has one: the newest handle on it is
        // meant in this process, and in no other.
        if !bound {
            assert_whole(&first, values[0]);
            assert_eq!(version_of(&first), "1");
        }
        assert_eq!(version_of(&second), "2");
        let inherited = alice()
            .command("stat")
            .args(["-L", "-c", "%s", "-"])
            .stdin(second.try_clone().unwrap())
            .output();
        assert_eq!(text(&inherited.unwrap().stdout), "100\n");
        drop(second);
        drop(first);
        let third = File::open(&path).unwrap();
        assert_whole(&third, values[2]);
        assert_eq!(third.metadata().unwrap().ino(), ino);
        drop(third);
        drop(bind);
        daemon.stop();
    }
}

/// What somebody has open is nothing to others: they are shown what they would open.
#[test]
fn a_bound_file_looks_as_it_would_be_opened() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"eight by");
    let bound = Bound::of(&daemon.file("app/db"), home.path("bound"));
    let script = "exec 3<\"$F\"; echo open; read go; wc -c <&3";
    let mut holder = alice()
        .command("sh")
        .args(["-c", script])
        .env("F", &bound.0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(holder.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    daemon.set("app/db", b"more");
    let shown = fs::metadata(&bound.0).unwrap();
    assert_eq!(shown.len(), 4);
    assert_eq!(fs::read(&bound.0).unwrap(), b"more");
    holder.stdin.take().unwrap().write_all(b"go\n").unwrap();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "open\n8\n", "what it opened, also for its child");
    holder.wait().unwrap();
    drop(bound);
    daemon.stop();
}

fn version_of(file: &File) -> String {
    let mut value = [0; 64];
    let len = rustix::fs::fgetxattr(file, "user.jarvis.version", &mut value[..]).unwrap();
    text(&value[..len])
}

#[test]
fn a_handle_keeps_its_size_when_its_secret_is_purged() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"eight by");
    let held = File::open(daemon.file("app/db")).unwrap();
    daemon.set("app/db", b"another");
    home.ok(&["delete", "app/db"], b"");
    assert_whole(&held, b"eight by");
    home.ok(&["purge", "app/db"], b"");
    assert_whole(&held, b"eight by");
    drop(held);
    daemon.stop();
}

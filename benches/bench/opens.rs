//! Files that are opened, read and closed, on each file system in turn.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::nothing::{AS_IT_COMES, NAMES_KEPT, SAME_FLAGS};
use crate::rows::{Row, Samples, nanos, timed};
use crate::stage::{CLIENT, Stage};
use crate::{Effort, VALUE};

const STRANGER: u32 = 61002;
/// Clients at a time.
const CLIENTS: [usize; 4] = [1, 2, 8, 64];
/// When the record of a read is durable enough.
const DURABILITIES: [&str; 3] = ["write", "signed", "sync"];

/// A file two directories down.
const DEEP: &str = "dir1/dir2/file";

/// A file system.
struct Place {
    name: String,
    kind: PlaceKind,
    mount: PathBuf,
}

#[derive(Clone, Copy)]
enum PlaceKind {
    Nothing,
    Tmpfs,
    Jarvis,
}

/// What one of them is measured at.
#[derive(Default)]
struct Measured {
    nanos: Vec<u64>,
    time: Duration,
}

impl Measured {
    fn row(self, name: &str) -> Row {
        let count = self.nanos.len();
        Row::new(name, &Samples::new(self.nanos)).rated(count, self.time)
    }
}

pub(crate) fn measure(effort: Effort) -> Vec<Row> {
    let mut stage = Stage::new();
    let shared = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(shared.path().join("file"), VALUE).unwrap();
    let place = |name: &str, kind, mount| Place {
        name: name.to_owned(),
        kind,
        mount,
    };
    let mut places = Vec::new();
    for (name, which) in [
        ("do-nothing FUSE as it comes", AS_IT_COMES),
        ("do-nothing FUSE, same flags", SAME_FLAGS),
        ("do-nothing FUSE, names kept", NAMES_KEPT),
    ] {
        places.push(place(name, PlaceKind::Nothing, stage.nothing(which)));
    }
    places.push(place("tmpfs", PlaceKind::Tmpfs, shared.path().to_owned()));
    let references = places.len();
    for durability in DURABILITIES {
        match stage.jarvis(durability) {
            Some(mount) => {
                let name = format!("jarvis, {durability}");
                places.push(place(&name, PlaceKind::Jarvis, mount));
            }
            None => println!("durability = {durability:?}: not known to this daemon"),
        }
    }
    let mut rows = Vec::new();
    for clients in CLIENTS {
        let kind = format!("{clients} client{}", if clients == 1 { "" } else { "s" });
        rows.extend(warm(&places, references, (&kind, "file", clients), effort));
    }
    for place in &places {
        set(DEEP, place);
    }
    let deep = ("two directories down", DEEP, 1);
    rows.extend(warm(&places, references, deep, effort));
    rows.extend(cold(&places, references, effort.of(1024)));
    rows.extend(cat(&places, references, effort.of(800)));
    let jarvis = &places[references].mount;
    rows.push(beside_a_stranger(&jarvis.join("file"), effort));
    rows.push(Row::new("set (control file, 1 KiB)", &sets(jarvis, effort)));
    rows
}

/// A file that is read all the time. In turns: what else the machine does hits all alike.
fn warm(
    places: &[Place],
    references: usize,
    (kind, name, clients): (&str, &str, usize),
    effort: Effort,
) -> Vec<Row> {
    let turn = Duration::from_millis(if effort.quick { 100 } else { 250 });
    let mut measured: Vec<Measured> = places.iter().map(|_| Measured::default()).collect();
    for _ in 0..effort.rounds {
        for (place, measured) in places.iter().zip(&mut measured) {
            let start = Instant::now();
            let nanos = open_read_close(&place.mount.join(name), clients, turn);
            measured.time += start.elapsed();
            measured.nanos.extend(nanos);
        }
    }
    compared(places, references, measured, kind)
}

/// Rows of all places, ours beside the others'.
fn compared(places: &[Place], references: usize, measured: Vec<Measured>, kind: &str) -> Vec<Row> {
    let rows = places.iter().zip(measured);
    let rows = rows.map(|(place, measured)| measured.row(&format!("{kind}: {}", place.name)));
    let mut all: Vec<Row> = rows.collect();
    let ours = all.split_off(references);
    let mut rows = Vec::new();
    for (number, row) in ours.into_iter().enumerate() {
        // Where each microsecond of ours goes: once.
        let added = (number == 0).then(|| row.added_to(&all[1]));
        rows.push(all.iter().fold(row, Row::beside));
        rows.extend(added);
    }
    all.extend(rows);
    all
}

/// Makes this thread another user's.
fn become_user(id: u32) {
    use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let (uid, gid) = (Some(Uid::from_raw(id)), Some(Gid::from_raw(id)));
    set_thread_groups(&[]).unwrap();
    set_thread_res_gid(gid, gid, gid).unwrap();
    set_thread_res_uid(uid, uid, uid).unwrap();
}

fn read_once(path: &Path) -> u64 {
    let mut buffer = [0; 2048];
    let start = Instant::now();
    let mut file = File::open(path).unwrap();
    let n = file.read(&mut buffer).unwrap();
    drop(file);
    let nanos = nanos(start.elapsed());
    assert_eq!(n, VALUE.len());
    nanos
}

fn open_read_close(path: &Path, clients: usize, turn: Duration) -> Vec<u64> {
    let one = || {
        become_user(CLIENT);
        let end = Instant::now() + turn;
        let mut nanos = Vec::new();
        while Instant::now() < end {
            nanos.push(read_once(path));
        }
        nanos
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(one)).collect();
        let nanos = threads.into_iter().flat_map(|t| t.join().unwrap());
        nanos.collect()
    })
}

/// Files that nobody has looked at yet, each once.
fn cold(places: &[Place], references: usize, count: usize) -> Vec<Row> {
    let name = |number: usize| format!("cold{number}");
    for place in places {
        (0..count).for_each(|number| set(&name(number), place));
    }
    let mut measured: Vec<Measured> = places.iter().map(|_| Measured::default()).collect();
    let part = count.div_ceil(8);
    for first in (0..count).step_by(part) {
        let numbers = first..count.min(first + part);
        for (place, measured) in places.iter().zip(&mut measured) {
            let start = Instant::now();
            let one = || {
                become_user(CLIENT);
                let paths = numbers.clone().map(|number| place.mount.join(name(number)));
                paths.map(|path| read_once(&path)).collect::<Vec<_>>()
            };
            let nanos = std::thread::scope(|scope| scope.spawn(one).join().unwrap());
            measured.time += start.elapsed();
            measured.nanos.extend(nanos);
        }
    }
    compared(places, references, measured, "first open of a name")
}

/// Makes a file called `name`, where it is not there by itself.
fn set(name: &str, place: &Place) {
    let path = place.mount.join(name);
    match place.kind {
        PlaceKind::Nothing => {}
        PlaceKind::Tmpfs => {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, VALUE).unwrap();
        }
        PlaceKind::Jarvis => {
            let request = format!("set {name} \"{}\"", "v".repeat(VALUE.len()));
            let mut control = control(&place.mount);
            control.write_all(request.as_bytes()).unwrap();
        }
    }
}

/// A whole `cat`, from its start to its end.
fn cat(places: &[Place], references: usize, count: usize) -> Vec<Row> {
    let mut measured: Vec<Measured> = places.iter().map(|_| Measured::default()).collect();
    for _ in 0..count {
        for (place, measured) in places.iter().zip(&mut measured) {
            let mut cat = Command::new("/bin/cat");
            cat.arg(place.mount.join("file")).stdout(Stdio::null());
            cat.uid(CLIENT).gid(CLIENT);
            let start = Instant::now();
            assert!(cat.status().unwrap().success());
            let time = start.elapsed();
            measured.time += time;
            measured.nanos.push(nanos(time));
        }
    }
    compared(places, references, measured, "cat")
}

/// Somebody without rights asks as fast as it can, while others read.
fn beside_a_stranger(path: &Path, effort: Effort) -> Row {
    let turn = Duration::from_millis(if effort.quick { 200 } else { 1000 });
    let alone = Row::new(
        "1 client: jarvis, write, alone",
        &Samples::new(open_read_close(path, 1, turn)),
    );
    let done = AtomicBool::new(false);
    let stranger = || {
        become_user(STRANGER);
        while !done.load(Ordering::Relaxed) {
            let refused = File::open(path).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        }
    };
    let beside = std::thread::scope(|scope| {
        scope.spawn(stranger);
        let samples = open_read_close(path, 1, turn);
        done.store(true, Ordering::Relaxed);
        Samples::new(samples)
    });
    Row::new("1 client: jarvis, write, beside a stranger", &beside).beside(&alone)
}

fn control(mount: &Path) -> File {
    let control = mount.join("jarvisctl");
    let mut options = OpenOptions::new();
    options.read(true).write(true).open(control).unwrap()
}

fn sets(mount: &Path, effort: Effort) -> Samples {
    let mut control = control(mount);
    let request = format!("set other \"{}\"", "v".repeat(1024));
    timed(effort.of(400), || {
        control.write(request.as_bytes()).unwrap()
    })
}

//! What the kernel tells without asking us: known limits, told by docs/THREAT-MODEL.md.

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, inotify, open, statx};

use crate::harness::*;

/// A watch takes the right to read the directory, of which the kernel asks us nothing: it
/// does so for access(2) and chdir(2) alone.
#[test]
fn a_watch_shows_the_names_that_others_look_up() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let app = home.mount().join("app");
    let listed = bob().act(|| std::fs::read_dir(&app).unwrap().count());
    assert_eq!(listed, 0, "he may not list it");
    let watch = bob().act(|| {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, &app, inotify::WatchFlags::OPEN).unwrap();
        watch
    });
    alice().read(&daemon.file("app/db")).unwrap();
    let mut buffer = [std::mem::MaybeUninit::uninit(); 512];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    let event = events.next().unwrap();
    assert_eq!(event.file_name(), Some(c"db"));
}

/// The kernel keeps the attributes of the last answer, whoever that was for.
#[test]
fn attributes_that_are_not_asked_for_are_those_of_the_last_answer() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let db = daemon.file("app/db");
    let path = bob().act(|| open(&db, OFlags::PATH, Mode::empty()).unwrap());
    let seen = |flags: AtFlags| {
        bob().act(|| {
            let flags = flags | AtFlags::EMPTY_PATH;
            let found = statx(&path, "", flags, StatxFlags::BASIC_STATS).unwrap();
            (found.stx_uid, found.stx_mode & 0o777)
        })
    };
    alice().act(|| std::fs::metadata(&db).unwrap());
    assert_eq!(seen(AtFlags::STATX_DONT_SYNC), (alice().uid, 0o400));
    // Who asks gets an answer of its own.
    assert_eq!(seen(AtFlags::STATX_FORCE_SYNC), (bob().uid, 0));
}

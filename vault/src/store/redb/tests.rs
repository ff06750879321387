//! A disk that fails at any step of a commit, and a file that goes away.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use super::*;

const STATE: &[u8] = b"h";

struct StoreHome(tempfile::TempDir);

impl StoreHome {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn open(&self) -> RedbStore {
        let store = RedbStore::open(file(&self.path()), STATE, false).unwrap();
        if store.get(STATE).unwrap().is_none() {
            store.commit(&change(0), RoomClaim::Ordinary).unwrap();
        }
        store
    }
}

fn file(path: &Path) -> VaultFile {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).mode(0o600);
    let file = options.truncate(false).open(path).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    VaultFile::new(file, path.into(), None).unwrap()
}

fn change(number: u32) -> Batch {
    let bytes = vec![number.to_le_bytes()[0]; 3000];
    let number = number.to_be_bytes().to_vec();
    vec![
        (number.clone(), Some(bytes)),
        (STATE.to_vec(), Some(number)),
    ]
}

fn state(store: &RedbStore) -> u32 {
    let state = store.get(STATE).unwrap().unwrap();
    let mut count = 0;
    let all = store.scan(b"\0", b"", &mut |_, _| {
        count += 1;
        std::ops::ControlFlow::Continue(())
    });
    all.unwrap();
    let state = u32::from_be_bytes(state.try_into().unwrap());
    assert_eq!(count, state + 1, "all of the changes, and no other");
    state
}

/// Wherever the disk fails: a failed change is not made, not even after a restart, and the
/// next one is made once the disk works.
#[test]
fn a_commit_that_fails_at_any_step_is_not_made() {
    for times in [1, 2, 3, 1000] {
        let home = StoreHome::new();
        let mut made = 0;
        for until in 0.. {
            let store = home.open();
            let file = store.writer.lock().file.clone();
            file.faults.arm(until, times);
            let result = store.commit(&change(made + 1), RoomClaim::Ordinary);
            let struck = file.faults.struck();
            file.faults.arm(u64::MAX, 0);
            match &result {
                Ok(()) => made += 1,
                Err(error) => {
                    assert!(struck, "{error}");
                    assert!(store.health().writable.is_err());
                }
            }
            assert_eq!(state(&store), made, "{until} {result:?}");
            if until % 3 == 0 {
                store
                    .commit(&change(made + 1), RoomClaim::Ordinary)
                    .unwrap();
                made += 1;
                assert!(store.health().writable.is_ok());
            } else if !matches!(result, Err(StoreError::InDoubt { .. })) {
                // A crash: nothing is written at the end.
                store.view().cut.store(true, Ordering::Release);
            }
            drop((store, file));
            assert_eq!(state(&home.open()), made, "{until} {times} {result:?}");
            if !struck && until > 0 {
                assert!(until > 3, "a commit has some steps");
                break;
            }
        }
    }
}

/// Reads go on while nothing can be written; the trial tells when it can be again.
#[test]
fn reads_go_on_and_changes_come_back_by_themselves() {
    let home = StoreHome::new();
    let store = home.open();
    let file = store.writer.lock().file.clone();
    file.faults.arm(0, u64::MAX);
    store.commit(&change(1), RoomClaim::Ordinary).unwrap_err();
    assert_eq!(state(&store), 0);
    assert!(store.check().writable.is_err() && store.check().readable.is_ok());
    store.commit(&change(1), RoomClaim::Ordinary).unwrap_err();
    file.faults.arm(u64::MAX, 0);
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.check().writable.is_err() {
        assert!(Instant::now() < deadline, "{:?}", store.health());
        std::thread::yield_now();
    }
    assert_eq!(store.get(TRIAL).unwrap(), None, "the trial leaves nothing");
    store.commit(&change(1), RoomClaim::Ordinary).unwrap();
    assert_eq!(state(&store), 1);
}

fn displaced(store: &RedbStore, want: &str) {
    for result in [
        store.commit(&change(9), RoomClaim::Ordinary),
        store.check().writable,
    ] {
        match result {
            Err(StoreError::Displaced { what, .. }) => assert_eq!(what, want),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_file_that_is_not_in_its_place_takes_no_change_until_it_is_back() {
    let home = StoreHome::new();
    let store = home.open();
    let (path, aside) = (home.path(), home.0.path().join("aside"));
    let copy = home.0.path().join("copy");
    let back = |store: &RedbStore, number| {
        assert!(store.check().writable.is_ok(), "{:?}", store.health());
        store.commit(&change(number), RoomClaim::Ordinary).unwrap();
        assert_eq!(state(store), number);
    };

    fs::rename(&path, &aside).unwrap();
    displaced(&store, "was moved away");
    assert_eq!(state(&store), 0);
    assert!(store.check().readable.is_ok());
    fs::rename(&aside, &path).unwrap();
    back(&store, 1);

    // An older one in its place, then the one that is served.
    fs::copy(&path, &copy).unwrap();
    store.commit(&change(2), RoomClaim::Ordinary).unwrap();
    fs::rename(&path, &aside).unwrap();
    fs::rename(&copy, &path).unwrap();
    displaced(&store, "was replaced by another file");
    assert_eq!(state(&store), 2);
    fs::rename(&aside, &path).unwrap();
    back(&store, 3);

    // Only the open file is left, and a copy of it is as good.
    fs::remove_file(&path).unwrap();
    displaced(&store, "was removed");
    let Err(StoreError::Displaced { open_file, .. }) = store.check().writable else {
        panic!()
    };
    fs::copy(open_file, &path).unwrap();
    back(&store, 4);
    drop(store);
    assert_eq!(state(&home.open()), 4);
}

#[test]
fn a_file_that_others_write_to_takes_no_change_until_it_is_as_it_was() {
    let home = StoreHome::new();
    let store = home.open();
    let path = home.path();
    let mut old = fs::read(&path).unwrap();
    store.commit(&change(1), RoomClaim::Ordinary).unwrap();
    let whole = fs::read(&path).unwrap();
    old.resize(whole.len(), 0);
    for (bytes, what) in [
        (&whole[..4096], "was truncated"),
        (&[], "was truncated"),
        (&old[..], "was overwritten"),
    ] {
        // In place, as a shell's redirection does.
        fs::write(&path, bytes).unwrap();
        displaced(&store, what);
        assert!(store.check().readable.is_err());
        fs::write(&path, &whole).unwrap();
        let health = store.check();
        assert!(
            health.writable.is_ok() && health.readable.is_ok(),
            "{health:?}"
        );
        assert_eq!(state(&store), 1);
    }
    store.commit(&change(2), RoomClaim::Ordinary).unwrap();
    drop(store);
    assert_eq!(state(&home.open()), 2);
}

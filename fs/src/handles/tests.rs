use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::inode::{self, Inode};
use crate::testing::Words;

fn words() -> Words {
    Words::zeroed(HANDLE_WORDS)
}

fn table(words: &Words, handles: u32, pending: u32) -> HandleTable {
    HandleTable::new(words.clone(), HandleLimits { handles, pending }).unwrap()
}

fn file(ino: u64, uid: u32) -> OpenFile {
    OpenFile {
        ino,
        version: 3,
        uid,
        account: uid,
        process: 77,
        turn: 3,
        control: false,
        cached: false,
        one_request: false,
    }
}

#[test]
fn keeps_files_apart() {
    let table = table(&words(), 10_000, 64);
    for handle in (2..6000).step_by(2) {
        table.insert(handle, file(handle * 7, 1)).unwrap();
    }
    for handle in (2..6000).step_by(4) {
        assert!(table.remove(handle).is_some());
    }
    for handle in (2..6000).step_by(2) {
        let expected = (handle % 4 == 0).then(|| file(handle * 7, 1));
        assert_eq!(table.get(handle), expected, "{handle}");
    }
    assert_eq!(table.open(), 1499);
}

#[test]
fn a_resent_open_is_the_same_handle() {
    let table = table(&words(), 2, 64);
    table.insert(8, file(1, 1)).unwrap();
    table.insert(8, file(1, 1)).unwrap();
    assert_eq!(table.open(), 1);
    assert!(table.begin_open(1).is_ok());
}

#[test]
fn another_process_finds_what_was_open() {
    let words = words();
    table(&words, 10, 64).insert(8, file(99, 5)).unwrap();
    let successor = table(&words, 1, 64);
    assert_eq!(successor.get(8), Some(file(99, 5)));
    assert!(successor.pins(99, 3) && !successor.pins(99, 2));
    assert!(
        successor.begin_open(5).is_err(),
        "the cap holds over the change"
    );
}

#[test]
fn another_release_finds_every_word_in_its_place() {
    let words = words();
    let cached = OpenFile {
        cached: true,
        ..file(99, 5)
    };
    table(&words, 10, 64).insert(8, cached).unwrap();
    let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let all: Vec<_> = words.as_ref().iter().map(load).collect();
    let slot = all.chunks(4).find(|slot| slot[0] != 0).unwrap();
    let words = [8, 99 | 77 << 40, 3 | 1 << 32 | 1 << 34 | 3 << 40, 5];
    assert_eq!(slot, words);
    // An earlier release knows the uid alone.
    let foreign = OpenFile {
        account: 4,
        ..cached
    };
    assert_eq!(foreign.opener(), 5 | 1 << 32);
}

#[test]
fn files_are_found_by_the_node_that_was_opened() {
    let table = table(&words(), 10, 64);
    let cached = OpenFile {
        cached: true,
        ..file(99, 5)
    };
    let behind = OpenFile { turn: 2, ..cached };
    let early = OpenFile { turn: 0, ..cached };
    table.insert(8, file(99, 5)).unwrap();
    table.insert(10, behind).unwrap();
    table.insert(12, early).unwrap();
    table.insert(14, cached).unwrap();
    table.insert(16, file(98, 5)).unwrap();
    let node = |turn| Inode::File { id: 99, turn }.number().unwrap();
    assert_eq!(table.opened_by(node(2)), [(10, behind)]);
    assert_eq!(table.opened_by(99), [(12, early)]);
    let mut handles: Vec<_> = table.opened_by(node(3)).iter().map(|open| open.0).collect();
    handles.sort_unstable();
    assert_eq!(handles, [8, 14]);
    assert_eq!(table.cached_nodes(99), [99, node(2), node(3)]);
    assert!(cached.owns_node() && !behind.owns_node() && !early.owns_node());
}

#[test]
fn a_handle_for_one_request_takes_it_again_from_another_process() {
    let words = words();
    let control = OpenFile {
        control: true,
        one_request: true,
        process: 0,
        ..file(inode::CONTROL, 5)
    };
    let first = table(&words, 10, 64);
    first.insert(8, control).unwrap();
    first.insert(10, file(99, 5)).unwrap();
    assert!(first.takes_request(8, 20));
    for table in [first, table(&words, 10, 64)] {
        assert_eq!(table.get(8), Some(control));
        assert!(table.takes_request(8, 20) && !table.takes_request(8, 22));
        assert!(table.takes_request(10, 20) && table.takes_request(10, 22));
    }
}

#[test]
fn caps_are_per_uid_and_reported_once_a_burst() {
    let table = table(&words(), 2, 64);
    table.insert(2, file(1, 7)).unwrap();
    table.insert(4, file(1, 7)).unwrap();
    let reports: Vec<_> = (0..5)
        .map(|_| table.begin_open(7).err().unwrap().report)
        .collect();
    assert_eq!(reports, [Some(1), None, None, None, None]);
    assert!(table.begin_open(8).is_ok());
    table.remove(2).unwrap();
    assert!(table.begin_open(7).is_ok());
}

#[test]
fn pending_opens_are_capped() {
    let table = table(&words(), 100, 2);
    let first = table.begin_open(7);
    let second = table.begin_open(7);
    assert!(first.is_ok() && second.is_ok());
    assert!(matches!(table.begin_open(7), Err(r) if r.error == FsError::TooManyHandles));
    drop(first);
    assert!(table.begin_open(7).is_ok());
}

#[test]
fn what_one_account_has_under_many_uids_is_counted_together() {
    let words = words();
    let foreign = |uid| OpenFile {
        account: 7,
        ..file(1, uid)
    };
    let before = table(&words, 3, 64);
    before.insert(2, foreign(200_000)).unwrap();
    before.insert(4, foreign(200_001)).unwrap();
    before.insert(6, file(1, 7)).unwrap();
    for table in [&before, &table(&words, 3, 64)] {
        assert_eq!(table.get(2), Some(foreign(200_000)));
        assert!(table.begin_open(7).is_err());
        assert!(table.begin_open(200_000).is_ok());
    }
    before.remove(4).unwrap();
    assert!(before.begin_open(7).is_ok());
}

#[test]
fn the_last_quarter_is_for_who_has_few() {
    let table = table(&words(), 1024, 64);
    let mut handles = (1u64..).map(|n| n * 2);
    let mut open = |account| {
        let pending = table.begin_open(account).map_err(|refused| refused.error)?;
        table.insert(handles.next().unwrap(), file(1, account))?;
        drop(pending);
        Ok(())
    };
    for account in 1..=18 {
        for _ in 0..1024 {
            open(account).unwrap();
        }
    }
    assert_eq!(table.open(), CROWDED);
    for account in 1..=18 {
        assert_eq!(open(account), Err(FsError::TableFull));
    }
    for _ in 0..64 {
        open(0).unwrap();
    }
    assert_eq!(open(0), Err(FsError::TableFull));
    open(19).unwrap();
}

#[test]
fn a_full_table_refuses_and_recovers() {
    let table = table(&words(), u32::MAX, 64);
    for handle in 1..=MAX_OPEN as u64 {
        table.insert(handle * 2, file(1, 1)).unwrap();
    }
    assert!(matches!(table.begin_open(9), Err(r) if r.error == FsError::TableFull));
    for handle in 1..=MAX_OPEN as u64 {
        table.remove(handle * 2).unwrap();
    }
    assert!(table.begin_open(9).is_ok());
    assert_eq!(table.open(), 0);
}

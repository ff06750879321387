//! Files that are taken away from a log that is written.

use std::path::Path;

use super::*;

/// Takes the first segment away from a log with a few records.
fn take(home: &LogHome, how: impl Fn(&Path)) -> Log {
    let log = home.open(0).unwrap();
    log.append(&read(1), Durability::Sync).unwrap();
    log.check().unwrap();
    how(&home.segment());
    assert!(matches!(log.check(), Err(LogFault::Displaced { .. })));
    for durability in [Durability::Write, Durability::Sync] {
        let refused = log.append(&read(2), durability);
        assert!(matches!(refused, Err(AppendError::Displaced)));
    }
    log
}

fn go_on(home: &LogHome, log: &Log) {
    assert_eq!(log.begin_anew(&identity()).unwrap(), 2);
    log.check().unwrap();
    log.append(&read(3), Durability::Sync).unwrap();
    log.stop(0, None).unwrap();
    assert!(home.segments().contains(&2));
    assert_eq!(Log::inspect(home.path(), None).unwrap().unwrap().seq, 6);
}

#[test]
fn a_deleted_file_is_followed_by_another_segment() {
    let home = LogHome::new();
    let log = take(&home, |path| fs::remove_file(path).unwrap());
    go_on(&home, &log);
    assert!(home.verify().is_err() || home.segments() == [2], "it shows");
}

/// The next record finds that the file is gone, before anybody has looked.
#[test]
fn no_record_goes_to_a_deleted_file() {
    let home = LogHome::new();
    let log = home.open(0).unwrap();
    fs::remove_file(home.segment()).unwrap();
    assert!(log.append(&read(1), Durability::Write).is_err());
    let failed = log.append(&read(2), Durability::Sync);
    assert!(matches!(failed, Err(AppendError::Displaced)));
}

#[test]
fn a_moved_file_that_comes_back_makes_the_log_whole() {
    let home = LogHome::new();
    let aside = home.path().join("aside");
    let log = take(&home, |path| fs::rename(path, &aside).unwrap());
    // Another one in its place is none of ours.
    fs::write(home.segment(), "else").unwrap();
    assert!(matches!(log.check(), Err(LogFault::Displaced { .. })));
    go_on(&home, &log);
    fs::rename(&aside, home.segment()).unwrap();
    assert_eq!(home.verify().unwrap().last_seq, 6);
}

#[test]
fn a_file_that_is_back_in_time_is_written_on() {
    let home = LogHome::new();
    let aside = home.path().join("aside");
    let log = take(&home, |path| fs::rename(path, &aside).unwrap());
    fs::rename(&aside, home.segment()).unwrap();
    log.check().unwrap();
    log.append(&read(3), Durability::Sync).unwrap();
    log.stop(0, None).unwrap();
    assert_eq!(home.segments(), [1]);
    home.verify().unwrap();
}

#[test]
fn a_file_that_was_cut_off_is_left_and_the_gap_is_found() {
    let home = LogHome::new();
    let log = take(&home, |path| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(10).unwrap();
    });
    go_on(&home, &log);
    assert!(home.verify().is_err());
}

/// As long as there can be no other segment, the log waits for its file.
#[test]
fn without_another_segment_the_log_waits_for_its_file() {
    let home = LogHome::new();
    let aside = home.path().join("00000002.jsonl");
    let log = take(&home, |path| fs::rename(path, &aside).unwrap());
    let taken = log.begin_anew(&identity());
    assert!(matches!(taken, Err(RotationError::Exists(2))));
    assert!(log.append(&read(2), Durability::Write).is_err());
    fs::rename(&aside, home.segment()).unwrap();
    log.check().unwrap();
    log.append(&read(3), Durability::Sync).unwrap();
    home.verify().unwrap();
}

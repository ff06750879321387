//! Ends of logs: those that are refused, and those that are repaired.

use std::os::unix::fs::PermissionsExt;

use jarvis_sys::trust::{Distrust, TrustError};

use super::*;

#[test]
fn a_torn_record_is_kept_aside_and_reported() {
    let home = filled(1);
    let mut bytes = home.bytes();
    bytes.extend_from_slice(b"{\"v\":2,\"seq\":4,\"pr");
    home.put(&bytes);
    assert_eq!(home.verify().unwrap_err(), (4, FailureKind::Torn));
    home.open(7).unwrap().stop(7, None).unwrap();
    assert_eq!(home.verify().unwrap().records, 5);
    let start = crate::read_records(home.path())
        .unwrap()
        .nth(3)
        .unwrap()
        .unwrap();
    assert_eq!(start.start.unwrap().torn_bytes, 18);
    let aside = home.path().join(format!("torn-{:020}-1", 4));
    assert_eq!(fs::read(aside).unwrap(), b"{\"v\":2,\"seq\":4,\"pr");
}

#[test]
fn an_older_vault_is_refused_unless_accepted() {
    let home = filled(1);
    let before = home.snapshot();
    let error = home.open(6).err().unwrap();
    assert!(matches!(error, OpenError::VaultOlder { vault: 6, log: 7 }));
    assert_eq!(home.snapshot(), before);
    let opening = Opening {
        reason: None,
        version: "test",
        vault_seq: 6,
        accept_older_vault: true,
        ..Opening::default()
    };
    Log::open(home.path(), &identity(), opening)
        .unwrap()
        .stop(6, None)
        .unwrap();
    let start = crate::read_records(home.path())
        .unwrap()
        .nth(3)
        .unwrap()
        .unwrap();
    assert!(start.reason.unwrap().contains("accepted"));
    home.verify().unwrap();
}

#[test]
fn refusals_change_nothing() {
    let home = filled(1);
    fs::set_permissions(home.segment(), fs::Permissions::from_mode(0o644)).unwrap();
    let before = home.snapshot();
    assert!(matches!(
        home.open(7),
        Err(OpenError::Distrusted(TrustError::Distrusted {
            why: Distrust::Open { mode: 0o644, .. },
            ..
        }))
    ));
    fs::set_permissions(home.segment(), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(
        home.open(7),
        Err(OpenError::Distrusted(TrustError::Distrusted {
            why: Distrust::Open { mode: 0o755, .. },
            ..
        }))
    ));
    assert_eq!(home.snapshot(), before);
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    home.put(b"this is no record\n");
    assert!(matches!(home.open(7), Err(OpenError::Corrupt { .. })));
    assert_eq!(home.bytes(), b"this is no record\n");
}

/// A log of four records (the third is a read), with `end` after them.
fn ending_with(end: &[u8]) -> LogHome {
    let home = filled(2);
    home.put(&[&home.bytes(), end].concat());
    home
}

#[test]
fn complete_lines_of_rubbish_are_torn_too() {
    // A power loss can leave the end of a record without its beginning.
    let ends: [&[u8]; 4] = [b"\0\0\0\"}\n", b"\n", b"\0\0\n{\"v\":2", &[0; 20_000]];
    for end in ends {
        let home = ending_with(end);
        let good = home.lines()[..4].concat();
        assert_eq!(Log::inspect(home.path(), None).unwrap().unwrap().seq, 4);
        home.open(7).unwrap().stop(7, None).unwrap();
        assert!(home.bytes().starts_with(&good));
        assert_eq!(home.verify().unwrap().records, 6);
        let start = home.records()[4].start.clone().unwrap();
        assert_eq!(start.torn_bytes, end.len() as u64);
        let aside = home.path().join(format!("torn-{:020}-1", 5));
        assert_eq!(fs::read(aside).unwrap(), end);
    }
}

#[test]
fn torn_records_never_overwrite_each_other() {
    let home = ending_with(b"second");
    let aside = |n: u32| home.path().join(format!("torn-{:020}-{n}", 5));
    fs::write(aside(1), "first").unwrap();
    home.open(7).unwrap().stop(7, None).unwrap();
    assert_eq!(fs::read(aside(1)).unwrap(), b"first");
    assert_eq!(fs::read(aside(2)).unwrap(), b"second");
    assert_eq!(
        fs::metadata(aside(2)).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_torn_first_record_is_no_obstacle() {
    let home = LogHome::new();
    drop(home.open(0).unwrap());
    home.put(b"{\"v\":2,\"seq\":1");
    home.open(0).unwrap().stop(0, None).unwrap();
    let report = home.verify().unwrap();
    assert_eq!((report.records, report.unclean_starts), (2, 0));
    assert_eq!(home.records()[0].start.clone().unwrap().torn_bytes, 14);
}

/// A later release's records must not be cut off by an older one.
#[test]
fn signed_records_of_a_later_release_are_not_torn() {
    let home = filled(2);
    let last = String::from_utf8(home.lines().remove(3)).unwrap();
    let later = [
        last.replace("\"v\":2", "\"v\":3"),
        last.replace("\"action\":\"stop\"", "\"action\":\"levitate\""),
        last.replace("\"seq\":4", "\"seq\":18446744073709551615"),
        last.replace("\"epoch\":1", "\"epoch\":18446744073709551615"),
    ];
    let whole = home.bytes();
    for line in later {
        assert_ne!(line, last);
        home.put(&[&whole, line.as_bytes()].concat());
        let before = home.snapshot();
        assert!(matches!(home.open(7), Err(OpenError::Corrupt { .. })));
        assert!(matches!(
            Log::inspect(home.path(), None),
            Err(OpenError::Corrupt { .. })
        ));
        assert_eq!(home.snapshot(), before);
    }
}

#[test]
fn more_rubbish_than_any_record_is_refused() {
    let home = ending_with(&vec![b'x'; 5 * MAX_LINE_BYTES]);
    let before = home.snapshot();
    assert!(matches!(home.open(7), Err(OpenError::Corrupt { .. })));
    assert_eq!(home.snapshot(), before);
}

#[test]
fn a_torn_log_is_not_repaired_for_an_older_vault() {
    let home = ending_with(b"{\"v\":2");
    let before = home.snapshot();
    assert!(matches!(home.open(6), Err(OpenError::VaultOlder { .. })));
    assert_eq!(home.snapshot(), before);
}

#[test]
fn a_setgid_directory_is_no_wider() {
    let home = filled(1);
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o2700)).unwrap();
    home.open(7).unwrap();
}

#[test]
fn a_line_no_reader_accepts_is_torn() {
    let home = filled(2);
    let last = String::from_utf8(home.lines().remove(3)).unwrap();
    let padding = format!("\"v\":2,\"pad\":\"{}\"", "x".repeat(MAX_LINE_BYTES));
    let home = ending_with(last.replace("\"v\":2", &padding).as_bytes());
    home.open(7).unwrap().stop(7, None).unwrap();
    assert_eq!(home.verify().unwrap().records, 6);
}

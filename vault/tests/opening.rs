//! The checks between a file on disk and an open vault.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};

use common::{NOW, VaultHome, current, key, passphrase, set};
use jarvis_vault::{ClockWitness, LockedVault, LogWitness, VaultError, Witness};

#[test]
fn keeps_values_over_reopening() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "team/db/password", b"\0binary\xff");
    drop(vault);
    assert_eq!(
        current(&home.open(), "team/db/password").unwrap(),
        b"\0binary\xff"
    );
    let mode = fs::metadata(home.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn a_passphrase_opens_and_a_wrong_one_does_not() {
    let home = VaultHome::new();
    jarvis_vault::create(&home.path(), &passphrase("correct"), NOW).unwrap();
    let before = fs::read(home.path()).unwrap();
    let wrong = home.try_open(&passphrase("wrong"));
    assert!(matches!(wrong, Err(VaultError::WrongPassphrase { .. })));
    let other_kind = home.try_open(&key(1));
    assert!(matches!(
        other_kind,
        Err(VaultError::NoSlot {
            kind: "key file",
            ..
        })
    ));
    assert!(
        before == fs::read(home.path()).unwrap(),
        "a refusal changed the file"
    );
    home.try_open(&passphrase("correct")).unwrap();
}

#[test]
fn a_wrong_key_file_is_refused_without_a_change() {
    let home = VaultHome::with_key(1);
    let before = fs::read(home.path()).unwrap();
    let wrong = home.try_open(&key(2));
    assert!(matches!(wrong, Err(VaultError::WrongKeyFile { .. })));
    assert!(before == fs::read(home.path()).unwrap());
}

#[test]
fn wide_modes_are_refused_with_the_remedy() {
    let home = VaultHome::with_key(1);
    fs::set_permissions(home.path(), PermissionsExt::from_mode(0o640)).unwrap();
    let text = home.try_open(&key(1)).err().unwrap().to_string();
    assert!(
        text.contains("mode 0640") && text.contains("chmod 0600"),
        "{text}"
    );
    fs::set_permissions(home.path(), PermissionsExt::from_mode(0o600)).unwrap();
    fs::set_permissions(home.dir.path(), PermissionsExt::from_mode(0o750)).unwrap();
    let text = home.try_open(&key(1)).err().unwrap().to_string();
    assert!(
        text.contains("mode 0750") && text.contains("chmod 0700"),
        "{text}"
    );
}

#[test]
fn a_second_owner_is_refused() {
    let home = VaultHome::with_key(1);
    let first = home.open();
    let second = home.try_open(&key(1));
    assert!(matches!(second, Err(VaultError::InUse { .. })));
    drop(first);
    home.open();
}

#[test]
fn creating_over_a_vault_is_refused() {
    let home = VaultHome::with_key(1);
    let again = jarvis_vault::create(&home.path(), &key(2), NOW);
    assert!(matches!(again, Err(VaultError::Exists { .. })));
    home.open();
}

#[test]
fn foreign_files_are_not_vaults() {
    for content in [&b""[..], b"x", b"SQLite format 3\0 and more of it"] {
        let home = VaultHome::new();
        fs::write(home.path(), content).unwrap();
        fs::set_permissions(home.path(), PermissionsExt::from_mode(0o600)).unwrap();
        let refused = LockedVault::open(&home.path());
        assert!(
            matches!(refused, Err(VaultError::NotAVault { .. })),
            "{content:?}"
        );
        assert_eq!(fs::read(home.path()).unwrap(), content);
    }
}

/// Opens the damaged file; an error must leave it as it was, success must give
/// the values that were stored.
fn damage(home: &VaultHome, bytes: &[u8], what: &str) -> bool {
    fs::write(home.path(), bytes).unwrap();
    match home.try_open(&key(1)) {
        Err(error) => {
            assert!(
                matches!(
                    error,
                    VaultError::Damaged { .. }
                        | VaultError::NotAVault { .. }
                        | VaultError::Store(_)
                ),
                "{what}: {error}"
            );
            assert!(
                fs::read(home.path()).unwrap() == bytes,
                "{what}: file changed"
            );
            true
        }
        Ok(vault) => {
            assert_eq!(current(&vault, "a/b").unwrap(), vec![7; 5000], "{what}");
            false
        }
    }
}

#[test]
fn a_truncated_file_is_refused_at_every_length() {
    let home = VaultHome::with_key(1);
    set(&home.open(), "a/b", &[7; 5000]);
    let whole = fs::read(home.path()).unwrap();
    let refused = (0..whole.len())
        .step_by(1531)
        .filter(|&len| damage(&home, &whole[..len], &format!("cut to {len}")))
        .count();
    assert_eq!(refused, whole.len().div_ceil(1531));
}

#[test]
fn a_flipped_bit_is_refused_or_harmless() {
    let home = VaultHome::with_key(1);
    set(&home.open(), "a/b", &[7; 5000]);
    let whole = fs::read(home.path()).unwrap();
    // Every 61st byte: header, pages in use, and free ones.
    let refused = (0..whole.len())
        .step_by(61)
        .filter(|&at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            damage(&home, &bytes, &format!("bit at {at}"))
        })
        .count();
    assert!(refused > 50, "only {refused} flips were noticed");
}

#[test]
fn a_flip_in_the_stored_value_is_damage() {
    let home = VaultHome::with_key(1);
    set(&home.open(), "a/b", &[7; 300_000]);
    let len = fs::metadata(home.path()).unwrap().len();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(home.path())
        .unwrap();
    // A value this large fills most of the file: its middle is in it.
    file.write_all_at(b"damage", len / 2).unwrap();
    let refused = home.try_open(&key(1));
    assert!(matches!(refused, Err(VaultError::Damaged { .. })));
}

#[test]
fn key_slots_come_and_go() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "a", b"v");
    let last = vault.write(|t| t.remove_slot(0));
    assert!(matches!(last, Err(VaultError::LastSlot(0))));
    assert_eq!(
        vault.write(|t| t.add_slot(&passphrase("second"))).unwrap(),
        1
    );
    assert_eq!(vault.write(|t| t.add_slot(&key(3))).unwrap(), 2);
    let kinds: Vec<_> = vault
        .slots()
        .unwrap()
        .into_iter()
        .map(|s| (s.number, s.kind))
        .collect();
    assert_eq!(kinds, [(0, "key file"), (1, "passphrase"), (2, "key file")]);
    let used = vault.write(|t| t.remove_slot(0));
    assert!(matches!(used, Err(VaultError::SlotInUse(0))));
    drop(vault);
    let vault = home.try_open(&key(3)).unwrap();
    vault.write(|t| t.remove_slot(0)).unwrap();
    let gone = vault.write(|t| t.remove_slot(0));
    assert!(matches!(gone, Err(VaultError::NoSuchSlot(0))));
    drop(vault);
    let removed = home.try_open(&key(1));
    assert!(matches!(removed, Err(VaultError::WrongKeyFile { .. })));
    drop(home.try_open(&key(3)).unwrap());
    let vault = home.try_open(&passphrase("second")).unwrap();
    assert_eq!(current(&vault, "a").unwrap(), b"v");
    let bad = vault.write(|t| t.add_slot(&passphrase("")));
    assert!(matches!(bad, Err(VaultError::PassphraseLength { .. })));
    for fill in 10..16 {
        vault.write(|t| t.add_slot(&key(fill))).unwrap();
    }
    let full = vault.write(|t| t.add_slot(&key(99)));
    assert!(matches!(full, Err(VaultError::NoFreeSlot)));
}

/// What was noted of the log and of the time goes with the next commit, or alone.
#[test]
fn the_witness_is_stored_with_commits_and_alone() {
    let home = VaultHome::with_key(1);
    let witness = || {
        let locked = LockedVault::open(&home.path()).unwrap();
        let probe = locked.unlock(&key(1)).unwrap();
        (probe.seq(), probe.witness())
    };
    assert_eq!(witness(), (0, Witness::default()));
    let log = LogWitness {
        host: [1; 8],
        seq: 7,
        head: [2; 32],
    };
    let vault = home.open();
    vault.note_log(log);
    set(&vault, "a", b"v");
    drop(vault);
    assert_eq!(witness().1.log, Some(log));
    let vault = home.open();
    let clock = ClockWitness {
        boot: [3; 16],
        since_boot_ms: 1,
        wall_ms: NOW,
        settled_ms: NOW,
        doubted_ms: Some(5),
    };
    vault.note_clock(clock);
    vault.store_witness().unwrap();
    drop(vault);
    let (seq, found) = witness();
    assert_eq!((seq, found.log, found.clock), (1, Some(log), Some(clock)));
}

//! Histories in files of their own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::path::Path;

use common::{DAY, NOW, VaultHome, key, name, new_version, passphrase, set, try_set};
use jarvis_vault::{
    ActedBy, Credential, History, MAX_HISTORY, MAX_VALUE, NewVersion, RevocationReason,
    RevocationRequest, Severity, Vault, VaultError,
};

const FILE: &str = "/nowhere/app.history";

fn export(vault: &Vault, path: &str, credential: &Credential) -> Result<Vec<u8>, VaultError> {
    let node = vault.find(&name(path))?.unwrap();
    let secret = node.live_secret().unwrap();
    let (bytes, _) = vault.export(&node, secret, credential, NOW)?;
    Ok(bytes)
}

fn open(bytes: &[u8], credential: &Credential) -> Result<History, VaultError> {
    History::open(Path::new(FILE), bytes, credential)
}

fn reason(result: Result<History, VaultError>) -> String {
    result.err().unwrap().to_string()
}

/// Three versions, of which the second one is revoked and the first one gone.
fn three_versions(vault: &Vault) {
    set(vault, "app/db", b"first");
    set(vault, "app/db", b"second");
    let by = ActedBy { uid: 7, at_ms: NOW };
    let request = RevocationRequest {
        reason: RevocationReason::SecurityIncident,
        severity: Severity::High,
        note: None,
        by,
        life_ms: DAY,
        immediate: true,
    };
    let revoked = vault.write(|txn| {
        txn.request_revocation(&name("app/db"), &request)?;
        txn.execute_revocation(1, by, true)
    });
    revoked.map_err(|e: VaultError| e).unwrap();
    let third = NewVersion {
        keep: 2,
        why: Some("after the leak"),
        ..new_version()
    };
    try_set(vault, "app/db", b"third", &third).unwrap();
}

#[test]
fn what_is_known_and_kept_goes_along() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "app/db", b"first");
    let why = NewVersion {
        why: Some("a new one"),
        ..new_version()
    };
    try_set(&vault, "app/db", b"second", &why).unwrap();
    for credential in [key(9), passphrase("correct horse")] {
        let bytes = export(&vault, "app/db", &credential).unwrap();
        for piece in [&b"first"[..], b"second", b"app/db", b"a new one"] {
            assert!(!bytes.windows(piece.len()).any(|w| w == piece));
        }
        let history = open(&bytes, &credential).unwrap();
        let metadata = history.metadata();
        assert_eq!((&*metadata.name, metadata.exported_ms), ("app/db", NOW));
        assert_eq!(metadata.versions[1].why.as_deref(), Some("a new one"));
        assert_eq!(history.value(1).unwrap().expose(), b"first");
        assert_eq!(history.value(2).unwrap().expose(), b"second");
        assert!(matches!(
            history.value(3),
            Err(VaultError::NoSuchVersion { version: 3, .. })
        ));
    }
}

#[test]
fn what_was_revoked_stays() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    three_versions(&vault);
    let history = open(&export(&vault, "app/db", &key(9)).unwrap(), &key(9)).unwrap();
    let has: Vec<_> = (1..=3).map(|number| history.has(number)).collect();
    assert_eq!(history.metadata().versions.len(), 3);
    assert_eq!(has, [false, false, true]);
}

#[test]
fn only_its_own_credential_opens_it() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "a", b"v");
    let by_key = export(&vault, "a", &key(9)).unwrap();
    let by_phrase = export(&vault, "a", &passphrase("p")).unwrap();
    assert!(reason(open(&by_key, &key(1))).contains("does not belong to /nowhere/app.history"));
    assert!(reason(open(&by_key, &passphrase("p"))).contains("no key slot for a passphrase"));
    assert!(reason(open(&by_phrase, &passphrase("q"))).contains("wrong passphrase"));
    let short = Credential::KeyFile(jarvis_vault::SecretBytes::new(vec![9; 31]));
    assert!(export(&vault, "a", &short).is_err());
}

/// Whatever is changed is found, if not at once then with the value it is in.
#[test]
fn changed_files_are_refused() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "a", b"value");
    let good = export(&vault, "a", &key(9)).unwrap();
    for at in 0..good.len() {
        for bit in [1, 128] {
            let mut bytes = good.clone();
            bytes[at] ^= bit;
            let value = open(&bytes, &key(9)).and_then(|history| history.value(1));
            assert!(value.is_err(), "byte {at}");
        }
        let cut = open(&good[..at], &key(9)).and_then(|history| history.value(1));
        assert!(cut.is_err(), "cut at {at}");
    }
    let longer = [&good[..], b"\0"].concat();
    assert!(reason(open(&longer, &key(9))).contains("something follows"));
    assert!(reason(open(b"{}", &key(9))).contains("is no exported history"));
    let mut later = good.clone();
    later[14] = 2;
    assert!(reason(open(&later, &key(9))).contains("has format 2"));
}

#[test]
fn a_history_has_a_greatest_size() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let value = vec![b'v'; MAX_VALUE];
    let keep = NewVersion {
        keep: 99,
        ..new_version()
    };
    for _ in 0..=MAX_HISTORY / MAX_VALUE {
        try_set(&vault, "a", &value, &keep).unwrap();
    }
    let refused = export(&vault, "a", &key(9)).unwrap_err();
    assert!(matches!(refused, VaultError::TooLarge { .. }), "{refused}");
    vault
        .write(|txn| txn.prune(&name("a"), 2, |_, _| false))
        .unwrap();
    assert!(export(&vault, "a", &key(9)).is_ok());
}

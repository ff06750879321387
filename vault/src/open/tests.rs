use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;
use crate::name::SecretName;
use crate::record::ROOT;
use crate::secret::SecretBytes;
use crate::txn::versions::NewVersion;

struct VaultHome(tempfile::TempDir);

impl VaultHome {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let home = Self(dir);
        create(&home.path(), &credential(), 0).unwrap();
        home
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("vault.redb")
    }

    fn open(&self) -> Vault {
        let locked = LockedVault::open(&self.path()).unwrap();
        let probe = locked.unlock(&credential()).unwrap();
        locked.start(probe).unwrap()
    }

    /// Changes the file as one can who has no key.
    fn tamper(&self, change: impl FnOnce(&RedbStore) -> Batch) {
        let file = OpenOptions::new().read(true).write(true).open(self.path());
        let file = VaultFile::new(file.unwrap(), (&self.path()).into(), None);
        let store = RedbStore::open(file.unwrap(), key::STATE, false).unwrap();
        let batch = change(&store);
        store.commit(&batch, RoomClaim::Ordinary).unwrap();
    }
}

fn credential() -> Credential {
    Credential::KeyFile(SecretBytes::new(vec![1; 32]))
}

fn name(text: &str) -> SecretName {
    SecretName::parse(text).unwrap()
}

fn set(vault: &Vault, path: &str, value: &[u8]) -> NodeId {
    let new = NewVersion::by(0, 0);
    let outcome = vault.write(|t| t.set(&name(path), value, &new));
    outcome.unwrap().id
}

fn read(vault: &Vault, path: &str) -> Result<Option<Vec<u8>>, VaultError> {
    let Some(node) = vault.find(&name(path))? else {
        return Ok(None);
    };
    let version = node.live_secret().and_then(|s| s.current()).unwrap().number;
    let value = vault.value(&node, version)?;
    Ok(value.map(|v| v.expose().to_vec()))
}

#[test]
fn a_newer_format_is_told_from_damage() {
    let home = VaultHome::new();
    home.tamper(|_| {
        let header = VaultHeader {
            magic: *MAGIC,
            format: FORMAT + 1,
            vault: [0; 16],
            created_ms: 0,
        };
        vec![(key::FORMAT.to_vec(), Some(encode(&header).unwrap()))]
    });
    let before = std::fs::read(home.path()).unwrap();
    let refused = LockedVault::open(&home.path());
    assert!(matches!(refused, Err(VaultError::Newer { found: 2, .. })));
    drop(refused);
    assert!(before == std::fs::read(home.path()).unwrap());
}

/// Every way to put one record's bytes in another one's place.
#[test]
fn no_record_can_stand_in_for_another() {
    type KeyOf = fn(NodeId) -> Vec<u8>;
    let moves: [(&str, KeyOf, KeyOf); 3] = [
        ("value", |id| key::value(id, 1), |id| key::value(id, 1)),
        (
            "older value",
            |id| key::value(id, 1),
            |id| key::value(id, 2),
        ),
        ("node", key::node, key::node),
    ];
    for (what, from, to) in moves {
        for same_secret in [false, true] {
            let home = VaultHome::new();
            let vault = home.open();
            set(&vault, "a", b"1");
            let a = set(&vault, "a", b"2");
            set(&vault, "b", b"1");
            let b = set(&vault, "b", b"2");
            drop(vault);
            let source = if same_secret { a } else { b };
            if from(source) == to(a) {
                continue;
            }
            home.tamper(|store| vec![(to(a), store.get(&from(source)).unwrap())]);
            let vault = home.open();
            let node = vault.find(&name("a"));
            let result = match (node, what) {
                (Ok(Some(node)), "value") => vault.value(&node, 1).map(|_| ()),
                (Ok(_), _) => read(&vault, "a").map(|_| ()),
                (Err(error), _) => Err(error),
            };
            assert!(
                matches!(result, Err(VaultError::Damaged { .. })),
                "{what}, same secret: {same_secret}"
            );
        }
    }
}

#[test]
fn a_directory_entry_cannot_be_pointed_elsewhere() {
    let home = VaultHome::new();
    let vault = home.open();
    set(&vault, "a", b"public");
    let b = set(&vault, "b", b"secret");
    let a_entry = vault.core.keys.entry(ROOT, "a");
    drop(vault);
    home.tamper(|_| vec![(a_entry, Some(b.to_be_bytes().to_vec()))]);
    let vault = home.open();
    let result = read(&vault, "a");
    assert!(matches!(result, Err(VaultError::Damaged { .. })));
    let new = NewVersion::by(0, 0);
    let written = vault.write(|txn| txn.set(&name("a"), b"x", &new));
    assert!(matches!(written, Err(VaultError::Damaged { .. })));
}

/// Earlier builds removed the entry of a deleted secret.
#[test]
fn deleted_secrets_of_earlier_builds_are_restored_and_purged() {
    let home = VaultHome::new();
    let vault = home.open();
    let id = set(&vault, "a", b"kept");
    let delete = |vault: &Vault| vault.write(|txn| txn.delete(&name("a"), 0, 0)).unwrap();
    delete(&vault);
    let entry = vault.core.keys.entry(ROOT, "a");
    drop(vault);
    let as_before = || home.tamper(|_| vec![(entry.clone(), None)]);
    as_before();
    let vault = home.open();
    let restored = vault.write(|txn| txn.restore(&name("a"), 0)).unwrap();
    assert_eq!(restored.id, id);
    assert_eq!(read(&vault, "a").unwrap().unwrap(), b"kept");
    delete(&vault);
    drop(vault);
    as_before();
    let vault = home.open();
    let new = set(&vault, "a", b"new");
    assert!(new > id);
    assert_eq!(vault.write(|txn| txn.purge(&name("a"))).unwrap(), [id]);
    assert_eq!(read(&vault, "a").unwrap().unwrap(), b"new");
}

#[test]
fn records_of_another_vault_do_not_open() {
    let (home, other) = (VaultHome::new(), VaultHome::new());
    let id = set(&home.open(), "a", b"mine");
    assert_eq!(set(&other.open(), "a", b"theirs"), id);
    let mut stolen = Vec::new();
    other.tamper(|store| {
        for k in [key::node(id), key::value(id, 1)] {
            stolen.push((k.clone(), store.get(&k).unwrap()));
        }
        Batch::new()
    });
    home.tamper(|_| stolen);
    let result = read(&home.open(), "a");
    assert!(matches!(result, Err(VaultError::Damaged { .. })));
}

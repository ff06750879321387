//! Keys in their files, and in memory.

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[test]
fn keys_survive_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let (key, public) = (dir.path().join("k"), dir.path().join("k.pub"));
    let made = Identity::create(&key, &public).unwrap();
    let opened = Identity::open(&key).unwrap();
    let half = PublicIdentity::open(&public).unwrap();
    assert_eq!(made.public().fingerprint(), opened.public().fingerprint());
    assert_eq!(made.public().fingerprint(), half.fingerprint());
    assert_eq!(std::fs::metadata(&key).unwrap().mode() & 0o7777, 0o600);
    let again = Identity::create(&key, &public);
    assert!(matches!(again, Err(KeyError::Io { .. })));
    Identity::open(&key).unwrap();
}

#[test]
fn keys_sign_as_the_library_does() {
    use ed25519_dalek::Signer;
    let library = SigningKey::from_bytes(&[9; 32]);
    let ours = EpochKey::from_seed(9);
    assert_eq!(ours.public(), library.verifying_key().to_bytes());
    assert_eq!(ours.sign(b"record"), library.sign(b"record").to_bytes());
}

/// Neither kind of key has its seed in memory that could be swapped or dumped.
#[test]
fn seeds_are_in_locked_memory() {
    let identity = Identity::from_seed(0x5a);
    let epoch = EpochKey::from_seed(0x5b);
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    for seed in [&identity.0.seed, &epoch.0.seed] {
        // The page may be one mapping with its neighbours.
        let at = seed.expose().as_ptr() as usize;
        let holds = |line: &str| {
            let (from, to) = line.split_whitespace().next()?.split_once('-')?;
            let address = |text| usize::from_str_radix(text, 16).ok();
            Some((address(from)?..address(to)?).contains(&at))
        };
        let mut lines = smaps.lines().skip_while(|line| holds(line) != Some(true));
        let flags = lines
            .find_map(|line| line.strip_prefix("VmFlags:"))
            .unwrap();
        let has = |flag| flags.split_whitespace().any(|f| f == flag);
        assert!(has("lo") && has("dd"), "{flags}");
    }
}

#[test]
fn no_key_is_made_beside_anothers_public_half() {
    let dir = tempfile::tempdir().unwrap();
    let (key, public) = (dir.path().join("k"), dir.path().join("k.pub"));
    std::fs::write(&public, "another").unwrap();
    assert!(Identity::create(&key, &public).is_err());
    assert!(!key.exists());
    assert_eq!(std::fs::read_to_string(&public).unwrap(), "another");
}

#[test]
fn a_readable_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("k");
    Identity::create(&key, &dir.path().join("k.pub")).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = Identity::open(&key).err().unwrap().to_string();
    assert!(
        error.contains("0640") && error.contains("chmod 0600"),
        "{error}"
    );
}

#[test]
fn other_files_are_no_keys() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("k");
    for content in ["", "hello", &"x".repeat(5000)] {
        std::fs::write(&key, content).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(
            Identity::open(&key),
            Err(KeyError::Malformed { .. })
        ));
        assert!(matches!(
            PublicIdentity::open(&key),
            Err(KeyError::Malformed { .. })
        ));
    }
}

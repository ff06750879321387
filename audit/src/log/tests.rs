use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;

use super::*;
use crate::keys::{EpochKey, Identity, PublicIdentity};
use crate::verify::{End, FailureKind, Report, verify};

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn segment(&self) -> PathBuf {
        segment_path(self.path(), 1)
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.segment()).unwrap()
    }

    fn put(&self, bytes: &[u8]) {
        fs::write(self.segment(), bytes).unwrap();
    }

    fn lines(&self) -> Vec<Vec<u8>> {
        let bytes = self.bytes();
        bytes
            .split_inclusive(|&b| b == b'\n')
            .map(<[u8]>::to_vec)
            .collect()
    }

    fn open(&self, vault_seq: u64) -> Result<Log, OpenError> {
        let opening = Opening {
            version: "test",
            vault_seq,
            accept_older_vault: false,
        };
        Log::open(self.path(), &identity(), opening)
    }

    fn verify(&self) -> Result<Report, (u64, FailureKind)> {
        verify(self.path(), &identity().public()).map_err(|f| (f.seq, f.kind))
    }

    /// Every file, so that a test can say that nothing changed.
    fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = fs::read_dir(self.path())
            .unwrap()
            .map(|f| f.unwrap().path());
        files
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect()
    }
}

fn identity() -> Identity {
    Identity::from_seed(1)
}

fn read(uid: u32) -> Event<'static> {
    Event {
        name: Some("team/db"),
        id: Some(1024),
        version: Some(3),
        uid: Some(uid),
        ..Event::new(Action::Read, Outcome::Ok, 7)
    }
}

/// A log of a start, `reads` reads and a stop.
fn filled(reads: u32) -> Home {
    let home = Home::new();
    let log = home.open(7).unwrap();
    for uid in 0..reads {
        log.append(&read(uid), Durability::Write).unwrap();
    }
    log.stop(7).unwrap();
    home
}

#[test]
fn what_is_written_verifies() {
    let home = filled(5);
    let report = home.verify().unwrap();
    assert_eq!(
        (report.records, report.starts, report.unclean_starts),
        (7, 1, 0)
    );
    assert_eq!(report.counts[&(Action::Read, Outcome::Ok)], 5);
    assert_eq!(report.end, End::Stopped);
    let records: Vec<_> = crate::read_records(home.path())
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(records[3].uid, Some(2));
    assert_eq!(records[3].name.as_deref(), Some("team/db"));
}

#[test]
fn restarts_chain_and_tell_clean_from_unclean() {
    let home = filled(1);
    let log = home.open(7).unwrap();
    log.append(&read(1), Durability::Sync).unwrap();
    drop(log);
    home.open(7).unwrap().stop(7).unwrap();
    let report = home.verify().unwrap();
    assert_eq!(
        (report.starts, report.unclean_starts, report.records),
        (3, 1, 7)
    );
}

#[test]
fn every_flipped_byte_is_blamed_on_its_record() {
    let home = filled(2);
    let whole = home.bytes();
    let mut seq = 1;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x01;
        home.put(&bytes);
        let (blamed, _) = home.verify().expect_err(&format!("byte {at}"));
        assert_eq!(blamed, seq, "byte {at}");
        seq += u64::from(whole[at] == b'\n');
    }
}

#[test]
fn removed_repeated_and_swapped_records_are_found() {
    let home = filled(4);
    let lines = home.lines();
    let attempt = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut changed = lines.clone();
        change(&mut changed);
        home.put(&changed.concat());
        home.verify().unwrap_err().0
    };
    assert_eq!(attempt(&|l| drop(l.remove(2))), 3);
    assert_eq!(attempt(&|l| l.insert(2, l[2].clone())), 4);
    assert_eq!(attempt(&|l| l.swap(2, 3)), 3);
    assert_eq!(attempt(&|l| drop(l.remove(0))), 1);
    assert_eq!(attempt(&Vec::clear), 1);
}

#[test]
fn a_cut_at_a_record_leaves_an_open_end() {
    let home = filled(2);
    let lines = home.lines();
    home.put(&lines[..3].concat());
    assert_eq!(home.verify().unwrap().end, End::Open);
}

#[test]
fn another_hosts_log_is_refused() {
    let home = filled(1);
    let other = Identity::from_seed(2).public();
    let failure = verify(home.path(), &other).unwrap_err();
    assert_eq!((failure.seq, failure.kind), (1, FailureKind::Host));
}

#[test]
fn an_epoch_key_without_certificate_is_refused() {
    // Somebody with file access but not the identity key begins an epoch.
    let home = filled(1);
    let forger = Identity::from_seed(9);
    let opening = Opening {
        version: "forged",
        vault_seq: 7,
        accept_older_vault: false,
    };
    Log::open(home.path(), &forger, opening)
        .unwrap()
        .stop(7)
        .unwrap();
    assert_eq!(home.verify().unwrap_err(), (4, FailureKind::Host));
    let forged = String::from_utf8(home.bytes()).unwrap();
    let hosts = (
        forger.public().host().to_string(),
        identity().public().host().to_string(),
    );
    home.put(forged.replace(&hosts.0, &hosts.1).as_bytes());
    assert_eq!(home.verify().unwrap_err(), (4, FailureKind::Certificate));
}

#[test]
fn a_torn_record_is_kept_aside_and_reported() {
    let home = filled(1);
    let mut bytes = home.bytes();
    bytes.extend_from_slice(b"{\"v\":1,\"seq\":4,\"pr");
    home.put(&bytes);
    assert_eq!(home.verify().unwrap_err(), (4, FailureKind::Torn));
    home.open(7).unwrap().stop(7).unwrap();
    assert_eq!(home.verify().unwrap().records, 5);
    let start = crate::read_records(home.path())
        .unwrap()
        .nth(3)
        .unwrap()
        .unwrap();
    assert_eq!(start.start.unwrap().torn_bytes, 18);
    let aside = home.path().join(format!("torn-{:020}", 4));
    assert_eq!(fs::read(aside).unwrap(), b"{\"v\":1,\"seq\":4,\"pr");
}

#[test]
fn an_older_vault_is_refused_unless_accepted() {
    let home = filled(1);
    let before = home.snapshot();
    let error = home.open(6).err().unwrap();
    assert!(matches!(error, OpenError::VaultOlder { vault: 6, log: 7 }));
    assert_eq!(home.snapshot(), before);
    let opening = Opening {
        version: "test",
        vault_seq: 6,
        accept_older_vault: true,
    };
    Log::open(home.path(), &identity(), opening)
        .unwrap()
        .stop(6)
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
        Err(OpenError::TooWide { mode: 0o644, .. })
    ));
    fs::set_permissions(home.segment(), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(
        home.open(7),
        Err(OpenError::TooWide { mode: 0o755, .. })
    ));
    assert_eq!(home.snapshot(), before);
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    home.put(b"this is no record\n");
    assert!(matches!(home.open(7), Err(OpenError::Corrupt { .. })));
    assert_eq!(home.bytes(), b"this is no record\n");
}

#[test]
fn a_second_writer_is_refused() {
    let home = Home::new();
    let first = home.open(0).unwrap();
    assert!(matches!(home.open(0), Err(OpenError::InUse(_))));
    drop(first);
    home.open(0).unwrap();
}

#[test]
fn inspecting_shows_the_tail_and_changes_nothing() {
    let home = Home::new();
    assert_eq!(Log::inspect(home.path()).unwrap(), None);
    assert!(home.snapshot().is_empty());
    let home = filled(3);
    let before = home.snapshot();
    let tail = Log::inspect(home.path()).unwrap().unwrap();
    assert_eq!(
        (tail.seq, tail.vault_seq, tail.epoch, tail.clean),
        (5, 7, 1, true)
    );
    assert_eq!(home.snapshot(), before);
}

#[test]
fn records_have_a_limit() {
    let home = Home::new();
    let log = home.open(0).unwrap();
    let long = "x".repeat(MAX_LINE);
    let event = Event {
        reason: Some(&long),
        ..read(1)
    };
    assert!(matches!(
        log.append(&event, Durability::Write),
        Err(AppendError::TooLong)
    ));
    log.stop(0).unwrap();
    assert_eq!(home.verify().unwrap().records, 2);
    assert_eq!(
        log.counters(),
        Counters {
            records: 2,
            errors: 1
        }
    );
}

#[test]
fn many_threads_make_one_chain() {
    let home = Home::new();
    let log = home.open(0).unwrap();
    std::thread::scope(|scope| {
        for uid in 0..4 {
            let log = &log;
            scope.spawn(move || {
                for n in 0..50 {
                    let durability = if n % 10 == 0 {
                        Durability::Sync
                    } else {
                        Durability::Write
                    };
                    log.append(&read(uid), durability).unwrap();
                }
            });
        }
    });
    log.stop(0).unwrap();
    assert_eq!(home.verify().unwrap().records, 202);
}

/// A file whose next operations fail as told.
struct Failing {
    file: File,
    short: AtomicU32,
    no_space: AtomicU32,
    no_sync: AtomicU32,
    no_truncate: AtomicU32,
}

fn due(counter: &AtomicU32) -> bool {
    let update = |n: u32| n.checked_sub(1);
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update)
        .is_ok()
}

impl LogFile for Arc<Failing> {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        if due(&self.no_space) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let len = if due(&self.short) {
            bytes.len() / 2
        } else {
            bytes.len()
        };
        self.file.append(&bytes[..len])
    }

    fn sync(&self) -> io::Result<()> {
        match due(&self.no_sync) {
            true => Err(io::Error::other("injected")),
            false => self.file.sync(),
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        match due(&self.no_truncate) {
            true => Err(io::Error::other("injected")),
            false => self.file.truncate(len),
        }
    }
}

fn failing(home: &Home) -> (Log, Arc<Failing>) {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    let file = Arc::new(Failing {
        file: options.open(home.segment()).unwrap(),
        short: AtomicU32::new(0),
        no_space: AtomicU32::new(0),
        no_sync: AtomicU32::new(0),
        no_truncate: AtomicU32::new(0),
    });
    let ending = Ending {
        tail: None,
        len: 0,
        torn: Vec::new(),
    };
    let key = EpochKey::generate().unwrap();
    let opening = Opening::default();
    let boxed = Box::new(file.clone());
    let log = Log::start(boxed, &ending, &identity(), opening, key, Timestamp::now).unwrap();
    (log, file)
}

#[test]
fn failed_writes_are_undone_and_writing_goes_on() {
    let home = Home::new();
    let (log, file) = failing(&home);
    for counter in [&file.short, &file.no_space] {
        counter.store(1, Ordering::Relaxed);
        let failed = log.append(&read(1), Durability::Write);
        assert!(matches!(failed, Err(AppendError::Io(_))));
        log.append(&read(2), Durability::Write).unwrap();
    }
    log.stop(0).unwrap();
    assert_eq!(home.verify().unwrap().records, 4);
}

#[test]
fn a_write_that_cannot_be_undone_ends_the_log() {
    let home = Home::new();
    let (log, file) = failing(&home);
    file.short.store(1, Ordering::Relaxed);
    file.no_truncate.store(1, Ordering::Relaxed);
    assert!(log.append(&read(1), Durability::Write).is_err());
    let next = log.append(&read(2), Durability::Write);
    assert!(matches!(next, Err(AppendError::Poisoned)));
}

#[test]
fn a_failed_sync_ends_the_log() {
    let home = Home::new();
    let (log, file) = failing(&home);
    file.no_sync.store(1, Ordering::Relaxed);
    let failed = log.append(&read(1), Durability::Sync);
    assert!(matches!(failed, Err(AppendError::Poisoned)));
    let next = log.append(&read(2), Durability::Write);
    assert!(matches!(next, Err(AppendError::Poisoned)));
}

fn fixed_clock() -> Timestamp {
    Timestamp::constant(1_800_000_000, 123_456_789)
}

/// The frozen log of tests/vectors: what release 0.1 wrote must stay readable,
/// and the same events must still give the same bytes (Ed25519 is deterministic).
#[test]
fn the_frozen_log_is_reproduced_and_verifies() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let home = Home::new();
    for seed in [11, 12] {
        let opening = Opening {
            version: "0.1.0",
            vault_seq: 7,
            accept_older_vault: false,
        };
        let key = EpochKey::from_seed(seed);
        let log = Log::open_with(home.path(), &identity(), opening, key, fixed_clock).unwrap();
        log.append(&read(1000), Durability::Sync).unwrap();
        let denied = Event {
            result: Outcome::Denied,
            errno: Some(13),
            rule: Some("default"),
            ..Event {
                action: Action::Deny,
                ..read(1001)
            }
        };
        log.append(&denied, Durability::Sync).unwrap();
        log.stop(7).unwrap();
    }
    let frozen = fs::read(vectors.join("log-v1/00000001.jsonl")).unwrap();
    assert_eq!(
        String::from_utf8(home.bytes()).unwrap(),
        String::from_utf8(frozen).unwrap()
    );
    let public = PublicIdentity::open(&vectors.join("log-v1-identity.pub")).unwrap();
    let report = verify(&vectors.join("log-v1"), &public).unwrap();
    assert_eq!(
        report.head,
        fs::read_to_string(vectors.join("log-v1-head"))
            .unwrap()
            .trim()
    );
}

//! The audit log: appends beside what they can't do without, and its verification beside
//! bare signatures.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Instant;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey, verify_batch};
use jarvis_audit::{
    Action, Durability, Event, Identity, Log, Opening, Outcome, VerifyOptions, verify_with,
};

use crate::Effort;
use crate::rows::{Row, Samples, nanos, timed};
use crate::stage::Stage;

pub(crate) fn measure(effort: Effort) -> Vec<Row> {
    let stage = Stage::new();
    let mut rows = Vec::new();
    rows.extend(append_write(&stage, effort));
    rows.extend(append_sync(&stage, effort));
    rows.extend(verification(&stage, effort));
    rows
}

/// What a read of a secret records.
fn event() -> Event<'static> {
    Event {
        name: Some("team/db/password"),
        id: Some(1024),
        version: Some(3),
        kid: Some("password-20260101-000000"),
        uid: Some(1000),
        gid: Some(1000),
        pid: Some(4711),
        client: Some("backend"),
        rule: Some("team/**"),
        ..Event::new(Action::Read, Outcome::Ok, 7)
    }
}

/// Bytes of what a record's signature is over.
const MESSAGE: usize = 58;

/// A log of its own, and who it belongs to.
fn audit_log(stage: &Stage, name: &str) -> (PathBuf, Identity, Log) {
    let dir = stage.path(name);
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    let keys = ["key", "key.pub"].map(|end| stage.path(&format!("{name}.{end}")));
    let identity = Identity::create(&keys[0], &keys[1]).unwrap();
    let log = Log::open(&dir, &identity, Opening::default()).unwrap();
    (dir, identity, log)
}

/// Appends of one thread beside the one thing they can't do without.
fn append_write(stage: &Stage, effort: Effort) -> [Row; 2] {
    let (_, _, log) = audit_log(stage, "append-write");
    let key = SigningKey::from_bytes(&[1; 32]);
    let message = std::cell::RefCell::new([0; MESSAGE]);
    let sign = || {
        let mut message = message.borrow_mut();
        message[0] = u8::wrapping_add(message[0], 1);
        key.sign(&*message)
    };
    let append = || log.append(&event(), Durability::Write).unwrap();
    let [append, sign] = in_turns((effort, effort.of(2000)), append, sign);
    let sign = Row::new("Ed25519 signature", &sign);
    [Row::new("audit append write", &append).beside(&sign), sign]
}

/// Both, in turns: what else the machine does hits them alike.
fn in_turns<S, T>(
    (effort, count): (Effort, usize),
    mut one: impl FnMut() -> S,
    mut other: impl FnMut() -> T,
) -> [Samples; 2] {
    let mut nanos = [const { Vec::new() }; 2];
    for _ in 0..effort.rounds {
        nanos[0].extend(timed(count, &mut one).into_nanos());
        nanos[1].extend(timed(count, &mut other).into_nanos());
    }
    nanos.map(Samples::new)
}

/// Appends that wait for the disk, beside an append to a plain file and fdatasync
/// by one thread alone.
fn append_sync(stage: &Stage, effort: Effort) -> Vec<Row> {
    let clients = [1, 8, 32];
    let logs = clients.map(|n| audit_log(stage, &format!("append-sync-{n}")));
    let dir = &logs[0].0;
    logs[0].2.append(&event(), Durability::Sync).unwrap();
    let lines = fs::read(dir.join("00000001.jsonl")).unwrap();
    let record = lines.split_inclusive(|&b| b == b'\n').next_back().unwrap();
    let mut plain = File::create_new(dir.join("plain")).unwrap();
    let mut nanos = [const { Vec::new() }; 4];
    for _ in 0..effort.rounds {
        for ((_, _, log), (clients, nanos)) in logs.iter().zip(clients.iter().zip(&mut nanos)) {
            nanos.extend(appends(log, *clients, effort));
        }
        let sync = || {
            plain.write_all(record).unwrap();
            plain.sync_data().unwrap();
        };
        nanos[3].extend(timed(effort.of(128), sync).into_nanos());
    }
    let [one, eight, many, sync] = nanos.map(Samples::new);
    let sync = Row::new("append to a plain file and fdatasync, 1 client", &sync);
    let row = |clients: usize, samples| {
        let name = format!("audit append sync, {clients} client{}", plural(clients));
        Row::new(&name, samples).beside(&sync)
    };
    vec![row(1, &one), row(8, &eight), row(32, &many), sync]
}

/// As many from each of `clients` threads at once.
fn appends(log: &Log, clients: usize, effort: Effort) -> Vec<u64> {
    let one = || {
        timed(effort.of(256) / clients, || {
            log.append(&event(), Durability::Sync).unwrap()
        })
        .into_nanos()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(one)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    })
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Records of the log that is verified, and signatures that are checked beside it.
const RECORDS: usize = 32 * 1024;
/// All of a log, beside as many signatures alone on as many threads as there are
/// cores, 64 in one equation and as many as the verifier takes; all a record.
fn verification(stage: &Stage, effort: Effort) -> Vec<Row> {
    let (dir, identity, log) = audit_log(stage, "verify");
    while log.counters().records < RECORDS as u64 {
        log.append(&event(), Durability::Write).unwrap();
    }
    drop(log);
    let public = identity.public();
    let bare = signatures();
    let mut nanos = [const { Vec::new() }; 4];
    for _ in 0..effort.rounds {
        let verified = |strict| {
            let options = VerifyOptions {
                strict,
                ..VerifyOptions::default()
            };
            let report = verify_with(&dir, &public, options).unwrap();
            assert!(report.records >= RECORDS as u64);
        };
        nanos[0].push(a_record(|| verified(false)));
        nanos[1].push(a_record(|| check_signatures(&bare, 64)));
        nanos[2].push(a_record(|| verified(true)));
        nanos[3].push(a_record(|| check_signatures(&bare, 256)));
    }
    let [whole, bare, strict, more] = nanos.map(Samples::new);
    let name = |batch| format!("Ed25519 verification, {batch} at once, all cores");
    let bare = Row::new(&name(64), &bare);
    vec![
        Row::new("audit verify", &whole).beside(&bare),
        Row::new("audit verify --strict", &strict).beside(&bare),
        Row::new(&name(256), &more).beside(&bare),
        bare,
    ]
}

/// The time of `work` on all records, divided among them.
fn a_record(work: impl FnOnce()) -> u64 {
    let start = Instant::now();
    work();
    nanos(start.elapsed()) / RECORDS as u64
}

/// As many as there are records, of one key like those of an epoch.
fn signatures() -> Vec<([u8; MESSAGE], Signature, VerifyingKey)> {
    let key = SigningKey::from_bytes(&[2; 32]);
    let one = |number: usize| {
        let mut message = [0; MESSAGE];
        message[..8].copy_from_slice(&number.to_le_bytes());
        (message, key.sign(&message), key.verifying_key())
    };
    (0..RECORDS).map(one).collect()
}

fn check_signatures(signed: &[([u8; MESSAGE], Signature, VerifyingKey)], batch: usize) {
    let threads = std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| {
        for part in signed.chunks(signed.len().div_ceil(threads)) {
            scope.spawn(|| part.chunks(batch).for_each(check_batch));
        }
    });
}

fn check_batch(batch: &[([u8; MESSAGE], Signature, VerifyingKey)]) {
    let messages: Vec<_> = batch.iter().map(|(message, ..)| &message[..]).collect();
    let signatures: Vec<_> = batch.iter().map(|(_, signature, _)| *signature).collect();
    let keys: Vec<_> = batch.iter().map(|(.., key)| *key).collect();
    verify_batch(&messages, &signatures, &keys).unwrap();
}

//! `make bench`: the hot path beside the least a FUSE file system can do, and
//! the parts it is made of. Everything is measured in one run on one machine,
//! in turns, so that ratios mean something; no figure is asserted.
//!
//! Needs root. Writes `target/bench.json`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey, verify_batch};
use fuser::{
    Config, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen,
    Request, Session, SessionACL,
};
use jarvis_audit::{
    Action, Durability, Event, Identity, Log, Opening, Outcome, VerifyOptions, verify_with,
};
use jarvis_policy::{Accounts, Caller, Namespace, Policy, Verb};
use jarvis_vault::{Credential, LockedVault, NewVersion, SecretBytes, SecretName, Vault};
use serde_json::{Value, json};

/// Who reads: an ordinary user, as applications are.
const CLIENT: u32 = 61001;
const STRANGER: u32 = 61002;
const VALUE: [u8; 1024] = [7; 1024];
const ROUNDS: usize = 8;
const OPENS_A_ROUND: usize = 2000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, dir] = arguments.as_slice()
        && flag == "--serve-nothing"
    {
        return serve_nothing(Path::new(dir));
    }
    let mut rows = Vec::new();
    rows.extend(hot_path());
    rows.extend(parts());
    print(&rows);
    let json: Value = rows.iter().map(Row::json).collect();
    fs::write("target/bench.json", format!("{json:#}\n")).unwrap();
    println!("\nwritten: target/bench.json");
}

/// Durations in nanoseconds, sorted.
struct Samples(Vec<u64>);

impl Samples {
    fn new(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        Self(nanos)
    }

    fn percentile(&self, p: usize) -> f64 {
        let at = (self.0.len() - 1) * p / 100;
        u32::try_from(self.0[at]).map_or(f64::MAX, f64::from) / 1000.0
    }
}

/// Microseconds, and how many times the reference's.
struct Row {
    name: String,
    p50: f64,
    p99: f64,
    reference: Option<(String, f64, f64)>,
}

impl Row {
    fn new(name: &str, samples: &Samples) -> Self {
        Self {
            name: name.to_owned(),
            p50: samples.percentile(50),
            p99: samples.percentile(99),
            reference: None,
        }
    }

    fn beside(mut self, other: &Self) -> Self {
        self.reference = Some((
            other.name.clone(),
            self.p50 / other.p50,
            self.p99 / other.p99,
        ));
        self
    }

    fn json(&self) -> Value {
        let reference = self.reference.as_ref();
        json!({
            "name": self.name, "unit": "us", "p50": self.p50, "p99": self.p99,
            "reference": reference.map(|r| &r.0),
            "ratio_p50": reference.map(|r| r.1),
            "ratio_p99": reference.map(|r| r.2),
        })
    }
}

fn print(rows: &[Row]) {
    println!(
        "{:<44} {:>10} {:>10}   beside",
        "microseconds", "p50", "p99"
    );
    for row in rows {
        let beside = row
            .reference
            .as_ref()
            .map(|(name, p50, p99)| format!("{p50:.2}x p50, {p99:.2}x p99 of {name}"));
        println!(
            "{:<44} {:>10.1} {:>10.1}   {}",
            row.name,
            row.p50,
            row.p99,
            beside.unwrap_or_default()
        );
    }
}

/// A directory, the daemons started in it, and their end.
struct Stage {
    dir: tempfile::TempDir,
    children: Vec<(Child, PathBuf)>,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Self {
            dir,
            children: Vec::new(),
        }
    }

    fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join(part)
    }

    /// Starts a program that says a line once it serves `mount`.
    fn start(&mut self, mut command: Command, mount: &Path) {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "{command:?} did not start");
        self.children.push((child, mount.to_owned()));
    }

    fn jarvis(&mut self) -> PathBuf {
        let (etc, mount) = (self.path("etc"), self.path("jarvis"));
        let ctl = || {
            let mut ctl = Command::new(env!("CARGO_BIN_EXE_jarvisctl"));
            ctl.arg("--mount").arg(&mount).stdout(Stdio::null());
            ctl
        };
        assert!(
            ctl()
                .arg("init")
                .arg("--dir")
                .arg(&etc)
                .status()
                .unwrap()
                .success()
        );
        let config = etc.join("config.toml");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("[http]", "[http]\nenabled = false")).unwrap();
        let policy = format!(
            "clients:\n  admin: {{match: {{uid: 0}}, allow: ['*'], verbs: ['*']}}\n  \
             app: {{match: {{uid: {CLIENT}}}, allow: [file]}}\n"
        );
        fs::write(etc.join("policy.yaml"), policy).unwrap();
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_jarvis-secretsd"));
        daemon.arg("--config").arg(&config);
        self.start(daemon, &mount);
        fs::write(self.path("value"), VALUE).unwrap();
        let set = ctl()
            .args(["set", "file", "--from-file"])
            .arg(self.path("value"))
            .status();
        assert!(set.unwrap().success());
        mount
    }

    fn nothing(&mut self) -> PathBuf {
        let mount = self.path("nothing");
        fs::create_dir(&mount).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--serve-nothing").arg(&mount);
        self.start(command, &mount);
        mount
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for (child, mount) in &mut self.children {
            // A mount that is taken away from a daemon is made anew.
            child.kill().ok();
            child.wait().ok();
            Command::new("umount").arg("-l").arg(&*mount).status().ok();
            let mut unseal = Command::new("chattr");
            let unseal = unseal.arg("-i").arg(mount).stderr(Stdio::null());
            unseal.status().ok();
        }
    }
}

fn hot_path() -> Vec<Row> {
    let mut stage = Stage::new();
    // For the stranger to reach the mount.
    fs::set_permissions(stage.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let shared = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(shared.path().join("file"), VALUE).unwrap();
    let places = [
        ("do-nothing FUSE", stage.nothing().join("file")),
        ("jarvis", stage.jarvis().join("file")),
        ("tmpfs", shared.path().join("file")),
    ];
    let mut rows = Vec::new();
    for clients in [1, 8] {
        let mut nanos = [const { Vec::new() }; 3];
        // In turns: what else the machine does hits all of them alike.
        for _ in 0..ROUNDS {
            for ((_, path), nanos) in places.iter().zip(&mut nanos) {
                nanos.extend(open_read_close(path, clients));
            }
        }
        let [nothing, jarvis, tmpfs] = nanos.map(Samples::new);
        let name = |what: &str| format!("open+read+close, {clients} client(s), {what}");
        let nothing = Row::new(&name("do-nothing FUSE"), &nothing);
        rows.push(Row::new(&name("jarvis"), &jarvis).beside(&nothing));
        rows.push(nothing);
        rows.push(Row::new(&name("tmpfs"), &tmpfs));
    }
    rows.push(beside_a_stranger(&places[1].1));
    rows.push(Row::new(
        "set (control file, 1 KiB)",
        &sets(&stage.path("jarvis")),
    ));
    rows
}

/// Makes this thread another user's.
fn become_user(id: u32) {
    use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let (uid, gid) = (Some(Uid::from_raw(id)), Some(Gid::from_raw(id)));
    set_thread_groups(&[]).unwrap();
    set_thread_res_gid(gid, gid, gid).unwrap();
    set_thread_res_uid(uid, uid, uid).unwrap();
}

/// Somebody without rights asks as fast as it can, while others read.
fn beside_a_stranger(path: &Path) -> Row {
    let alone = Row::new(
        "open+read+close, 1 client(s), jarvis, alone",
        &Samples::new(open_read_close(path, 1)),
    );
    let done = AtomicBool::new(false);
    let stranger = || {
        become_user(STRANGER);
        while !done.load(Ordering::Relaxed) {
            let refused = File::open(path).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        }
    };
    let beside = std::thread::scope(|scope| {
        scope.spawn(stranger);
        let samples = open_read_close(path, 1);
        done.store(true, Ordering::Relaxed);
        Samples::new(samples)
    });
    let name = "open+read+close, 1 client(s), jarvis, beside a stranger";
    Row::new(name, &beside).beside(&alone)
}

fn open_read_close(path: &Path, clients: usize) -> Vec<u64> {
    let one = || {
        become_user(CLIENT);
        let mut buffer = [0; 2048];
        let timed = (0..OPENS_A_ROUND / clients).map(|_| {
            let start = Instant::now();
            let mut file = File::open(path).unwrap();
            let n = file.read(&mut buffer).unwrap();
            drop(file);
            assert_eq!(n, VALUE.len());
            nanos(start.elapsed())
        });
        timed.collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(one)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    })
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}

fn timed<T>(count: usize, mut work: impl FnMut() -> T) -> Samples {
    let one = |_| {
        let start = Instant::now();
        std::hint::black_box(work());
        nanos(start.elapsed())
    };
    Samples::new((0..count).map(one).collect())
}

fn sets(mount: &Path) -> Samples {
    let control = mount.join("jarvisctl");
    let mut control = OpenOptions::new()
        .read(true)
        .write(true)
        .open(control)
        .unwrap();
    let request = format!("set other \"{}\"", "v".repeat(1024));
    timed(300, || control.write(request.as_bytes()).unwrap())
}

fn parts() -> Vec<Row> {
    let stage = Stage::new();
    let mut rows = vec![decrypt(&stage), decision()];
    rows.extend(append_write(&stage));
    rows.extend(append_sync(&stage));
    rows.extend(verification(&stage));
    rows
}

fn decrypt(stage: &Stage) -> Row {
    let path = stage.path("vault.redb");
    let key = || Credential::KeyFile(SecretBytes::new(vec![1; 32]));
    jarvis_vault::create(&path, &key(), 0).unwrap();
    let locked = LockedVault::open(&path).unwrap();
    let probe = locked.unlock(&key()).unwrap();
    let vault: Vault = locked.start(probe).unwrap();
    let name = SecretName::parse("team/db/password").unwrap();
    let new = NewVersion::by(0, 0);
    vault.write(|txn| txn.set(&name, &VALUE, &new)).unwrap();
    let node = vault.find(&name).unwrap().unwrap();
    let samples = timed(20_000, || vault.value(&node, 1).unwrap().unwrap());
    Row::new("decrypt (load and open 1 KiB from the vault)", &samples)
}

struct Nobody;

impl Accounts for Nobody {
    fn uid(&self, _: &str) -> Option<u32> {
        None
    }

    fn gid(&self, _: &str) -> Option<u32> {
        None
    }
}

fn decision() -> Row {
    let client = |n: usize| {
        format!(
            "  c{n}: {{match: {{uid: {n}}}, allow: ['app{n}/**', 'x/*/y'], deny: ['app{n}/no']}}\n"
        )
    };
    let text: String = (0..100).map(client).collect();
    let policy = Policy::parse(&format!("clients:\n{text}"), &Nobody).unwrap();
    let caller = Caller {
        uid: 99,
        gid: 99,
        groups: &[1, 2, 3],
        containerized: false,
        namespace: Namespace::Host,
    };
    // A hundred at a time: one is shorter than the clock's step.
    let samples = timed(5000, || {
        for _ in 0..100 {
            let decision = policy.decide(&caller, Verb::Read, "app99/team/db/password");
            std::hint::black_box(decision.allowed());
        }
    });
    Row::new("policy decisions, 100 of 100 clients", &samples)
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
fn append_write(stage: &Stage) -> [Row; 2] {
    let (_, _, log) = audit_log(stage, "append-write");
    let key = SigningKey::from_bytes(&[1; 32]);
    let message = std::cell::RefCell::new([0; MESSAGE]);
    let sign = || {
        let mut message = message.borrow_mut();
        message[0] = u8::wrapping_add(message[0], 1);
        key.sign(&*message)
    };
    let append = || log.append(&event(), Durability::Write).unwrap();
    let [append, sign] = in_turns(2000, append, sign);
    let sign = Row::new("Ed25519 signature", &sign);
    [Row::new("audit append write", &append).beside(&sign), sign]
}

/// Both, in turns: what else the machine does hits them alike.
fn in_turns<S, T>(
    count: usize,
    mut one: impl FnMut() -> S,
    mut other: impl FnMut() -> T,
) -> [Samples; 2] {
    let mut nanos = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        nanos[0].extend(timed(count, &mut one).0);
        nanos[1].extend(timed(count, &mut other).0);
    }
    nanos.map(Samples::new)
}

/// Appends that wait for the disk, beside an append to a plain file and fdatasync
/// by one thread alone.
fn append_sync(stage: &Stage) -> Vec<Row> {
    let clients = [1, 8, 32];
    let logs = clients.map(|n| audit_log(stage, &format!("append-sync-{n}")));
    let dir = &logs[0].0;
    logs[0].2.append(&event(), Durability::Sync).unwrap();
    let lines = fs::read(dir.join("00000001.jsonl")).unwrap();
    let record = lines.split_inclusive(|&b| b == b'\n').next_back().unwrap();
    let mut plain = File::create_new(dir.join("plain")).unwrap();
    let mut nanos = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        for ((_, _, log), (clients, nanos)) in logs.iter().zip(clients.iter().zip(&mut nanos)) {
            nanos.extend(appends(log, *clients));
        }
        let sync = || {
            plain.write_all(record).unwrap();
            plain.sync_data().unwrap();
        };
        nanos[3].extend(timed(128, sync).0);
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
fn appends(log: &Log, clients: usize) -> Vec<u64> {
    let one = || {
        timed(256 / clients, || {
            log.append(&event(), Durability::Sync).unwrap()
        })
        .0
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
fn verification(stage: &Stage) -> Vec<Row> {
    let (dir, identity, log) = audit_log(stage, "verify");
    while log.counters().records < RECORDS as u64 {
        log.append(&event(), Durability::Write).unwrap();
    }
    drop(log);
    let public = identity.public();
    let bare = signatures();
    let mut nanos = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
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

/// The least a FUSE file system can do: one file, fixed bytes, the same library,
/// threads, mount and open flags as the daemon.
struct Nothing;

fn attributes(ino: u64) -> FileAttr {
    let directory = ino == 1;
    FileAttr {
        ino: INodeNo(ino),
        size: if directory { 0 } else { VALUE.len() as u64 },
        blocks: 2,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if directory {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: if directory { 0o500 } else { 0o400 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Nothing {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        config.set_max_write(1024 * 1024).unwrap();
        config
            .add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS)
            .ok();
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.entry(&Duration::ZERO, &attributes(2), Generation(0));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &attributes(ino.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(
            FileHandle(1),
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH,
        );
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(if offset == 0 { &VALUE } else { &[] });
    }
}

fn serve_nothing(mount: &Path) {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::NoSuid, MountOption::NoDev, MountOption::NoExec];
    config.acl = SessionACL::All;
    config.n_threads = Some(4);
    let session = Session::new(Nothing, mount, &config).unwrap();
    println!("ready");
    session.run().unwrap();
}

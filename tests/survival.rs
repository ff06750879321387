//! Workers are killed under load, and nobody may notice.
//!
//! Four readers, two held handles, a listing loop, a control writer and a bind
//! mount in another mount namespace work all the time. Workers are killed at
//! random moments, while they attach, and, by strace, at chosen system calls of
//! a vault commit and of an audit append. No operation may fail, no byte may be
//! wrong, every control write happens once, and the log shows every death.
// Helpers are tests, too: what clippy.toml allows in tests is for them as well.
#![cfg(test)]

mod harness;

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const SECRETS: usize = 10_000;
/// Secrets in a directory.
const WIDTH: usize = 100;
const BATCH: usize = 500;
const SEED: u64 = 20_261_123;

/// What is shared by those who work and those who kill.
struct Field {
    over: AtomicBool,
    operations: AtomicU64,
    /// The slowest operation since somebody last looked, in microseconds.
    slowest_us: AtomicU64,
    /// Control writes that were acknowledged.
    written: AtomicU64,
    /// How often each secret was read.
    reads: Vec<AtomicUsize>,
}

impl Field {
    fn new() -> Self {
        Self {
            over: AtomicBool::new(false),
            operations: AtomicU64::new(0),
            slowest_us: AtomicU64::new(0),
            written: AtomicU64::new(0),
            reads: (0..SECRETS).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    fn working(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Times one operation.
    fn operation<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let us = u64::try_from(start.elapsed().as_micros()).unwrap();
        self.slowest_us.fetch_max(us, Ordering::Relaxed);
        self.operations.fetch_add(1, Ordering::Relaxed);
        result
    }
}

/// Ends the work also when the killer panics: scoped threads are waited for.
struct Over<'f>(&'f Field);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

fn name(n: usize) -> String {
    format!("app/d{:03}/s{:02}", n / WIDTH, n % WIDTH)
}

fn value(n: usize) -> String {
    format!("value of {n} {}", "x".repeat(n % 300))
}

fn fill(home: &TestDaemon) {
    let mut control = Control::open(&home.mount()).unwrap();
    // A worker that takes seconds for one request would be replaced as one that hangs.
    let batch = BATCH / slowness() as usize;
    for first in (0..SECRETS).step_by(batch) {
        let sets = (first..SECRETS.min(first + batch))
            .map(|n| json!({"op": "set", "name": name(n), "value": value(n)}))
            .collect::<Vec<_>>();
        control.ask(json!(sets).to_string()).0.unwrap();
    }
    for held in ["app/held", "app/bound"] {
        let request = format!("set {held} \"first version of {held}\"");
        control.ask(request).0.unwrap();
    }
}

fn read_at_random(home: &TestDaemon, field: &Field, seed: u64) {
    alice().become_thread();
    let mut random = StdRng::seed_from_u64(seed);
    while field.working() {
        let n = random.random_range(0..SECRETS);
        let path = home.mount().join(name(n));
        let read = field.operation(|| fs::read(&path));
        let read = read.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(text(&read), value(n));
        field.reads[n].fetch_add(1, Ordering::Relaxed);
    }
}

fn hold(path: &Path, field: &Field) {
    alice().become_thread();
    let file = File::open(path).unwrap();
    let mut first = vec![0; 4096];
    let len = file.read_at(&mut first, 0).unwrap();
    let mut again = vec![0; 4096];
    while field.working() {
        let n = field.operation(|| file.read_at(&mut again, 0)).unwrap();
        assert_eq!(text(&again[..n]), text(&first[..len]));
    }
}

fn list(home: &TestDaemon, field: &Field) {
    alice().become_thread();
    let mut n = 0;
    while field.working() {
        let directory = home
            .mount()
            .join(format!("app/d{:03}", n % (SECRETS / WIDTH)));
        let listed = field.operation(|| {
            let entries = fs::read_dir(&directory).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        });
        let expected: Vec<std::ffi::OsString> =
            (0..WIDTH).map(|s| format!("s{s:02}").into()).collect();
        assert_eq!(listed, expected, "{}", directory.display());
        n += 1;
    }
}

/// Each write makes a new version: its number tells whether it happened once.
fn write(home: &TestDaemon, field: &Field) {
    let mut control = Control::open(&home.mount()).unwrap();
    let mut version = 1;
    while field.working() {
        let request = format!("set app/held \"version {}\"", version + 1);
        let (written, answer) = field.operation(|| control.ask(&request));
        assert_eq!(written, Ok(request.len()), "{answer}");
        version += 1;
        // The answer may have died with the worker that gave it, if that was
        // after the write returned: the next one tells.
        if answer != json!(null) {
            assert_eq!(answer["result"]["version"], json!(version), "{answer}");
        }
        field.written.store(version, Ordering::Relaxed);
    }
    let kept = root().read(&home.mount().join("app/held")).unwrap();
    assert_eq!(text(&kept), format!("version {version}"));
    let number = home.ok(&["get", "app/held", "--meta"], b"")["version"].clone();
    assert_eq!(number, json!(version.to_string()));
}

/// A bind mount of one file, seen from another mount namespace.
fn read_bound(home: &TestDaemon, field: &Field) {
    let (target, end) = (home.path("bound"), home.path("end"));
    fs::write(&target, b"").unwrap();
    let script = r#"mount --bind "$1" "$2" || exit 1
        expected=$(cat "$2") n=0
        while [ ! -e "$3" ]; do
            [ "$(cat "$2")" = "$expected" ] || exit 2
            n=$((n + 1))
        done
        echo "$expected"; echo "$n""#;
    let mut namespace = Command::new("unshare");
    namespace.args(["-m", "sh", "-c", script, "sh"]);
    namespace.args([&home.mount().join("app/bound"), &target, &end]);
    let child = namespace.stdout(Stdio::piped()).spawn().unwrap();
    while field.working() {
        std::thread::sleep(Duration::from_millis(20));
    }
    fs::write(&end, b"").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}: {said}", output.status);
    let (bytes, count) = said.trim_end().split_once('\n').unwrap();
    assert_eq!(bytes, "first version of app/bound");
    field
        .operations
        .fetch_add(count.parse().unwrap(), Ordering::Relaxed);
}

struct Killer<'a> {
    daemon: &'a RunningDaemon<'a>,
    field: &'a Field,
    random: StdRng,
    stalls_us: Vec<u64>,
    kills: Kills,
}

#[derive(Default)]
struct Kills {
    random: usize,
    attach: usize,
    commit: usize,
    append: usize,
}

impl Kills {
    fn all(&self) -> usize {
        self.random + self.attach + self.commit + self.append
    }
}

impl Killer<'_> {
    /// Lets the clients work on for a while, which is what a random moment is.
    fn pause(&mut self, at_most_us: u64) {
        let us = self.random.random_range(0..at_most_us);
        std::thread::sleep(Duration::from_micros(us));
    }

    fn next_stall(&mut self) {
        // Of the kill before: its clients have had their answers.
        self.stalls_us
            .push(self.field.slowest_us.swap(0, Ordering::Relaxed));
    }

    fn at_random(&mut self) {
        let (serving, _) = self.daemon.workers();
        self.pause(40_000);
        kill_process(serving, Signal::KILL).ok();
        self.kills.random += 1;
        self.next_stall();
    }

    /// The serving one, and the next one on its way to the device.
    fn attaching(&mut self) {
        let (serving, standby) = self.daemon.workers();
        kill_process(serving, Signal::KILL).ok();
        self.pause(4_000);
        kill_process(standby, Signal::KILL).ok();
        self.kills.random += 1;
        self.kills.attach += 1;
        self.next_stall();
    }

    /// At the `nth` system call of that name, if it comes to that in five seconds.
    fn in_call(&mut self, victim: Pid, call: &str, nth: u32, set_off: impl FnOnce()) -> bool {
        let fault = format!("signal=SIGKILL:when={nth}");
        let tracer = Tracer::attach(&[victim], call, &fault, Duration::from_secs(5));
        set_off();
        if let Ok(tracer) = tracer {
            tracer.wait();
        }
        !lives(victim)
    }

    fn in_attach(&mut self) {
        let (serving, standby) = self.daemon.workers();
        let calls = [
            ("flock", 2),
            ("fdatasync", 1),
            ("sendmsg", 3),
            ("write", 2),
            ("dup3", 1),
        ];
        let (call, most) = calls[self.random.random_range(0..calls.len())];
        let nth = self.random.random_range(1..=most);
        let hit = self.in_call(standby, call, nth, || {
            kill_process(serving, Signal::KILL).ok();
        });
        self.kills.random += 1;
        self.kills.attach += usize::from(hit);
        self.next_stall();
    }

    fn in_commit(&mut self) {
        let (serving, _) = self.daemon.workers();
        // redb writes with pwrite64, nobody else does.
        let nth = self.random.random_range(1..=12);
        let hit = self.in_call(serving, "pwrite64", nth, || {});
        self.kills.commit += usize::from(hit);
        self.next_stall();
    }

    fn in_append(&mut self) {
        let (serving, _) = self.daemon.workers();
        // Replies are writev, records are write.
        let nth = self.random.random_range(1..=20);
        let hit = self.in_call(serving, "write", nth, || {});
        self.kills.append += usize::from(hit);
        self.next_stall();
    }
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

/// Works and kills until `enough`, then takes stock.
fn survive(enough: impl Fn(&Kills) -> bool, kill: impl Fn(&mut Killer<'_>)) -> String {
    let home = TestDaemon::new().init(POLICY);
    // Segments end under the kills, too.
    home.configure("# segment_mb = 64", "segment_mb = 1");
    let daemon = home.start();
    fill(&home);
    let field = Field::new();
    let (kills, mut stalls) = std::thread::scope(|scope| {
        let over = Over(&field);
        for seed in 0..4 {
            let (home, field) = (&home, &field);
            scope.spawn(move || {
                let _over = Over(field);
                read_at_random(home, field, SEED + seed);
            });
        }
        let works: [Box<dyn FnOnce() + Send>; 5] = [
            Box::new(|| hold(&home.mount().join("app/held"), &field)),
            Box::new(|| hold(&home.mount().join("app/bound"), &field)),
            Box::new(|| list(&home, &field)),
            Box::new(|| write(&home, &field)),
            Box::new(|| read_bound(&home, &field)),
        ];
        for work in works {
            let field = &field;
            scope.spawn(move || {
                let _over = Over(field);
                work();
            });
        }
        let mut killer = Killer {
            daemon: &daemon,
            field: &field,
            random: StdRng::seed_from_u64(SEED),
            stalls_us: Vec::new(),
            kills: Kills::default(),
        };
        while !enough(&killer.kills) && field.working() {
            kill(&mut killer);
        }
        killer.daemon.workers();
        drop(over);
        (killer.kills, killer.stalls_us)
    });
    let log = daemon.log();
    let gaps = log
        .lines()
        .filter_map(|line| line.rsplit_once("gap_us=")?.1.parse().ok());
    let mut gaps: Vec<u64> = gaps.collect();
    gaps.sort_unstable();
    let deaths = log.matches("the worker ended").count();
    daemon.stop();
    let report = home.verify();
    take_stock(&home, &field, deaths);
    stalls.sort_unstable();
    let ms = |sorted: &[u64]| {
        let [p50, p99, worst] = [50, 99, 100].map(|p| percentile(sorted, p) as f64 / 1000.0);
        format!("p50 {p50:.1} ms, p99 {p99:.1} ms, worst {worst:.1} ms")
    };
    assert!(report.contains("stopped in order"), "{report}");
    // Every record is vouched for, whoever died before its signature followed.
    for doubt in ["unsigned ", "not signed yet", "lost "] {
        assert!(!report.contains(doubt), "{report}");
    }
    format!(
        "kills {} (attach {}, commit {}, append {}), operations {}, control writes {}, failures 0, \
         nobody served: {}, worst operation a kill: {}",
        kills.all(),
        kills.attach,
        kills.commit,
        kills.append,
        field.operations.load(Ordering::Relaxed),
        field.written.load(Ordering::Relaxed) - 1,
        ms(&gaps),
        ms(&stalls),
    )
}

/// The log has every version once, and a start for every death.
fn take_stock(home: &TestDaemon, field: &Field, deaths: usize) {
    let records = home.records();
    let of = |action: &str| records.iter().filter(|r| r["action"] == *action).count();
    let held = records.iter().filter(|r| r["name"] == "app/held");
    let mut versions: Vec<_> = held
        .filter(|r| r["action"] == "update" || r["action"] == "create")
        .map(|r| r["version"].as_u64().unwrap())
        .collect();
    versions.sort_unstable();
    let twice: Vec<_> = versions.windows(2).filter(|w| w[0] == w[1]).collect();
    assert!(twice.is_empty(), "recorded twice: {twice:?}");
    let written = field.written.load(Ordering::Relaxed);
    assert_eq!((versions[0], versions.len() as u64), (1, written));
    // Whatever anybody got has its record.
    let mut recorded = HashMap::new();
    for record in records.iter().filter(|r| r["action"] == "read") {
        let name = record["name"].as_str().unwrap();
        *recorded.entry(name.to_owned()).or_insert(0) += 1;
    }
    for (n, reads) in field.reads.iter().enumerate() {
        let recorded = recorded.get(&name(n)).copied().unwrap_or(0);
        let reads = reads.load(Ordering::Relaxed);
        assert!(
            recorded >= reads,
            "{}: {reads} reads, {recorded} records",
            name(n)
        );
    }
    assert!(home.segments().len() > 1, "no segment ended");
    // A worker that died before its start record left none.
    let starts = of("start");
    assert!(starts <= deaths + 1, "{starts} starts, {deaths} deaths");
    let reasons = records.iter().filter(|r| r["action"] == "start");
    let told = reasons.filter(|r| r["reason"].as_str().is_some_and(|t| t.contains("worker")));
    assert_eq!(
        told.count(),
        starts - 1,
        "each start says how the one before ended"
    );
}

#[test]
fn nobody_notices_a_thousand_kills() {
    let enough = |kills: &Kills| {
        let least = kills.attach.min(kills.commit).min(kills.append);
        kills.all() >= 1000 && least >= 200
    };
    let report = survive(enough, |killer| {
        let kills = &killer.kills;
        match [kills.attach, kills.commit, kills.append].map(|n| n < 200) {
            [true, ..] if kills.attach % 2 == 0 => killer.in_attach(),
            [true, ..] => killer.attaching(),
            [_, true, _] => killer.in_commit(),
            [_, _, true] => killer.in_append(),
            _ => killer.at_random(),
        }
    });
    println!("{report}");
}

/// `make soak MINUTES=n`: the same for as long as one likes.
#[test]
#[ignore = "runs for SOAK_MINUTES; make soak"]
fn soak() {
    let minutes: u64 = std::env::var("SOAK_MINUTES").unwrap().parse().unwrap();
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let enough = |kills: &Kills| Instant::now() >= end && kills.all() > 0;
    let report = survive(enough, |killer| match killer.kills.all() % 8 {
        0 => killer.in_attach(),
        1 => killer.attaching(),
        2 => killer.in_commit(),
        3 => killer.in_append(),
        _ => killer.at_random(),
    });
    println!("{report}");
}

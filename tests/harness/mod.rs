//! Tests share this: a daemon to look at, users to look at it, and containers.
#![allow(dead_code, unused_imports)] // Each test binary takes its part.

mod cgroup;
mod container;
mod daemon;
pub(crate) mod postgres;
mod tracer;
mod users;
mod volume;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub(crate) use cgroup::*;
pub(crate) use container::*;
pub(crate) use daemon::*;
pub(crate) use tracer::*;
pub(crate) use users::*;
pub(crate) use volume::*;

/// How many times slower than usual the machine is: JARVIS_TEST_PATIENCE, 1 if it is not set.
pub(crate) fn slowness() -> u32 {
    std::env::var("JARVIS_TEST_PATIENCE").map_or(1, |n| n.parse().unwrap())
}

/// Release of the running Linux, as in (6, 18).
pub(crate) fn kernel() -> (u32, u32) {
    let release = text(&fs::read("/proc/sys/kernel/osrelease").unwrap());
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().unwrap().parse().unwrap();
    (number(), number())
}

/// How long anything that touches a mount may take.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(30) * slowness()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn run(mut command: Command, input: &[u8]) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that does not read its input closes it.
    child.stdin.take().unwrap().write_all(input).ok();
    child.wait_with_output().unwrap()
}

pub(crate) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(-1)
}

/// Copies a program that is to be run. A process of its own does so: while a test
/// writes a file, what another test starts has it open, too, and the kernel runs
/// no file that is open for writing.
pub(crate) fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let mut copy = Command::new("cp");
    let copied = copy.args([from.as_ref(), to.as_ref()]).status();
    assert!(copied.unwrap().success(), "{}", from.as_ref().display());
}

/// Whether process `pid` is there and no mere entry in a table.
pub(crate) fn lives(pid: impl std::fmt::Display) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

/// Does `work` while so many threads read `file` as alice, each time with `value`.
pub(crate) fn while_read<T>(
    threads: usize,
    file: &Path,
    value: &[u8],
    work: impl FnOnce() -> T,
) -> T {
    struct Stop<'d>(&'d AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    let read = || {
        let mut reads = 0;
        while !done.load(Ordering::Relaxed) {
            assert_eq!(alice().read(file), Ok(value.to_vec()));
            reads += 1;
        }
        reads
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
        let stop = Stop(&done);
        let result = work();
        drop(stop);
        assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
        result
    })
}

/// Waits until `condition` holds, where no event tells of it.
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + patience();
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Stops the process `pid` and waits until none of its threads runs: on a busy machine
/// one that was just woken may do its work first.
pub(crate) fn stop_all_threads(pid: Pid) {
    kill_process(pid, Signal::STOP).unwrap();
    let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
    // What has ended meanwhile does nothing either.
    let is_stopped = |task: io::Result<fs::DirEntry>| {
        let stat = task.and_then(|task| fs::read_to_string(task.path().join("stat")));
        // The name, in parentheses, may have anything in it.
        stat.map_or(true, |stat| {
            stat.rsplit(") ")
                .next()
                .unwrap()
                .starts_with(['T', 'Z', 'X'])
        })
    };
    eventually("all threads are stopped", || {
        fs::read_dir(&tasks).map_or(true, |mut tasks| tasks.all(is_stopped))
    });
}

/// One client for each user: what tests ask for.
pub(crate) const POLICY: &str = r#"
clients:
  admin:
    match: {uid: 0}
    allow: ["*"]
    verbs: ["*"]
  jarvis-alice:
    allow: ["app/**", shared]
    deny: [app/forbidden]
"#;

/// A policy in which root may do everything, and others what `clients` says, YAML that is
/// indented by two.
pub(crate) fn with_admin(clients: &str) -> String {
    format!("clients:\n  admin: {{match: {{uid: 0}}, allow: ['*'], verbs: ['*']}}\n{clients}")
}

/// Alice asks for revocations, bob approves them.
pub(crate) const TWO_PERSONS: &str = r#"
clients:
  admin:
    match: {uid: 0}
    allow: ["*"]
    verbs: ["*"]
  jarvis-alice:
    allow: ["app/**"]
    verbs: [read, list, rotate, revoke, emergency, approve]
  jarvis-bob:
    allow: ["app/**"]
    verbs: [read, approve]
"#;

pub(crate) const EACCES: i32 = 13;
pub(crate) const ENOENT: i32 = 2;
pub(crate) const EIO: i32 = 5;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const EMFILE: i32 = 24;
pub(crate) const EROFS: i32 = 30;
pub(crate) const EKEYEXPIRED: i32 = 127;
pub(crate) const EKEYREVOKED: i32 = 128;

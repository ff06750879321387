//! Logs of any length are read in the same memory.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::*;

/// A query that keeps its records takes four times [`MEMORY`] for so many.
const RECORDS: usize = 30_000;
/// Memory that a command may map, in KiB.
const MEMORY: u64 = 64 * 1024;

/// A log with the same read again and again, which nobody verifies.
fn long_log(home: &TestDaemon) -> PathBuf {
    let daemon = home.start();
    daemon.set("shared", b"v");
    alice().read(&daemon.file("shared")).unwrap();
    daemon.stop();
    let log = fs::read(home.audit_log()).unwrap();
    let line = log
        .split_inclusive(|&b| b == b'\n')
        .find(|line| text(line).contains("\"action\":\"read\""));
    let dir = home.path("long");
    fs::create_dir(&dir).unwrap();
    let mut file = BufWriter::new(File::create(dir.join("00000001.jsonl")).unwrap());
    let line = line.unwrap();
    for _ in 0..RECORDS {
        file.write_all(line).unwrap();
    }
    file.flush().unwrap();
    dir
}

/// `jarvisctl audit` on a log, with little memory.
fn bounded(log: &Path, arguments: &str) -> Command {
    let mut command = Command::new("sh");
    let limited = format!("ulimit -v {MEMORY}; exec \"$0\" audit {arguments} --log \"$1\"");
    command.arg("-c").arg(limited).arg(jarvisctl()).arg(log);
    command.stdout(Stdio::piped());
    command
}

fn lines(log: &Path, arguments: &str) -> usize {
    let mut child = bounded(log, arguments).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().count();
    assert!(child.wait().unwrap().success(), "{arguments}");
    lines
}

#[test]
fn queries_take_no_more_memory_for_a_longer_log() {
    let home = TestDaemon::new().init(POLICY);
    let log = long_log(&home);
    assert_eq!(lines(&log, "query"), RECORDS + 1);
    assert_eq!(lines(&log, "query --csv --action read"), RECORDS + 1);
    assert!(lines(&log, "query --json") > RECORDS);
    let most = RECORDS - 10;
    assert_eq!(lines(&log, &format!("query -n {most}")), most + 1);
    assert_eq!(lines(&log, &format!("tail -n {most}")), most + 1);
    assert_eq!(lines(&log, "tail"), 10 + 1);
}

#[test]
fn a_query_ends_with_who_reads_it() {
    let home = TestDaemon::new().init(POLICY);
    let log = long_log(&home);
    for arguments in ["query", "query --json", "query --csv"] {
        let mut child = bounded(&log, arguments).spawn().unwrap();
        let mut first = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut first).unwrap();
        drop(output);
        assert!(child.wait().unwrap().success(), "{arguments}: {first}");
    }
}

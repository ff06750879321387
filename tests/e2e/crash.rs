//! SIGKILL at any instant.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::*;

const REQUESTS: usize = 500;
/// Requests between two kills.
const PER_LIFE: usize = 25;

/// What a secret may hold after a crash.
#[derive(Clone, Default)]
struct Known {
    acknowledged: Option<String>,
    /// Sent, but the daemon died before it answered.
    in_doubt: Option<Option<String>>,
}

/// While requests run, the daemon is killed at moments that differ from life to
/// life; what was acknowledged is there, what was not is there whole or not.
#[test]
fn acknowledged_changes_survive_sigkill() {
    let home = TestDaemon::new().init(POLICY);
    let mut secrets: HashMap<String, Known> = HashMap::new();
    let mut sent = 0;
    for life in 0.. {
        if sent >= REQUESTS {
            break;
        }
        let daemon = home.start();
        check(&daemon, &mut secrets);
        sent += one_life(&home, daemon, life, &mut secrets);
    }
    let daemon = home.start();
    check(&daemon, &mut secrets);
    daemon.stop();
    let report = home.verify();
    assert!(report.contains("stopped in order"), "{report}");
    every_commit_has_its_record(&home);
}

fn one_life(
    home: &TestDaemon,
    mut daemon: RunningDaemon<'_>,
    life: usize,
    secrets: &mut HashMap<String, Known>,
) -> usize {
    let answered = AtomicUsize::new(0);
    let pid = daemon.pid();
    let kill_after = life * 7 % PER_LIFE;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while answered.load(Ordering::Acquire) < kill_after {
                std::hint::spin_loop();
            }
            // Some way into the next request: the life number spreads the moment.
            for _ in 0..life * 20_000 {
                std::hint::spin_loop();
            }
            rustix::process::kill_process(pid, Signal::KILL).unwrap();
        });
        let mut sent = 0;
        let mut control = Control::open(&home.mount());
        for n in 0..PER_LIFE {
            // Killed before it could be opened.
            let Ok(control) = &mut control else {
                break;
            };
            let name = format!("app/s{}", (life * 5 + n) % 13);
            let known = secrets.entry(name.clone()).or_default();
            let (request, after) = match n % 5 {
                4 if known.acknowledged.is_some() => (format!("delete {name}"), None),
                _ => {
                    let value = format!("{life}-{n}-{}", "v".repeat(n * 40));
                    (format!("set {name} \"{value}\""), Some(value))
                }
            };
            sent += 1;
            match control.try_ask(&request) {
                Ok(()) => known.acknowledged = after,
                Err(_) => {
                    known.in_doubt = Some(after);
                    break;
                }
            }
            answered.fetch_add(1, Ordering::Release);
        }
        answered.store(usize::MAX, Ordering::Release);
        daemon.wait();
        sent
    })
}

fn check(daemon: &RunningDaemon<'_>, secrets: &mut HashMap<String, Known>) {
    for (name, known) in secrets {
        let found = match root().read(&daemon.file(name)) {
            Ok(value) => Some(text(&value)),
            Err(error) => {
                assert_eq!(error, ENOENT, "{name}");
                None
            }
        };
        match known.in_doubt.take() {
            Some(doubtful) if found == doubtful => known.acknowledged = doubtful,
            _ => assert_eq!(found, known.acknowledged, "{name}"),
        }
    }
}

/// Every version the vault has ever made stands in the log, once or marked.
fn every_commit_has_its_record(home: &TestDaemon) {
    let changes = ["create", "update", "delete"];
    let mut seen = HashMap::new();
    for record in home.records() {
        if changes.contains(&record["action"].as_str().unwrap()) {
            let times: &mut usize = seen
                .entry(record["vault_seq"].as_u64().unwrap())
                .or_default();
            *times += 1;
            assert!(
                *times == 1 || record["recovered"] == json!(true),
                "{record}"
            );
        }
    }
    let last = *seen.keys().max().unwrap();
    let missing: Vec<u64> = (1..=last).filter(|seq| !seen.contains_key(seq)).collect();
    assert!(missing.is_empty(), "commits without record: {missing:?}");
}

//! What one user's requests cost the others.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;

/// Bob may do what he likes beneath his own name.
const BOBS_OWN: &str = r#"
  jarvis-bob:
    allow: ["bob/**"]
    verbs: [read, write, rotate]
"#;

const EAGAIN: i32 = 11;
const EMSGSIZE: i32 = 90;

/// A batch that makes `secrets` with so many fields of 4,096 characters each.
fn batch(secrets: usize, fields: usize) -> String {
    let field = json!({"$generate": {"type": "password", "length": 4096}});
    let template: serde_json::Map<_, _> = (0..fields)
        .map(|n| (format!("f{n}"), field.clone()))
        .collect();
    let request = |n| {
        json!({
            "op": "generate", "name": format!("bob/s{n}"), "type": "json",
            "options": {"template": template},
        })
    };
    json!((0..secrets).map(request).collect::<Vec<Value>>()).to_string()
}

#[test]
fn a_request_that_costs_too_much_is_refused() {
    let home = TestDaemon::new().init(&with_admin(BOBS_OWN));
    let _daemon = home.start();
    let ask = |request: String| {
        let control = || Control::open(&home.mount()).unwrap().ask(request);
        bob().act(control)
    };
    let begins = || home.records_with(&[("action", json!("begin"))]);
    let (result, answer) = ask(batch(200, 64));
    assert_eq!(result, Err(EMSGSIZE));
    assert_eq!(answer["error"]["code"], "too_much", "{answer}");
    assert_eq!(ask(batch(1, 8)).1["ok"], true);
    assert!(begins().is_empty(), "neither took long");
    assert_eq!(ask(batch(2, 40)).1["ok"], true);
    // What a rotation costs is known from the secret's type.
    let rotations = vec![json!({"op": "rotate", "name": "bob/s0"}); 8];
    assert_eq!(ask(json!(rotations).to_string()).0, Err(EMSGSIZE));
    let begins = begins();
    assert_eq!(begins.len(), 1, "{begins:?}");
    assert_eq!(begins[0]["uid"], bob().uid);
    assert_eq!(begins[0]["count"], 2);
}

#[test]
fn a_revocation_waits_for_nobodys_batches() {
    let home = TestDaemon::new().init(&with_admin(BOBS_OWN));
    let daemon = home.start();
    daemon.set("other", b"v");
    let generation = home.ok(&["status"], b"")["worker_generation"].clone();
    let (done, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let hostile = || {
        bob().become_thread();
        let mut control = Control::open(&home.mount()).unwrap();
        while !done.load(Ordering::Relaxed) {
            control.ask(batch(2, 30)).0.ok();
            asked.fetch_add(1, Ordering::Relaxed);
        }
    };
    let waited = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..60).map(|_| scope.spawn(hostile)).collect();
        eventually("bob's requests wait", || asked.load(Ordering::Relaxed) > 2);
        let start = Instant::now();
        let request = json!({
            "op": "revoke", "name": "other", "reason": "suspected_compromise", "immediate": true,
        });
        let answer = Control::open(&home.mount())
            .unwrap()
            .ask(request.to_string());
        let waited = start.elapsed();
        assert_eq!(answer.1["ok"], true, "{answer:?}");
        done.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        waited
    });
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    assert_eq!(home.ok(&["status"], b"")["worker_generation"], generation);
}

/// The kernel cuts the connection of a mount when a request is not answered in 40 seconds.
#[test]
fn who_waits_too_long_for_a_turn_is_told_to_try_again() {
    let home = TestDaemon::new().init(&with_admin(BOBS_OWN));
    let daemon = home.start();
    let (serving, _) = daemon.workers();
    let connection = jarvis_fs::connection(&home.mount()).unwrap();
    // Each change takes some seconds, as on a disk that other work keeps busy.
    let delay = "delay_enter=1s";
    let tracer = Tracer::attach(&[serving], "fdatasync", delay, 4 * patience()).unwrap();
    let set = json!({"op": "set", "name": "bob/one", "value": "v"}).to_string();
    let ask = || {
        bob().become_thread();
        Control::open(&home.mount()).unwrap().ask(&set)
    };
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..24).map(|_| scope.spawn(ask)).collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap());
        ended.collect()
    });
    tracer.detach();
    let done = answers.iter().filter(|(result, _)| result.is_ok()).count();
    let busy = |(result, answer): &&(_, Value)| {
        *result == Err(EAGAIN) && answer["error"]["code"] == "busy"
    };
    let refused = answers.iter().filter(busy).count();
    assert!(done > 0 && refused > 0, "{answers:?}");
    assert_eq!(done + refused, answers.len(), "{answers:?}");
    assert_eq!(daemon.workers().0, serving, "{}", daemon.log());
    assert_eq!(jarvis_fs::connection(&home.mount()).unwrap(), connection);
}

#[test]
fn control_handles_and_their_answers_are_bounded() {
    let home = TestDaemon::new().init(&with_admin(BOBS_OWN));
    let daemon = home.start();
    // An export of some megabytes.
    for _ in 0..8 {
        daemon.set("bob/large", &vec![b'v'; 512 * 1024]);
    }
    let key = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
    let export = json!({"op": "history_export", "name": "bob/large", "key_b64": key}).to_string();
    let open = || Control::open(&home.mount()).map_err(|error| errno(&error));
    let held = bob().act(|| {
        let mut held: Vec<_> = (0..64).map(|_| open().unwrap()).collect();
        assert_eq!(open().err(), Some(EMFILE));
        let mut asked = held.iter_mut().map(|control| control.ask(&export));
        let refused = asked.find(|(result, _)| result.is_err());
        let (result, answer) = refused.expect("64 answers of some megabytes are held");
        assert_eq!(result, Err(EAGAIN));
        assert_eq!(answer["error"]["code"], "busy", "{answer}");
        held
    });
    assert_eq!(home.ok(&["status"], b"")["ready"], true, "others have room");
    drop(held);
    daemon.eventually("released", || {
        bob().act(|| open().unwrap().ask(&export).0.is_ok())
    });
}

/// Hostile users of the soak.
const HOSTILE: u32 = 8;

fn hostile_user(number: u32) -> User {
    User {
        uid: 300_000 + number,
        groups: Vec::new(),
        ..bob()
    }
}

/// Alice reads; each hostile user may see one of many names and change what is its own.
fn hostile_policy() -> String {
    let client = |number| {
        let uid = hostile_user(number).uid;
        format!(
            "  hostile-{number}:\n    match: {{uid: {uid}}}\n    \
             allow: [\"many/s{number}\", \"h{number}/**\"]\n    verbs: [read, write, rotate]\n"
        )
    };
    let hostile = (0..HOSTILE).map(client);
    std::iter::once(POLICY.to_owned()).chain(hostile).collect()
}

/// What hostile user `number` does with a thread of its own, again and again.
fn hostilities(number: u32, mount: &Path, address: &str) -> Vec<Box<dyn FnMut() + Send>> {
    let (many, shared) = (mount.join("many"), mount.join("shared"));
    let control = mount.to_owned();
    let handles = mount.to_owned();
    let address = address.to_owned();
    let request = batch(2, 30).replace("bob/", &format!("h{number}/"));
    let (mut held, mut idle) = (Vec::new(), Vec::new());
    vec![
        Box::new(move || assert!(fs::read_dir(&many).unwrap().count() > 0)),
        Box::new(move || drop(File::open(&shared))),
        Box::new(move || drop(Control::open(&control).map(|mut c| c.ask(&request)))),
        Box::new(move || {
            held.push(Control::open(&handles));
            held.truncate(if held.len() < 200 { 200 } else { 0 });
        }),
        Box::new(move || {
            idle.push(TcpStream::connect(&address));
            idle.truncate(if idle.len() < 50 { 50 } else { 0 });
        }),
    ]
}

/// Reads `file` as alice until `end`; the slowest of a hundred took so long.
fn p99(file: &Path, end: Instant) -> Duration {
    let mut waits = alice().act(|| {
        let mut waits = Vec::new();
        while Instant::now() < end {
            let start = Instant::now();
            assert_eq!(fs::read(file).unwrap(), b"v");
            waits.push(start.elapsed());
        }
        waits
    });
    waits.sort_unstable();
    waits[waits.len() * 99 / 100]
}

/// For SOAK_MINUTES; prints what an ordinary reader and an emergency notice.
#[test]
#[ignore = "takes minutes: make soak"]
fn soak() {
    let minutes: f64 = std::env::var("SOAK_MINUTES").unwrap().parse().unwrap();
    let home = TestDaemon::new().init(&hostile_policy());
    let (daemon, address) = home.start_http();
    daemon.set("shared", b"v");
    for chunk in 0..40 {
        let set =
            |n| json!({"op": "set", "name": format!("many/s{}", chunk * 500 + n), "value": "v"});
        let batch = (0..500).map(set).collect::<Vec<_>>();
        let mut control = Control::open(&home.mount()).unwrap();
        assert_eq!(control.ask(json!(batch).to_string()).1["ok"], true);
    }
    let generation = home.ok(&["status"], b"")["worker_generation"].clone();
    let length = Duration::from_secs_f64(minutes * 60.0);
    let shared = daemon.file("shared");
    let alone = p99(&shared, Instant::now() + length / 10);
    let end = Instant::now() + length;
    let revoke = || {
        let (mut count, mut slowest) = (0, Duration::ZERO);
        while Instant::now() < end {
            daemon.set(&format!("emergency/{count}"), b"v");
            let request = json!({
                "op": "revoke", "name": format!("emergency/{count}"),
                "reason": "suspected_compromise", "immediate": true,
            });
            let start = Instant::now();
            let mut control = Control::open(&home.mount()).unwrap();
            assert_eq!(control.ask(request.to_string()).1["ok"], true);
            slowest = slowest.max(start.elapsed());
            count += 1;
        }
        (count, slowest)
    };
    let (crowded, (count, slowest)) = std::thread::scope(|scope| {
        for number in 0..HOSTILE {
            for mut deed in hostilities(number, &home.mount(), &address) {
                scope.spawn(move || {
                    hostile_user(number).become_thread();
                    while Instant::now() < end {
                        deed();
                    }
                });
            }
        }
        let reader = scope.spawn(|| p99(&shared, end));
        let revoked = revoke();
        (reader.join().unwrap(), revoked)
    });
    assert_eq!(home.ok(&["status"], b"")["worker_generation"], generation);
    println!(
        "neighbours: a read's p99 is {alone:?} alone, {crowded:?} among {HOSTILE} hostile users; \
         the slowest of {count} immediate revocations took {slowest:?}"
    );
}

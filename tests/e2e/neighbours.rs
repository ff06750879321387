//! What one user's requests cost the others.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;

/// Bob may do what he likes beneath his own name.
const BOBS_OWN: &str = r#"
clients:
  admin:
    match: {uid: 0}
    allow: ["*"]
    verbs: ["*"]
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
    let home = TestDaemon::new().init(BOBS_OWN);
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
    let home = TestDaemon::new().init(BOBS_OWN);
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

#[test]
fn control_handles_and_their_answers_are_bounded() {
    let home = TestDaemon::new().init(BOBS_OWN);
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

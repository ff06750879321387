//! Notifications: webhooks and commands.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use jarvis_secretsd::config::EventKind;
use jarvis_secretsd::testing::Event;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::fixture::*;
use crate::harness::*;

const KEY: &str = "a key of the signature";

/// What came in.
struct Request {
    head: Vec<String>,
    body: String,
    at: Instant,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let of = |line: &'_ String| line.split_once(": ").map(|(n, _)| n.to_lowercase());
        let line = self
            .head
            .iter()
            .find(|line| of(line).as_deref() == Some(name));
        line.and_then(|line| line.split_once(": ")).map(|(_, v)| v)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A server that gives the `answers` in turn, the last for ever; one that is
/// empty is never given.
struct Server {
    url: String,
    requests: Receiver<Request>,
}

impl Server {
    fn new(answers: &'static [&'static str]) -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").unwrap(), answers)
    }

    fn at(listener: TcpListener, answers: &'static [&'static str]) -> Self {
        let url = format!("http://{}/hook?token=t", listener.local_addr().unwrap());
        let (sender, requests) = channel();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for (number, connection) in listener.incoming().enumerate() {
                let mut connection = connection.unwrap();
                if sender.send(receive(&connection)).is_err() {
                    return;
                }
                let answer = answers[number.min(answers.len() - 1)];
                match answer {
                    "" => held.push(connection),
                    answer => connection.write_all(answer.as_bytes()).unwrap(),
                }
            }
        });
        Self { url, requests }
    }

    fn next(&self) -> Request {
        self.requests.recv_timeout(patience()).unwrap()
    }

    fn silent(&self) -> bool {
        self.requests.try_recv().is_err()
    }
}

fn receive(connection: &TcpStream) -> Request {
    let at = Instant::now();
    let mut reader = BufReader::new(connection);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let mut request = Request {
        head,
        body: String::new(),
        at,
    };
    let length = request.header("content-length").unwrap().parse().unwrap();
    reader
        .take(length)
        .read_to_string(&mut request.body)
        .unwrap();
    request
}

const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";
const BROKEN: &str = "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n";
const NO: &str = "HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n";

/// A webhook at `url` with `more` lines.
fn with_webhook(url: &str, more: &str) -> RunnerFixture {
    let mut fixture = RunnerFixture::new(&format!("[[notify]]\nwebhook = \"{url}\"\n{more}\n"));
    fixture.spawn_runner();
    fixture
}

fn settled(fixture: &RunnerFixture, kind: EventKind, result: &str, count: u64) {
    eventually("it is counted", || fixture.count(kind, result) == count);
}

fn event() -> Event {
    Event::new(EventKind::RotationFailed)
        .secret("app/db")
        .version(7, "db-1")
        .actor(1000)
        .reason("the hook ended with exit status 1")
}

#[test]
fn a_webhook_gets_each_event_signed() {
    let server = Server::new(&[OK]);
    let mut fixture = RunnerFixture::new(&format!(
        "[[notify]]\nwebhook = \"{}\"\nsecret_file = \"key\"\n",
        server.url
    ));
    let key = fixture.path("etc/key");
    fs::write(&key, format!("{KEY}\n")).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fixture.spawn_runner();
    fixture.errands.notify(event());
    let request = server.next();
    assert_eq!(request.head[0], "POST /hook?token=t HTTP/1.1");
    assert_eq!(request.header("content-type"), Some("application/json"));
    let signature = request.header("jarvis-signature").unwrap();
    let (time, given) = signature.split_once(",v1=").unwrap();
    let time: u64 = time.strip_prefix("t=").unwrap().parse().unwrap();
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(now.abs_diff(time) < 30, "{time}");
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap();
    mac.update(format!("{time}.{}", request.body).as_bytes());
    mac.verify_slice(&hex::decode(given).unwrap()).unwrap();
    let mut body = request.json();
    let id = body["id"].take();
    assert_eq!(id.as_str().unwrap().len(), 16);
    assert!(body["time"].take().as_str().unwrap().ends_with('Z'));
    assert_eq!(body["host"].take().as_str().unwrap().len(), 16);
    assert_eq!(
        body,
        json!({"id": null, "time": null, "host": null, "kind": "rotation_failed", "name": "app/db",
            "version": 7, "kid": "db-1", "uid": 1000, "reason": "the hook ended with exit status 1"})
    );
    settled(&fixture, EventKind::RotationFailed, "delivered", 1);
}

#[test]
fn only_what_is_asked_for_is_sent() {
    let server = Server::new(&[OK]);
    let fixture = with_webhook(&server.url, "events = [\"expiry\", \"checkpoint\"]");
    fixture.errands.notify(event());
    fixture
        .errands
        .notify(Event::checkpoint("jarvis-audit-checkpoint v1\nhost 1\n"));
    let first = server.next();
    assert_eq!(first.json()["kind"], "checkpoint");
    assert_eq!(
        first.json()["checkpoint"],
        "jarvis-audit-checkpoint v1\nhost 1\n"
    );
    assert!(first.header("jarvis-signature").is_none());
    settled(&fixture, EventKind::Checkpoint, "delivered", 1);
    assert!(server.silent());
}

#[test]
fn what_may_pass_is_tried_again() {
    let server = Server::new(&[BROKEN, BROKEN, OK]);
    let fixture = with_webhook(&server.url, "");
    fixture.errands.notify(event());
    let tries = [server.next(), server.next(), server.next()];
    assert_eq!(
        tries[0].body, tries[2].body,
        "the same event has the same id"
    );
    let pauses = [tries[1].at - tries[0].at, tries[2].at - tries[1].at];
    assert!(pauses[0] >= Duration::from_millis(500), "{pauses:?}");
    assert!(pauses[1] >= Duration::from_millis(1000), "{pauses:?}");
    settled(&fixture, EventKind::RotationFailed, "delivered", 1);
    assert_eq!(fixture.count(EventKind::RotationFailed, "failed"), 0);
}

#[test]
fn a_receiver_that_is_not_there_yet_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let fixture = with_webhook(&format!("http://{address}/hook?token=t"), "");
    fixture.errands.notify(event());
    // Long enough for the first attempt, which nobody sees.
    std::thread::sleep(Duration::from_millis(200));
    let server = Server::at(TcpListener::bind(address).unwrap(), &[OK]);
    server.next();
    settled(&fixture, EventKind::RotationFailed, "delivered", 1);
}

#[test]
fn it_is_given_up_in_the_end() {
    let server = Server::new(&[BROKEN]);
    let fixture = with_webhook(&server.url, "attempts = 2");
    fixture.errands.notify(event());
    settled(&fixture, EventKind::RotationFailed, "failed", 1);
    assert_eq!(server.requests.try_iter().count(), 2);
    assert_eq!(fixture.count(EventKind::RotationFailed, "delivered"), 0);
}

#[test]
fn a_refusal_is_not_tried_again_and_no_redirect_followed() {
    let elsewhere = Server::new(&[OK]);
    let location = format!(
        "HTTP/1.1 307 Go\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
        elsewhere.url
    );
    let location: &'static str = location.leak();
    let answers: &'static [&'static str] = vec![NO, location].leak();
    let server = Server::new(answers);
    let fixture = with_webhook(&server.url, "");
    for count in [1, 2] {
        fixture.errands.notify(event());
        settled(&fixture, EventKind::RotationFailed, "failed", count);
    }
    assert_eq!(server.requests.try_iter().count(), 2);
    assert!(elsewhere.silent());
}

#[test]
fn a_receiver_that_never_answers_takes_no_longer_than_it_may() {
    let server = Server::new(&["", OK]);
    let fixture = with_webhook(&server.url, "timeout_secs = 1\nattempts = 1");
    let begun = Instant::now();
    fixture.errands.notify(event());
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "it does not block"
    );
    settled(&fixture, EventKind::RotationFailed, "failed", 1);
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_secs(1) && took < Duration::from_secs(5),
        "{took:?}"
    );
    fixture.errands.notify(event());
    settled(&fixture, EventKind::RotationFailed, "delivered", 1);
}

#[test]
fn an_answer_without_end_is_not_read() {
    // A head that says nothing and goes on.
    let endless: String = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(1 << 20));
    let answers: &'static [&'static str] = vec![&*endless.leak()].leak();
    let server = Server::new(answers);
    let fixture = with_webhook(&server.url, "attempts = 1");
    fixture.errands.notify(event());
    settled(&fixture, EventKind::RotationFailed, "failed", 1);
}

#[test]
fn only_a_server_that_the_system_trusts_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-subj", "/CN=localhost", "-addext"])
        .args([
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(certificate.status.success(), "{certificate:?}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mut server = std::process::Command::new("openssl")
        .args(["s_server", "-quiet", "-key", "key.pem", "-cert", "cert.pem"])
        .args(["-accept", &format!("127.0.0.1:{port}")])
        .current_dir(dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    eventually("it listens", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    let url = format!("https://127.0.0.1:{port}/");
    let fixture = with_webhook(&url, "attempts = 1\ntimeout_secs = 5");
    fixture.errands.notify(event());
    settled(&fixture, EventKind::RotationFailed, "failed", 1);
    server.kill().unwrap();
    let mut seen = String::new();
    server.stdout.take().unwrap().read_to_string(&mut seen).ok();
    server.wait().unwrap();
    assert_eq!(seen, "", "not a word was sent");
}

#[test]
fn a_full_queue_loses_the_oldest() {
    let server = Server::new(&["", OK]);
    let fixture = with_webhook(
        &server.url,
        "timeout_secs = 3\nattempts = 1\nevents = [\"expiry\"]",
    );
    let expiry = |number: u32| Event::new(EventKind::Expiry).version(number, "k");
    fixture.errands.notify(expiry(0));
    // The receiver has it and does not answer.
    assert_eq!(server.next().json()["version"], 0);
    for number in 1..=300 {
        fixture.errands.notify(expiry(number));
    }
    let dropped = fixture.count(EventKind::Expiry, "dropped");
    assert_eq!(dropped, 301 - 256);
    // It was among those that were given up when the receiver failed it.
    let versions: Vec<_> = (0..256)
        .map(|_| server.next().json()["version"].clone())
        .collect();
    assert_eq!(versions.first(), Some(&json!(45)));
    assert_eq!(versions.last(), Some(&json!(300)));
    settled(&fixture, EventKind::Expiry, "delivered", 256);
}

#[test]
fn what_a_dead_runner_had_is_sent_again() {
    let server = Server::new(&["", OK]);
    let mut fixture = with_webhook(&server.url, "timeout_secs = 60");
    fixture.errands.notify(event());
    let first = server.next();
    let runner = Pid::from_raw(fixture.runner().pid() as i32).unwrap();
    kill_process(runner, Signal::KILL).unwrap();
    eventually("its end is seen", || !fixture.errands.alive());
    // Meanwhile nobody takes it; it waits.
    fixture.errands.notify(event().reason("later"));
    fixture.spawn_runner();
    assert_eq!(
        server.next().body,
        first.body,
        "it may come twice, with one id"
    );
    assert_eq!(server.next().json()["reason"], "later");
    settled(&fixture, EventKind::RotationFailed, "delivered", 2);
}

#[test]
fn a_command_gets_each_event_as_its_input() {
    let mut fixture = RunnerFixture::new(
        "[[notify]]\ncommand = \"hooks/tell\"\nevents = [\"checkpoint\"]\nattempts = 2\n",
    );
    fixture.script(
        "tell",
        "#!/bin/sh\ncat >OUT/told.$$; env >OUT/env; mv OUT/told.$$ OUT/told\n",
    );
    fixture.spawn_runner();
    fixture.errands.notify(Event::checkpoint("note\n"));
    settled(&fixture, EventKind::Checkpoint, "delivered", 1);
    let told: Value = serde_json::from_str(&fixture.read("told")).unwrap();
    assert_eq!(
        (&told["kind"], &told["checkpoint"]),
        (&json!("checkpoint"), &json!("note\n"))
    );
    assert!(!fixture.read("env").contains("JARVIS"));

    fixture.script("tell", "#!/bin/sh\nexit 1\n");
    fixture.errands.notify(Event::checkpoint("note\n"));
    settled(&fixture, EventKind::Checkpoint, "failed", 1);
    let path = fixture.script("tell", "#!/bin/sh\necho >OUT/ran\n");
    chown(&path, Some(user("jarvis-alice").uid), None).unwrap();
    fixture.errands.notify(Event::checkpoint("note\n"));
    settled(&fixture, EventKind::Checkpoint, "failed", 2);
    assert!(!fixture.out("ran").exists());
}

#[test]
fn a_slow_receiver_delays_nobody_else() {
    let (slow, quick) = (Server::new(&[""]), Server::new(&[OK]));
    let mut fixture = RunnerFixture::new(&format!(
        "[[notify]]\nwebhook = \"{}\"\ntimeout_secs = 60\n[[notify]]\nwebhook = \"{}\"\n",
        slow.url, quick.url
    ));
    fixture.spawn_runner();
    for reason in ["one", "two", "three"] {
        fixture.errands.notify(event().reason(reason));
        assert_eq!(quick.next().json()["reason"], reason);
    }
    assert_eq!(slow.next().json()["reason"], "one");
    assert!(slow.silent());
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let mut fixture = RunnerFixture::new(
        "[[notify]]\nwebhook = \"https://example.org/\"\nsecret_file = \"key\"\n",
    );
    let key = fixture.path("etc/key");
    fs::write(&key, KEY).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fixture.spawn_runner()));
    let why = tried.unwrap_err();
    let why = why.downcast_ref::<String>().unwrap();
    assert!(why.contains("chmod 0600"), "{why}");
}

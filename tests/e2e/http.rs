//! The HTTP port.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::*;

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// Everything the server says to `bytes`.
fn talk(address: &str, bytes: &[u8]) -> String {
    let mut stream = connect(address);
    // The server may answer and close before it has read all.
    stream.write_all(bytes).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    text(&answer)
}

pub(crate) fn get(address: &str, path: &str) -> String {
    talk(
        address,
        format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes(),
    )
}

#[test]
fn requests_are_bounded_and_answered() {
    let home = TestDaemon::new().init(POLICY);
    let (_daemon, address) = home.start_http();
    assert!(get(&address, "/readyz").starts_with("HTTP/1.1 200 "));
    assert!(get(&address, "/healthz?x=1").contains("\"status\":\"ok\""));
    assert!(get(&address, "/metrics").contains("jarvis_http_request_seconds_count"));
    assert!(get(&address, "/secrets").starts_with("HTTP/1.1 404 "));
    assert!(talk(&address, b"POST /healthz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    let head = talk(&address, b"HEAD /healthz HTTP/1.1\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    for malformed in [
        b"\x00\x01\x02\r\n\r\n".to_vec(),
        b"GET / HTTP/9\r\n\r\n".to_vec(),
        [b"GET /".to_vec(), vec![b'a'; 20_000]].concat(),
        [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"A: b\r\n".repeat(100),
            b"\r\n".to_vec(),
        ]
        .concat(),
    ] {
        let answer = talk(&address, &malformed);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
            "{answer}"
        );
    }
}

#[test]
fn slow_clients_delay_no_read_of_a_secret() {
    let home = TestDaemon::new().init(POLICY);
    let (daemon, address) = home.start_http();
    daemon.set("app/db", b"v");
    let mut slow: Vec<TcpStream> = (0..100).map(|_| connect(&address)).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /met").ok();
    }
    for _ in 0..200 {
        assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"v".to_vec()));
    }
    // The patience with the slow ones ends, and the port serves again.
    drop(slow);
    daemon.eventually("served", || get(&address, "/healthz").contains("ok"));
}

/// The vault can't be unlocked until the passphrase comes: until then 503.
#[test]
fn ready_only_when_mounted_and_unlocked() {
    let home = TestDaemon::new();
    let etc = home.etc();
    let init = ["init", "--passphrase-stdin", "--dir", etc.to_str().unwrap()];
    assert!(home.ctl(&init, b"correct horse\n").status.success());
    home.policy(POLICY);
    home.configure("# listen = \"127.0.0.1:8081\"", "listen = \"127.0.0.1:0\"");
    let log = home.path("early.log");
    let mut command = home.daemon();
    command
        .arg("--passphrase-stdin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    command.stderr(std::fs::File::create(&log).unwrap());
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let address = loop {
        let said = std::fs::read_to_string(&log).unwrap();
        if let Some(address) = http_address(&said) {
            break address;
        }
        assert!(Instant::now() < deadline, "{said}");
        std::thread::yield_now();
    };
    for path in ["/readyz", "/healthz", "/metrics"] {
        assert!(get(&address, path).starts_with("HTTP/1.1 503 "), "{path}");
    }
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"correct horse\n")
        .unwrap();
    let wait = home.ctl(&["wait", "--timeout", "20"], b"");
    assert!(wait.status.success(), "{wait:?}");
    while !get(&address, "/readyz").starts_with("HTTP/1.1 200 ") {
        assert!(Instant::now() < deadline);
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_real_prometheus_scrapes_it() {
    let home = TestDaemon::new().init(POLICY);
    let (daemon, address) = home.start_http();
    daemon.set("app/db", b"v");
    alice().read(&daemon.file("app/db")).unwrap();
    let body = get(&address, "/metrics");
    let metrics = body.split_once("\r\n\r\n").unwrap().1;
    let mut lint = Command::new("promtool");
    lint.args(["check", "metrics"]);
    let lint = run(lint, metrics.as_bytes());
    assert!(lint.status.success(), "{lint:?}");

    let config = format!(
        "global: {{scrape_interval: 200ms, scrape_timeout: 150ms}}\n\
         scrape_configs: [{{job_name: jarvis, static_configs: [{{targets: ['{address}']}}]}}]\n"
    );
    std::fs::write(home.path("prometheus.yml"), config).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut command = Command::new("prometheus");
    command
        .arg(format!(
            "--config.file={}",
            home.path("prometheus.yml").display()
        ))
        .arg(format!(
            "--storage.tsdb.path={}",
            home.path("tsdb").display()
        ))
        .arg(format!("--web.listen-address={port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut server = Server(command.spawn().unwrap());
    let query = format!("http://{port}/api/v1/query?query=jarvis_secrets_retrieved_total");
    let ask = || {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "5", &query]);
        text(&run(curl, b"").stdout)
    };
    daemon.eventually("scraped", || ask().contains("\"1\"]"));
    server.0.kill().unwrap();
}

struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Connections that send half a head and stay: however many one user has, others are
/// answered at once, through root's only one and beside it.
#[test]
fn slow_clients_of_one_user_keep_nobody_else_from_being_answered() {
    let home = TestDaemon::new().init(POLICY);
    let (_daemon, address) = home.start_http();
    let mut slow = Vec::new();
    let mut waited_for = 0;
    for _ in 0..50 {
        let began = Instant::now();
        // Root's own slow one is not among those that have to go.
        let mut early = connect(&address);
        early.write_all(b"GET /rea").unwrap();
        slow.push(bob().act(|| {
            let one = || {
                let mut stream = connect(&address);
                stream.write_all(b"GET /met").ok();
                stream
            };
            (0..100).map(|_| one()).collect::<Vec<_>>()
        }));
        let asked = Instant::now();
        assert!(get(&address, "/readyz").starts_with("HTTP/1.1 200 "));
        // The patience with a slow one is longer.
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        let sent = early.write_all(b"dyz HTTP/1.1\r\n\r\n");
        // On a busy machine its time was over before bob had all of his.
        if began.elapsed() < Duration::from_secs(2) {
            let mut answer = String::new();
            sent.and_then(|()| early.read_to_string(&mut answer))
                .unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            waited_for += 1;
        }
        if waited_for == 5 {
            break;
        }
    }
    assert!(waited_for > 0);
    drop(slow);
}

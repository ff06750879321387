//! `/healthz`, `/readyz` and `/metrics` for machines that watch.
//!
//! A few threads of their own, one request a connection, everything bounded:
//! whatever clients do here, no read of a secret waits for it.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use serde_json::json;

use crate::worker::gate::Gate;

/// Longest request head in bytes.
const MAX_HEAD: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;
/// Time for a request's head to arrive, and for its answer to leave.
const PATIENCE: Duration = Duration::from_secs(3);
const THREADS: usize = 4;
/// Connections that may wait for a thread; more are closed at once.
const WAITING: usize = 32;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The gate, from when it serves until the daemon ends.
#[derive(Clone, Default)]
pub(crate) struct Readiness(Arc<RwLock<Weak<Gate>>>);

impl Readiness {
    pub(crate) fn set(&self, gate: &Arc<Gate>) {
        *self.0.write() = Arc::downgrade(gate);
    }

    pub(crate) fn clear(&self) {
        *self.0.write() = Weak::new();
    }

    fn gate(&self) -> Option<Arc<Gate>> {
        self.0.read().upgrade()
    }
}

struct Answer {
    code: u16,
    kind: &'static str,
    body: Vec<u8>,
}

impl Answer {
    fn text(code: u16, body: &str) -> Self {
        Self {
            code,
            kind: TEXT,
            body: format!("{body}\n").into_bytes(),
        }
    }
}

/// Starts answering, which ends with the process.
///
/// # Errors
/// When no threads can be had.
pub(crate) fn start(readiness: &Readiness, listener: TcpListener) -> io::Result<()> {
    let (queue, connections) = sync_channel(WAITING);
    let connections = Arc::new(Mutex::new(connections));
    for _ in 0..THREADS {
        let (readiness, connections) = (readiness.clone(), connections.clone());
        std::thread::Builder::new()
            .name("http".into())
            .spawn(move || serve(&readiness, &connections))?;
    }
    std::thread::Builder::new()
        .name("http-accept".into())
        .spawn(move || {
            for connection in listener.incoming().flatten() {
                // A full queue drops the connection, which closes it.
                queue.try_send(connection).ok();
            }
        })?;
    Ok(())
}

fn serve(readiness: &Readiness, connections: &Mutex<Receiver<TcpStream>>) {
    loop {
        let next = connections.lock().recv();
        match next {
            // A client that misbehaves or leaves is its own affair.
            Ok(connection) => handle(readiness, connection).unwrap_or_default(),
            Err(_) => return,
        }
    }
}

fn handle(readiness: &Readiness, mut connection: TcpStream) -> io::Result<()> {
    let start = Instant::now();
    let mut head = Vec::with_capacity(1024);
    let gate = readiness.gate();
    let answer = match read_head(&mut connection, &mut head, start + PATIENCE)? {
        Some((method, path)) => route(gate.as_deref(), &method, &path),
        None => Answer::text(400, "malformed or too large"),
    };
    connection.set_write_timeout(Some(PATIENCE))?;
    let head_only = head.starts_with(b"HEAD ");
    let result = respond(&mut connection, &answer, head_only);
    if let Some(gate) = gate {
        let label = answer.code.to_string();
        gate.metrics.http.with_label_values(&[&label]).inc();
        gate.metrics
            .http_seconds
            .observe(start.elapsed().as_secs_f64());
    }
    result
}

/// Method and path, or `None` for what is no request within the bounds. A
/// client may be slow by the byte, but not beyond the deadline.
fn read_head(
    connection: &mut TcpStream,
    head: &mut Vec<u8>,
    deadline: Instant,
) -> io::Result<Option<(String, String)>> {
    let mut piece = [0; 1024];
    loop {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(head) {
            Err(_) => return Ok(None),
            Ok(httparse::Status::Complete(_)) => {
                let method = request.method.unwrap_or_default().to_owned();
                let target = request.path.unwrap_or_default();
                let path = target.split('?').next().unwrap_or_default().to_owned();
                return Ok(Some((method, path)));
            }
            Ok(httparse::Status::Partial) if head.len() >= MAX_HEAD => return Ok(None),
            Ok(httparse::Status::Partial) => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        connection.set_read_timeout(Some(left))?;
        match connection.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => head.extend_from_slice(piece.get(..n).unwrap_or_default()),
        }
    }
}

fn route(gate: Option<&Gate>, method: &str, path: &str) -> Answer {
    match (method, path, gate) {
        ("GET" | "HEAD", "/readyz", Some(_)) => Answer::text(200, "ready"),
        ("GET" | "HEAD", "/healthz", Some(gate)) => health(gate),
        ("GET" | "HEAD", "/metrics", Some(gate)) => metrics(gate),
        ("GET" | "HEAD", "/readyz" | "/healthz" | "/metrics", None) => {
            Answer::text(503, "not ready: the vault is not unlocked and mounted")
        }
        ("GET" | "HEAD", _, _) => Answer::text(404, "not found"),
        _ => Answer::text(405, "only GET and HEAD"),
    }
}

fn health(gate: &Gate) -> Answer {
    let body = json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_secs": gate.uptime_secs(),
        "secrets_count": gate.vault.counts().secrets,
    });
    Answer {
        code: 200,
        kind: JSON,
        body: format!("{body}\n").into_bytes(),
    }
}

fn metrics(gate: &Gate) -> Answer {
    match gate.metrics.render(&gate.gauges()) {
        Ok(body) => Answer {
            code: 200,
            kind: METRICS,
            body,
        },
        Err(_) => Answer::text(500, "metrics cannot be rendered"),
    }
}

fn respond(connection: &mut TcpStream, answer: &Answer, head_only: bool) -> io::Result<()> {
    let reason = match answer.code {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    };
    let mut bytes = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.code,
        answer.kind,
        answer.body.len()
    )
    .into_bytes();
    if !head_only {
        bytes.extend_from_slice(&answer.body);
    }
    connection.write_all(&bytes)
}

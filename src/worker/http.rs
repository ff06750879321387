//! `/healthz`, `/readyz` and `/metrics` for machines that watch.
//!
//! A few threads of their own, one request a connection, everything bounded:
//! whatever clients do here, no read of a secret waits for it.
//!
//! Runs in: the worker, on threads of its own.
//! Touches: accepted connections, [`Status`]; no secrets, no names.
//! Imported by: mod.rs of the worker.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use serde_json::json;

use crate::process::spawn;
use crate::worker::status::Status;

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

/// The status, from when the worker serves until it retires.
#[derive(Clone, Default)]
pub(crate) struct Readiness(Arc<RwLock<Weak<Status>>>);

impl Readiness {
    pub(crate) fn set(&self, status: &Arc<Status>) {
        *self.0.write() = Arc::downgrade(status);
    }

    pub(crate) fn clear(&self) {
        *self.0.write() = Weak::new();
    }

    fn status(&self) -> Option<Arc<Status>> {
        self.0.read().upgrade()
    }
}

struct HttpAnswer {
    code: u16,
    kind: &'static str,
    body: Vec<u8>,
}

impl HttpAnswer {
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
        spawn("http", move || serve(&readiness, &connections))?;
    }
    spawn("http-accept", move || {
        for connection in listener.incoming().flatten() {
            // A full queue drops the connection, which closes it.
            queue.try_send(connection).ok();
        }
    })
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
    let status = readiness.status();
    let answer = match read_head(&mut connection, &mut head, start + PATIENCE)? {
        Some((method, path)) => route(status.as_deref(), &method, &path),
        None => HttpAnswer::text(400, "malformed or too large"),
    };
    connection.set_write_timeout(Some(PATIENCE))?;
    let head_only = head.starts_with(b"HEAD ");
    let result = respond(&mut connection, &answer, head_only);
    if let Some(status) = status {
        let label = answer.code.to_string();
        status
            .metrics()
            .service
            .http
            .with_label_values(&[&label])
            .inc();
        status
            .metrics()
            .service
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

fn route(status: Option<&Status>, method: &str, path: &str) -> HttpAnswer {
    match (method, path, status) {
        ("GET" | "HEAD", "/readyz", Some(status)) => ready(status),
        ("GET" | "HEAD", "/healthz", Some(status)) => health(status),
        ("GET" | "HEAD", "/metrics", Some(status)) => metrics(status),
        ("GET" | "HEAD", "/readyz" | "/healthz" | "/metrics", None) => {
            HttpAnswer::text(503, "not ready: the vault is not unlocked and mounted")
        }
        ("GET" | "HEAD", _, _) => HttpAnswer::text(404, "not found"),
        _ => HttpAnswer::text(405, "only GET and HEAD"),
    }
}

/// Ready is who could serve a read now. That no change can be made is a matter of health:
/// another instance would not be better off, and readers are.
fn ready(status: &Status) -> HttpAnswer {
    let log = status.fault().map(|why| format!("audit log: {why}"));
    match log.or_else(|| status.vault_trouble().reads) {
        None => HttpAnswer::text(200, "ready"),
        Some(why) => HttpAnswer::text(503, &format!("not ready: {why}")),
    }
}

/// The process lives, which this says also while nothing is released: to start it anew
/// would change nothing.
fn health(status: &Status) -> HttpAnswer {
    let trouble = status.vault_trouble();
    let fault = status.fault();
    let is_well = trouble.reads.is_none() && trouble.changes.is_none() && fault.is_none();
    let body = json!({
        "status": if is_well { "ok" } else { "degraded" },
        "audit_log": fault.as_deref().unwrap_or("ok"),
        "vault": {
            "readable": trouble.reads.is_none(),
            "writable": trouble.changes.is_none(),
            "problem": trouble.reads.or(trouble.changes),
        },
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_secs": status.uptime_secs(),
        "secrets_count": status.counts().secrets,
    });
    HttpAnswer {
        code: 200,
        kind: JSON,
        body: format!("{body}\n").into_bytes(),
    }
}

fn metrics(status: &Status) -> HttpAnswer {
    match status.metrics().render(&status.gauges()) {
        Ok(body) => HttpAnswer {
            code: 200,
            kind: METRICS,
            body,
        },
        Err(_) => HttpAnswer::text(500, "metrics cannot be rendered"),
    }
}

fn respond(connection: &mut TcpStream, answer: &HttpAnswer, head_only: bool) -> io::Result<()> {
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

//! `/healthz`, `/readyz` and `/metrics` for machines that watch.
//!
//! A thread of their own, one request a connection, everything bounded: whatever
//! clients do here, no read of a secret waits for it.
//!
//! Runs in: the worker, on a thread of its own.
//! Touches: accepted connections and whose they are, [`Status`]; no secrets, no names.
//! Imported by: mod.rs of the worker.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use serde_json::{Value, json};

use crate::process::spawn;
use crate::worker::status::Status;

mod peer;
mod server;

use server::Server;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The status, from when the worker serves until it retires.
#[derive(Clone)]
pub(crate) struct Readiness(Arc<RwLock<(Weak<Status>, &'static str)>>);

impl Readiness {
    /// Of a worker that does not serve yet.
    pub(crate) fn new() -> Self {
        let why = "the vault is not unlocked and mounted";
        Self(Arc::new(RwLock::new((Weak::new(), why))))
    }

    /// The worker serves, and is as `status` says.
    pub(crate) fn set(&self, status: &Arc<Status>) {
        self.0.write().0 = Arc::downgrade(status);
    }

    /// The worker does not serve any more, for the reason `why`.
    pub(crate) fn clear(&self, why: &'static str) {
        *self.0.write() = (Weak::new(), why);
    }

    /// The status, or why there is none.
    fn status(&self) -> Result<Arc<Status>, &'static str> {
        let known = self.0.read();
        known.0.upgrade().ok_or(known.1)
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

    fn json(code: u16, body: &Value) -> Self {
        Self {
            code,
            kind: JSON,
            body: format!("{body}\n").into_bytes(),
        }
    }
}

/// Starts answering, which ends with the process.
///
/// # Errors
/// When no thread can be had.
pub(crate) fn start(readiness: &Readiness, listener: TcpListener) -> io::Result<()> {
    let server = Server::new(readiness.clone(), listener)?;
    spawn("http", move || server.run())
}

fn route(status: Result<&Status, &&'static str>, method: &str, path: &str) -> HttpAnswer {
    match (method, path, status) {
        ("GET" | "HEAD", "/readyz", Ok(status)) => readiness(&status.troubles()),
        ("GET" | "HEAD", "/healthz", Ok(status)) => health(status),
        ("GET" | "HEAD", "/metrics", Ok(status)) => metrics(status),
        ("GET" | "HEAD", "/healthz", Err(why)) => {
            let body = json!({"status": "down", "troubles": {"worker": why}});
            HttpAnswer::json(503, &body)
        }
        ("GET" | "HEAD", "/readyz" | "/metrics", Err(why)) => {
            HttpAnswer::text(503, &format!("not ready: {why}"))
        }
        ("GET" | "HEAD", _, _) => HttpAnswer::text(404, "not found"),
        _ => HttpAnswer::text(405, "only GET and HEAD"),
    }
}

/// Whether a read would succeed now, or why not. That no change can be made is a matter of
/// health: another instance would not be better off, and readers are.
fn readiness(troubles: &BTreeMap<&'static str, String>) -> HttpAnswer {
    if troubles.is_empty() {
        return HttpAnswer::text(200, "ready");
    }
    let reasons = troubles.iter().map(|(kind, why)| format!("{kind}: {why}"));
    let reasons: Vec<_> = reasons.collect();
    HttpAnswer::text(503, &format!("not ready: {}", reasons.join("; ")))
}

/// The worker lives, which this says also while nothing is released: to start it anew
/// would change nothing.
fn health(status: &Status) -> HttpAnswer {
    let troubles = status.troubles();
    let vault = status.vault_trouble();
    let is_well = troubles.is_empty() && vault.changes.is_none();
    let body = json!({
        "status": if is_well { "ok" } else { "degraded" },
        "troubles": troubles,
        "audit_log": status.fault().unwrap_or_else(|| "ok".into()),
        "vault": {
            "readable": vault.reads.is_none(),
            "writable": vault.changes.is_none(),
            "problem": vault.reads.or(vault.changes),
        },
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_secs": status.uptime_secs(),
        "secrets_count": status.counts().secrets,
    });
    HttpAnswer::json(200, &body)
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

/// The bytes of `answer`.
fn respond(answer: &HttpAnswer, head_only: bool) -> Vec<u8> {
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
    bytes
}

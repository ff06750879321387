//! `/healthz`, `/readyz` and `/metrics` for machines that watch.

use std::net::SocketAddr;
use std::sync::Weak;

use serde_json::json;
use tiny_http::{Header, Method, Request, Response, Server};

use crate::gate::Gate;

/// Starts the listener; it ends with the process.
///
/// # Errors
/// A sentence that names the address.
pub(crate) fn start(gate: Weak<Gate>, address: SocketAddr) -> Result<SocketAddr, String> {
    let failed = |error: &dyn std::fmt::Display| {
        format!("cannot listen on {address} ({error}); change [http] listen or set enabled = false")
    };
    let server = Server::http(address).map_err(|error| failed(&error))?;
    let bound = server.server_addr().to_ip().unwrap_or(address);
    std::thread::Builder::new()
        .name("http".into())
        .spawn(move || {
            for request in server.incoming_requests() {
                // Only the daemon's end leaves no gate.
                if let Some(gate) = gate.upgrade() {
                    answer(&gate, request);
                }
            }
        })
        .map_err(|error| failed(&error))?;
    Ok(bound)
}

fn answer(gate: &Gate, request: Request) {
    let path = request.url().split('?').next().unwrap_or_default();
    let (code, kind, body) = match (request.method(), path) {
        (Method::Get | Method::Head, "/healthz") => (200, "application/json", health(gate)),
        // The listener starts once the tree is mounted and the vault unlocked.
        (Method::Get | Method::Head, "/readyz") => (200, "text/plain", b"ready\n".to_vec()),
        (Method::Get | Method::Head, "/metrics") => metrics(gate),
        (Method::Get | Method::Head, _) => (404, "text/plain", b"not found\n".to_vec()),
        _ => (405, "text/plain", b"only GET\n".to_vec()),
    };
    let label = code.to_string();
    gate.metrics.http.with_label_values(&[&label]).inc();
    let mut response = Response::from_data(body).with_status_code(code);
    if let Ok(header) = Header::from_bytes("Content-Type", kind) {
        response.add_header(header);
    }
    // The client may be gone; that is its affair.
    request.respond(response).ok();
}

fn health(gate: &Gate) -> Vec<u8> {
    let body = json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_secs": gate.started.elapsed().as_secs(),
        "secrets_count": gate.vault.counts().secrets,
    });
    format!("{body}\n").into_bytes()
}

fn metrics(gate: &Gate) -> (u16, &'static str, Vec<u8>) {
    match gate.metrics.render(&gate.gauges()) {
        Ok(text) => (200, "text/plain; version=0.0.4", text),
        Err(_) => (500, "text/plain", b"metrics cannot be rendered\n".to_vec()),
    }
}

//! Where the running daemon has what it works with, for those who administer it.
//!
//! Runs in: the worker.
//! Touches: paths and an address; no secrets, no names.
//! Imported by: control, startup, mod.rs of the worker.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;

use jarvis_audit::HostId;
use serde_json::{Value, json};

use crate::config::Config;

/// Places of the configuration that is in force. Paths are absolute.
pub(crate) struct Places {
    config: PathBuf,
    vault: PathBuf,
    policy: PathBuf,
    audit: PathBuf,
    identity: PathBuf,
    host: HostId,
    http: OnceLock<SocketAddr>,
}

impl Places {
    /// Those that `config`, the file at `path`, names, on the host that records call `host`.
    pub(crate) fn new(path: PathBuf, config: &Config, host: HostId) -> Self {
        Self {
            config: path,
            vault: config.vault.path.clone(),
            policy: config.policy.path.clone(),
            audit: config.audit.dir.clone(),
            identity: config.audit.identity.with_extension("pub"),
            host,
            http: OnceLock::new(),
        }
    }

    /// The port is listened on at `address` from now on.
    pub(crate) fn set_http(&self, address: SocketAddr) {
        // The supervisor has one port, however often it hands it over.
        self.http.set(address).ok();
    }

    /// The places by name: `http` is null while no port is listened on.
    pub(crate) fn json(&self) -> Value {
        json!({
            "config": self.config, "vault": self.vault, "policy": self.policy,
            "audit": self.audit, "identity": self.identity, "host": self.host.to_string(),
            "http": self.http.get().map(ToString::to_string),
        })
    }
}

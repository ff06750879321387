//! Commands that tell how the daemon is, and wait for it.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::{Args, value_parser};
use jarvis_fs::CONTROL_NAME;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Map, Value, json};

use super::exit::{CommandError, ErrorCode};
use super::http;
use super::mounted;
use super::output::Output;
use super::running::{self, DaemonPlaces};

/// Longest time that can be waited, in seconds: a year.
const MAX_TIMEOUT: i64 = 366 * 24 * 3600;

#[derive(Args)]
pub(super) struct HttpEndpoint {
    /// Address of the daemon's HTTP port; the daemon itself tells those who may ask it
    #[arg(long, env = "JARVIS_HTTP")]
    url: Option<String>,
}

#[derive(Args)]
pub(super) struct WaitCommand {
    /// Give up after this many seconds, at most a year
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u32).range(..=MAX_TIMEOUT))]
    timeout: u32,
}

/// Prints what the control file says of the daemon: `status`.
pub(super) fn status(mount: &Path, out: &Output) -> Result<(), CommandError> {
    let result = running::status(mount)?;
    out.show(&result, || lines(&result))?;
    no_troubles(&result)
}

/// Fails when the daemon says that a read would not succeed now.
fn no_troubles(answer: &Value) -> Result<(), CommandError> {
    let troubles = answer.get("troubles").and_then(Value::as_object);
    if troubles.is_none_or(Map::is_empty) {
        return Ok(());
    }
    let message = format!(
        "secrets cannot be read: {}",
        troubles.map(reasons).unwrap_or_default()
    );
    Err(CommandError::new(ErrorCode::Other, message))
}

fn reasons(troubles: &Map<String, Value>) -> String {
    let reasons = troubles
        .iter()
        .map(|(kind, why)| format!("{kind}: {}", plain(why)));
    reasons.collect::<Vec<_>>().join("; ")
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(parts) if parts.is_empty() => "none".into(),
        Value::Object(parts) => reasons(parts),
        other => other.to_string(),
    }
}

fn lines(object: &Value) -> String {
    let fields = object.as_object().into_iter().flatten();
    fields
        .map(|(key, value)| format!("{key}: {}\n", plain(value)))
        .collect()
}

impl HttpEndpoint {
    /// The address that was given, or that of the daemon that serves `mount`.
    fn url(&self, mount: &Path) -> Result<String, CommandError> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        let places = DaemonPlaces::of_daemon(mount);
        let places = places.map_err(|error| error.with_advice("or name its port with --url"))?;
        let address = places.http.ok_or_else(|| {
            let message = "the daemon listens on no HTTP port; see [http], and its log";
            CommandError::new(ErrorCode::Unreachable, message)
        })?;
        Ok(format!("http://{address}"))
    }

    pub(super) fn health(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let value = serde_json::from_str(&self.get(mount, "/healthz")?);
        let value: Value = value.map_err(CommandError::other)?;
        out.show(&value, || lines(&value))?;
        no_troubles(&value)
    }

    pub(super) fn metrics(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let text = self.get(mount, "/metrics")?;
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.filter_map(|line| {
            let (sample, value) = line.rsplit_once(' ')?;
            Some((sample.to_owned(), json!(value.parse::<f64>().ok()?)))
        });
        out.show(&Value::Object(samples.collect()), || text.clone())
    }

    fn get(&self, mount: &Path, path: &str) -> Result<String, CommandError> {
        let url = self.url(mount)?;
        let reply = http::get(&url, path)?;
        match reply.code {
            200 | 503 => Ok(reply.body),
            code => {
                let message = format!("{url}{path}: HTTP {code}; is that a jarvis-secretsd?");
                Err(CommandError::new(ErrorCode::Unreachable, message))
            }
        }
    }
}

impl WaitCommand {
    /// Waits for the kernel's word of a change of the mount table: nothing is polled.
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let path = Path::new("/proc/self/mountinfo");
        let mounts = File::open(path).map_err(|e| CommandError::io("open", path, &e))?;
        let deadline = Instant::now() + Duration::from_secs(self.timeout.into());
        while !serves(mount) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let message = format!("no daemon serves {} yet", mount.display());
                return Err(CommandError::new(ErrorCode::Unreachable, message));
            }
            let timeout = Timespec::try_from(left).map_err(CommandError::other)?;
            let mut changed = [PollFd::new(&mounts, PollFlags::PRI)];
            poll(&mut changed, Some(&timeout)).map_err(CommandError::other)?;
        }
        out.show(&json!({"mount": mount}), || {
            format!("{} is served", mount.display())
        })
    }
}

/// Whether the mount is served: then everybody finds the control file.
fn serves(mount: &Path) -> bool {
    mounted::check_directory(mount).is_ok()
        && std::fs::symlink_metadata(mount.join(CONTROL_NAME)).is_ok()
}

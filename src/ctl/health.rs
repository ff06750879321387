//! Commands that tell how the daemon is, and wait for it.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use jarvis_fs::CONTROL_NAME;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::client::request;
use super::exit::{CommandError, ErrorCode};
use super::mounted;
use super::output::Output;

/// Largest answer read from the HTTP port, in bytes.
const MAX_BODY: u64 = 4 * 1024 * 1024;

#[derive(Args)]
pub(super) struct HttpEndpoint {
    /// Address of the daemon's HTTP port
    #[arg(long, env = "JARVIS_HTTP", default_value = "http://127.0.0.1:8081")]
    url: String,
}

#[derive(Args)]
pub(super) struct WaitCommand {
    /// Give up after this many seconds
    #[arg(long, default_value_t = 30)]
    timeout: u64,
}

/// Prints what the control file says of the daemon: `status`.
pub(super) fn status(mount: &Path, out: &Output) -> Result<(), CommandError> {
    let result = request(mount, &json!({"op": "status"}))?;
    out.show(&result, || lines(&result))
}

fn lines(object: &Value) -> String {
    let fields = object.as_object().into_iter().flatten();
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    fields
        .map(|(key, value)| format!("{key}: {}\n", text(value)))
        .collect()
}

impl HttpEndpoint {
    pub(super) fn health(&self, out: &Output) -> Result<(), CommandError> {
        let body = self.get("/healthz")?;
        let value: Value = serde_json::from_str(&body).map_err(CommandError::other)?;
        out.show(&value, || lines(&value))
    }

    pub(super) fn metrics(&self, out: &Output) -> Result<(), CommandError> {
        let text = self.get("/metrics")?;
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.filter_map(|line| {
            let (sample, value) = line.rsplit_once(' ')?;
            Some((sample.to_owned(), json!(value.parse::<f64>().ok()?)))
        });
        out.show(&Value::Object(samples.collect()), || text.clone())
    }

    fn get(&self, path: &str) -> Result<String, CommandError> {
        let url = format!("{}{path}", self.url.trim_end_matches('/'));
        let unreachable = |error: ureq::Error| {
            CommandError::new(
                ErrorCode::Unreachable,
                format!("{url}: {error}; is [http] enabled?"),
            )
        };
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(10)))
            .build();
        let mut response = ureq::Agent::from(config)
            .get(&url)
            .call()
            .map_err(unreachable)?;
        let body = response.body_mut().with_config().limit(MAX_BODY);
        body.read_to_string().map_err(unreachable)
    }
}

impl WaitCommand {
    /// Waits for the kernel's word of a change of the mount table: nothing is polled.
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let path = Path::new("/proc/self/mountinfo");
        let mounts = File::open(path).map_err(|e| CommandError::io("open", path, &e))?;
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
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

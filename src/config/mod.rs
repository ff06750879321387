//! `config.toml`, checked. Unknown keys are refused.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use jarvis_audit::{MAX_BULK_SECRETS, MAX_DENIALS, Threshold, Thresholds};
use serde::{Deserialize, Serialize};

use crate::common::calendar::Windows;
use crate::common::clock::HOUR_MS;
use crate::ipc::runner::EventKind;

/// Largest configuration accepted, in bytes.
const MAX_CONFIG: u64 = 256 * 1024;
/// Most warnings before the end of a version's life.
const MAX_WARNINGS: usize = 8;
/// Longest life of an audit segment: a leap year.
const MAX_HOURS: u32 = 366 * 24;
/// Most `[[notify]]` in a configuration: each is a thread of the runner.
const MAX_NOTIFY: usize = 16;

/// The daemon's configuration.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Developer mode: what cannot be had without root is a warning.
    #[serde(default)]
    pub developer: bool,
    /// Where and how the tree is shown.
    pub mount: Mount,
    /// Where the secrets are.
    pub vault: Vault,
    /// Who may do what.
    pub policy: Policy,
    /// What was done.
    pub audit: Audit,
    /// The processes without privilege.
    #[serde(default)]
    pub worker: Worker,
    /// Health and metrics.
    #[serde(default)]
    pub http: Http,
    /// Life of a version.
    #[serde(default)]
    pub rotation: Rotation,
    /// Programs that carry a rotation to where the secret is used.
    #[serde(default)]
    pub hooks: Hooks,
    /// Who is told of what happens.
    #[serde(default)]
    pub notify: Vec<Notify>,
    /// The daemon's own messages.
    #[serde(default)]
    pub logging: Logging,
}

/// `[mount]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// The mount point.
    pub path: PathBuf,
    /// Serving threads, 2 to 64.
    #[serde(default = "Mount::threads")]
    pub threads: usize,
    /// Open handles one uid may hold.
    #[serde(default = "Mount::handles")]
    pub handles_per_uid: u32,
    /// Opens of one uid that may be served at once.
    #[serde(default = "Mount::pending")]
    pub pending_opens_per_uid: u32,
    /// Keep the mount when the worker dies (needs Linux 6.9); otherwise mount anew.
    #[serde(default = "Mount::keep")]
    pub keep: bool,
}

impl Mount {
    fn threads() -> usize {
        std::thread::available_parallelism().map_or(4, |n| n.get().clamp(4, 64))
    }

    fn handles() -> u32 {
        1024
    }

    fn pending() -> u32 {
        64
    }

    fn keep() -> bool {
        true
    }
}

/// `[vault]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Vault {
    /// The vault file.
    pub path: PathBuf,
    /// The key file; without it the passphrase comes on standard input.
    pub key_file: Option<PathBuf>,
}

/// `[policy]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The policy file.
    pub path: PathBuf,
}

/// `[audit]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// The directory of the log.
    pub dir: PathBuf,
    /// The host's identity key.
    pub identity: PathBuf,
    /// A directory, best on another machine, that gets a signed checkpoint of the
    /// log every ten seconds in which it grew, and at the end.
    pub checkpoints: Option<PathBuf>,
    /// When a read's record is durable enough to release the secret.
    #[serde(default)]
    pub durability: ReadDurability,
    /// Megabytes after which a segment of the log ends, 1 to 4096.
    #[serde(default = "Audit::segment_mb")]
    pub segment_mb: u32,
    /// Hours after which a segment of the log ends, at least 1.
    #[serde(default = "Audit::segment_hours")]
    pub segment_hours: u32,
    /// Days for which records are kept; 0 is for ever.
    #[serde(default = "Audit::retention_days")]
    pub retention_days: u32,
    /// What looks suspicious.
    #[serde(default)]
    pub suspicion: Suspicion,
}

impl Audit {
    fn segment_mb() -> u32 {
        64
    }

    fn segment_hours() -> u32 {
        24
    }

    fn retention_days() -> u32 {
        90
    }
}

/// `[audit.suspicion]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Suspicion {
    /// Denials of one uid that are told, up to 100; 0: never.
    pub denials: u32,
    /// Within so many minutes, up to a day.
    pub denials_minutes: u32,
    /// Different secrets read by one uid that are told, 2 to 500; 0: never.
    pub bulk_secrets: u32,
    /// Within so many seconds, up to an hour.
    pub bulk_seconds: u32,
}

impl Default for Suspicion {
    fn default() -> Self {
        let Thresholds { denials, bulk } = Thresholds::default();
        Self {
            denials: denials.count,
            denials_minutes: denials.seconds / 60,
            bulk_secrets: bulk.count,
            bulk_seconds: bulk.seconds,
        }
    }
}

impl Suspicion {
    pub(crate) fn thresholds(&self) -> Thresholds {
        Thresholds {
            denials: Threshold {
                count: self.denials,
                seconds: self.denials_minutes * 60,
            },
            bulk: Threshold {
                count: self.bulk_secrets,
                seconds: self.bulk_seconds,
            },
        }
    }
}

/// Durability of the records of reads; changes are always `sync`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ReadDurability {
    /// In the kernel: survives the daemon, a power loss can take 10 ms of it.
    #[default]
    Write,
    /// On disk.
    Sync,
}

/// `[worker]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// Who has the secrets when the daemon is started by root.
    pub user: String,
    /// Who has the network then.
    pub runner_user: String,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            user: "jarvis".into(),
            runner_user: "jarvis-runner".into(),
        }
    }
}

/// `[http]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Whether to listen at all.
    #[serde(default = "Http::enabled")]
    pub enabled: bool,
    /// The address.
    #[serde(default = "Http::listen")]
    pub listen: SocketAddr,
    /// Allows an address that other hosts can reach.
    #[serde(default)]
    pub allow_remote: bool,
}

impl Http {
    fn enabled() -> bool {
        true
    }

    fn listen() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 8081))
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            enabled: Self::enabled(),
            listen: Self::listen(),
            allow_remote: false,
        }
    }
}

/// `[rotation]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rotation {
    /// Days until a version should be replaced.
    pub expiry_days: u32,
    /// Days for which a superseded version stays readable by its key id.
    pub grace_days: u32,
    /// Days after which a new version is generated, where a secret's type has a
    /// generator; none: only secrets that have a schedule of their own.
    pub schedule_days: Option<u32>,
    /// When rotations by schedule may happen, UTC: `mon-fri 02:00-04:00; sun
    /// 00:00-24:00`. None: always.
    pub windows: Option<String>,
    /// Hours before the end of a version's life at which a warning is given.
    pub warning_hours: Vec<u32>,
    /// Hours for which a revocation can be approved and executed.
    pub revocation_hours: u32,
    /// Versions kept of each secret, 1 to 1000.
    pub keep_versions: usize,
    /// Days in which a deleted secret can be restored.
    pub recovery_days: u32,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            expiry_days: 90,
            grace_days: 14,
            schedule_days: None,
            windows: None,
            warning_hours: vec![24],
            revocation_hours: 24,
            keep_versions: 10,
            recovery_days: 7,
        }
    }
}

impl Rotation {
    /// The warnings in milliseconds before the end, the earliest first; the end
    /// itself is the last one.
    pub(crate) fn warnings_ms(&self) -> Vec<i64> {
        let mut warnings: Vec<_> = self.warning_hours.iter().map(|&h| i64::from(h)).collect();
        warnings.push(0);
        warnings.sort_unstable_by(|a, b| b.cmp(a));
        warnings.dedup();
        warnings.iter().map(|hours| hours * HOUR_MS).collect()
    }
}

/// `[hooks]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// Root's directory of executables; without it there are no hooks.
    pub dir: Option<PathBuf>,
    /// Seconds that a phase of a hook may take, 1 to 600.
    pub timeout_secs: u32,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            dir: None,
            timeout_secs: 30,
        }
    }
}

/// `[[notify]]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// A program of root's that gets each event as JSON on standard input.
    pub command: Option<PathBuf>,
    /// An address that gets each event by POST.
    pub webhook: Option<String>,
    /// Key of the webhook's signature; without it nothing is signed.
    pub secret_file: Option<PathBuf>,
    /// Allows http:// to other hosts.
    #[serde(default)]
    pub allow_http: bool,
    /// What it is told of.
    #[serde(default = "Notify::events")]
    pub events: Vec<EventKind>,
    /// How often it is tried in all, 1 to 20.
    #[serde(default = "Notify::attempts")]
    pub attempts: usize,
    /// Seconds that each may take, 1 to 60.
    #[serde(default = "Notify::timeout")]
    pub timeout_secs: u32,
}

/// Who a notification goes to.
pub(crate) enum Receiver<'n> {
    Command(&'n Path),
    Webhook(&'n str),
}

impl Notify {
    fn events() -> Vec<EventKind> {
        let often = |kind: &EventKind| *kind == EventKind::Checkpoint;
        let all = EventKind::ALL.into_iter();
        all.filter(|kind| !often(kind)).collect()
    }

    fn attempts() -> usize {
        6
    }

    fn timeout() -> u32 {
        10
    }

    /// `None` for what is neither or both.
    pub(crate) fn receiver(&self) -> Option<Receiver<'_>> {
        match (&self.command, &self.webhook) {
            (Some(path), None) => Some(Receiver::Command(path)),
            (None, Some(url)) => Some(Receiver::Webhook(url)),
            _ => None,
        }
    }

    /// The first rule that is broken.
    fn broken(&self) -> Option<(&'static str, &'static str)> {
        let signed = self.secret_file.is_some();
        let rules = [
            (
                self.receiver().is_some(),
                "notify",
                "must have either command or webhook",
            ),
            (
                self.webhook.is_some() || !(signed || self.allow_http),
                "notify.secret_file and notify.allow_http",
                "are for a webhook",
            ),
            (
                self.webhook.as_deref().is_none_or(is_address),
                "notify.webhook",
                "must be https://HOST or http://HOST, without user and password",
            ),
            (
                self.allow_http || self.webhook.as_deref().is_none_or(stays_private),
                "notify.webhook",
                "would be read by others on its way; use https, or set allow_http = true if that is meant",
            ),
            (
                !self.events.is_empty(),
                "notify.events",
                "must name something",
            ),
            (
                (1..=20).contains(&self.attempts),
                "notify.attempts",
                "must be 1 to 20",
            ),
            (
                (1..=60).contains(&self.timeout_secs),
                "notify.timeout_secs",
                "must be 1 to 60",
            ),
        ];
        let broken = rules.into_iter().find(|(holds, _, _)| !holds);
        broken.map(|(_, key, rule)| (key, rule))
    }
}

fn is_address(url: &str) -> bool {
    url.parse::<ureq::http::Uri>().is_ok_and(|uri| {
        let plain = |a: &ureq::http::uri::Authority| !a.as_str().contains('@');
        matches!(uri.scheme_str(), Some("https" | "http")) && uri.authority().is_some_and(plain)
    })
}

/// Nobody on the way can read what is sent to `url`.
fn stays_private(url: &str) -> bool {
    let Ok(uri) = url.parse::<ureq::http::Uri>() else {
        return false;
    };
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let local = |ip: std::net::IpAddr| ip.is_loopback();
    uri.scheme_str() == Some("https") || host == "localhost" || host.parse().is_ok_and(local)
}

/// `[logging]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Logging {
    /// Least severe level that is shown.
    #[serde(default)]
    pub level: Level,
}

/// Severity.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Failures.
    Error,
    /// Things to look at.
    Warn,
    /// Start, stop, reload.
    #[default]
    Info,
    /// Details for developers; never values.
    Debug,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It is no valid TOML, or has unknown or missing keys.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// With line and column.
        message: String,
    },
    /// A value is out of range.
    #[error("{path}: {key} {rule}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What it must be.
        rule: &'static str,
    },
}

impl Config {
    /// Reads and checks `path`. Relative paths in it are relative to its directory.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the place and the rule.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(read)?;
        let text = read_bounded(file, MAX_CONFIG).map_err(read)?;
        let mut config: Self = toml::from_str(&text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        config.check(path)?;
        config.anchor(path.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let remote = !self.http.listen.ip().is_loopback() && !self.http.allow_remote;
        let suspicion = &self.audit.suspicion;
        let rules = [
            (
                (2..=64).contains(&self.mount.threads),
                "mount.threads",
                "must be 2 to 64",
            ),
            (
                self.mount.handles_per_uid > 0,
                "mount.handles_per_uid",
                "must be at least 1",
            ),
            (
                self.mount.pending_opens_per_uid > 0,
                "mount.pending_opens_per_uid",
                "must be at least 1",
            ),
            (
                (1..=1000).contains(&self.rotation.keep_versions),
                "rotation.keep_versions",
                "must be 1 to 1000",
            ),
            (
                (1..=4096).contains(&self.audit.segment_mb),
                "audit.segment_mb",
                "must be 1 to 4096",
            ),
            (
                (1..=MAX_HOURS).contains(&self.audit.segment_hours),
                "audit.segment_hours",
                "must be 1 to 8784, which is a year",
            ),
            (
                suspicion.denials <= MAX_DENIALS,
                "audit.suspicion.denials",
                "must be 0 (never) to 100",
            ),
            (
                (1..=24 * 60).contains(&suspicion.denials_minutes),
                "audit.suspicion.denials_minutes",
                "must be 1 to 1440",
            ),
            (
                // One secret would make every read a bulk read.
                suspicion.bulk_secrets != 1 && suspicion.bulk_secrets <= MAX_BULK_SECRETS,
                "audit.suspicion.bulk_secrets",
                "must be 0 (never) or 2 to 500",
            ),
            (
                (1..=3600).contains(&suspicion.bulk_seconds),
                "audit.suspicion.bulk_seconds",
                "must be 1 to 3600",
            ),
            (
                self.rotation.schedule_days != Some(0),
                "rotation.schedule_days",
                "must be at least 1",
            ),
            (
                self.rotation.warning_hours.len() <= MAX_WARNINGS,
                "rotation.warning_hours",
                "must be at most 8 numbers",
            ),
            (
                (1..=MAX_HOURS).contains(&self.rotation.revocation_hours),
                "rotation.revocation_hours",
                "must be 1 to 8784",
            ),
            (
                self.rotation
                    .windows
                    .as_deref()
                    .is_none_or(|w| Windows::parse(w).is_ok()),
                "rotation.windows",
                "must be windows such as \"mon-fri 02:00-04:00; sun 00:00-24:00\"",
            ),
            (
                (1..=600).contains(&self.hooks.timeout_secs),
                "hooks.timeout_secs",
                "must be 1 to 600",
            ),
            (
                self.notify.len() <= MAX_NOTIFY,
                "notify",
                "must not be there more than 16 times",
            ),
            (
                !remote,
                "http.listen",
                "can be reached by other hosts; set http.allow_remote = true if that is meant",
            ),
        ];
        let broken = rules.into_iter().find(|(holds, _, _)| !holds);
        let broken = broken.map(|(_, key, rule)| (key, rule));
        match broken.or_else(|| self.notify.iter().find_map(Notify::broken)) {
            None => Ok(()),
            Some((key, rule)) => Err(ConfigError::Value {
                path: path.to_owned(),
                key,
                rule,
            }),
        }
    }

    fn anchor(&mut self, base: &Path) {
        let paths = [
            Some(&mut self.mount.path),
            Some(&mut self.vault.path),
            self.vault.key_file.as_mut(),
            Some(&mut self.policy.path),
            Some(&mut self.audit.dir),
            Some(&mut self.audit.identity),
            self.audit.checkpoints.as_mut(),
            self.hooks.dir.as_mut(),
        ];
        let notified = self.notify.iter_mut();
        let more = notified.flat_map(|n| [n.command.as_mut(), n.secret_file.as_mut()]);
        for path in paths.into_iter().chain(more).flatten() {
            *path = base.join(&path);
        }
    }
}

/// The text of `file`, at most `limit` bytes.
///
/// # Errors
/// What the system says; `FileTooLarge` over the limit.
pub(crate) fn read_bounded(file: File, limit: u64) -> std::io::Result<String> {
    let mut text = String::new();
    file.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "[mount]\npath = \"m\"\n[vault]\npath = \"/v\"\nkey_file = \"k\"\n\
        [policy]\npath = \"p\"\n[audit]\ndir = \"a\"\nidentity = \"i\"\n";

    fn load(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn relative_paths_start_at_the_file() {
        let config = load(BASE).unwrap();
        assert!(config.mount.path.is_absolute() && config.mount.path.ends_with("m"));
        assert_eq!(config.vault.path, Path::new("/v"));
        assert_eq!(config.mount.handles_per_uid, 1024);
    }

    #[test]
    fn unknown_keys_are_refused_with_their_line() {
        for text in [
            format!("colour = 1\n{BASE}"),
            BASE.replace("[policy]", "[policy]\nmode = 1"),
            format!("{BASE}[nonsense]\n"),
        ] {
            let error = load(&text).unwrap_err();
            assert!(
                error.contains("unknown field") && error.contains("line "),
                "{error}"
            );
        }
    }

    #[test]
    fn receivers_are_checked() {
        let with = |lines: &str| load(&format!("{BASE}[[notify]]\n{lines}\n"));
        let config = with("command = \"tell\"").unwrap();
        assert!(config.notify[0].command.as_ref().unwrap().is_absolute());
        assert!(!config.notify[0].events.contains(&EventKind::Checkpoint));
        assert_eq!(config.notify[0].events.len(), EventKind::ALL.len() - 1);
        for good in [
            "webhook = \"https://example.org/x\"\nsecret_file = \"k\"",
            "webhook = \"http://127.0.0.1:8/x\"",
            "webhook = \"http://[::1]/\"",
            "webhook = \"http://localhost/\"\nevents = [\"checkpoint\", \"rotation_failed\"]",
            "webhook = \"http://example.org/\"\nallow_http = true",
        ] {
            assert!(with(good).is_ok(), "{good}: {:?}", with(good).err());
        }
        for (bad, why) in [
            ("", "either"),
            ("command = \"c\"\nwebhook = \"https://a\"", "either"),
            ("command = \"c\"\nsecret_file = \"k\"", "for a webhook"),
            ("webhook = \"http://example.org/\"", "allow_http"),
            ("webhook = \"http://127.0.0.1.example.org/\"", "allow_http"),
            ("webhook = \"ftp://127.0.0.1/\"", "https://HOST"),
            ("webhook = \"https://me:word@example.org/\"", "without user"),
            ("webhook = \"//example.org/\"", "https://HOST"),
            ("command = \"c\"\nevents = []", "name something"),
            ("command = \"c\"\nevents = [\"birthday\"]", "birthday"),
            ("command = \"c\"\nattempts = 0", "1 to 20"),
            ("command = \"c\"\ntimeout_secs = 61", "1 to 60"),
            ("command = \"c\"\ncolour = 1", "unknown field"),
        ] {
            let error = with(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        let many = "[[notify]]\ncommand = \"c\"\n";
        assert!(load(&format!("{BASE}{}", many.repeat(16))).is_ok());
        assert!(load(&format!("{BASE}{}", many.repeat(17))).is_err());
        for (seconds, good) in [(0, false), (1, true), (600, true), (601, false)] {
            let hooks = format!("{BASE}[hooks]\ntimeout_secs = {seconds}\n");
            assert_eq!(load(&hooks).is_ok(), good, "{seconds}");
        }
    }

    #[test]
    fn values_are_checked() {
        let remote = format!("{BASE}[http]\nlisten = \"0.0.0.0:1\"\n");
        assert!(load(&remote).unwrap_err().contains("allow_remote"));
        assert!(load(&format!("{remote}allow_remote = true\n")).is_ok());
        let threads = BASE.replace("[vault]", "threads = 1\n[vault]");
        assert!(load(&threads).unwrap_err().contains("mount.threads"));
        for (key, good, bad) in [
            ("denials", [0, 100], [101, u32::MAX]),
            ("denials_minutes", [1, 1440], [0, 1441]),
            ("bulk_secrets", [0, 500], [1, 501]),
            ("bulk_seconds", [1, 3600], [0, 3601]),
        ] {
            let with = |value: u32| load(&format!("{BASE}[audit.suspicion]\n{key} = {value}\n"));
            assert!(good.into_iter().all(|value| with(value).is_ok()), "{key}");
            for value in bad {
                assert!(
                    with(value)
                        .unwrap_err()
                        .contains(&format!("suspicion.{key} must"))
                );
            }
        }
    }
}

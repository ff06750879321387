//! `config.toml`, checked: a file a section, each with its own rules. Unknown keys
//! are refused.
//!
//! Runs in: every process (the supervisor hands it to the others).
//! Touches: the configuration file.
//! Imported by: processes, ipc.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use jarvis_sys::trust::{self, Rule};
use serde::{Deserialize, Serialize};

use crate::common::bounded;

mod audit;
mod below;
mod error;
mod mount;
mod notify;
mod rotation;
mod rule;

pub use audit::{AuditConfig, ReadDurability, SuspicionConfig};
pub(crate) use below::is_below;
pub use error::ConfigError;
pub use mount::MountConfig;
pub(crate) use notify::Receiver;
pub use notify::{EventKind, NotifyConfig};
pub use rotation::RotationConfig;
use rule::SettingRule;

/// Largest configuration accepted, in bytes.
const MAX_CONFIG: u64 = 256 * 1024;
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
    pub mount: MountConfig,
    /// Where the secrets are.
    pub vault: VaultConfig,
    /// The policy.
    pub policy: PolicyConfig,
    /// The audit log.
    pub audit: AuditConfig,
    /// The processes without privilege.
    #[serde(default)]
    pub worker: WorkerConfig,
    /// Health and metrics.
    #[serde(default)]
    pub http: HttpConfig,
    /// Life of a version.
    #[serde(default)]
    pub rotation: RotationConfig,
    /// Programs that carry a rotation to where the secret is used.
    #[serde(default)]
    pub hooks: HooksConfig,
    /// Receivers of notifications.
    #[serde(default)]
    pub notify: Vec<NotifyConfig>,
    /// The daemon's own messages.
    #[serde(default)]
    pub logging: LoggingConfig,
}

/// `[vault]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// The vault file.
    pub path: PathBuf,
    /// The key file; without it the passphrase comes on standard input.
    pub key_file: Option<PathBuf>,
}

/// `[policy]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// The policy file.
    pub path: PathBuf,
}

/// `[worker]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// User of the workers when the daemon is started by root.
    pub user: String,
    /// User of the runner then, another one.
    pub runner_user: String,
}

impl Default for WorkerConfig {
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
pub struct HttpConfig {
    /// Whether to listen at all.
    #[serde(default = "HttpConfig::enabled")]
    pub enabled: bool,
    /// The address.
    #[serde(default = "HttpConfig::listen")]
    pub listen: SocketAddr,
    /// Allows an address that other hosts can reach.
    #[serde(default)]
    pub allow_remote: bool,
}

impl HttpConfig {
    fn enabled() -> bool {
        true
    }

    fn listen() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 8081))
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            enabled: Self::enabled(),
            listen: Self::listen(),
            allow_remote: false,
        }
    }
}

/// `[hooks]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HooksConfig {
    /// Root's directory of executables; without it there are no hooks.
    pub dir: Option<PathBuf>,
    /// Seconds that a phase of a hook may take, 1 to 600.
    pub timeout_secs: u32,
}

impl Default for HooksConfig {
    fn default() -> Self {
        Self {
            dir: None,
            timeout_secs: 30,
        }
    }
}

/// `[logging]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LoggingConfig {
    /// Least severe level that is shown.
    #[serde(default)]
    pub level: LogLevel,
}

/// Severity.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
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
        let file = trust::open(path, Rule::FILE)?;
        let text = bounded::text(file, MAX_CONFIG).map_err(read)?;
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
        let own = [
            SettingRule::within("hooks.timeout_secs", self.hooks.timeout_secs, 1..=600),
            SettingRule::new(
                self.notify.len() <= MAX_NOTIFY,
                "notify",
                format!("must not be there more than {MAX_NOTIFY} times"),
            ),
            SettingRule::new(
                !remote,
                "http.listen",
                "can be reached by other hosts; set http.allow_remote = true if that is meant",
            ),
        ];
        let sections = [
            self.mount.rules(),
            self.audit.rules(),
            self.rotation.rules(),
        ];
        let rules = sections.into_iter().flatten().chain(own);
        let rules = rules.chain(self.notify.iter().flat_map(NotifyConfig::rules));
        match rules.into_iter().find(|rule| !rule.holds) {
            None => Ok(()),
            Some(SettingRule { key, must, .. }) => Err(ConfigError::Value {
                path: path.to_owned(),
                key,
                rule: must,
            }),
        }
    }

    /// Refuses a configuration, at `path`, that has what the daemon needs below its own mount:
    /// there it is hidden while secrets are served, and who looks for it then may wait for
    /// the daemon that looks.
    ///
    /// # Errors
    /// [`ConfigError::BelowMount`].
    pub(crate) fn check_places(&self, path: &Path) -> Result<(), ConfigError> {
        let mount = &self.mount.path;
        let own = [
            Some(path),
            Some(&self.vault.path),
            self.vault.key_file.as_deref(),
            Some(&self.policy.path),
            Some(&self.audit.dir),
            Some(&self.audit.identity),
            self.audit.checkpoints.as_deref(),
            self.hooks.dir.as_deref(),
        ];
        let notified = self.notify.iter();
        let more = notified.flat_map(|n| [n.command.as_deref(), n.secret_file.as_deref()]);
        let mut paths = own.into_iter().chain(more).flatten();
        match paths.find(|path| is_below(path, mount)) {
            None => Ok(()),
            Some(path) => Err(ConfigError::BelowMount {
                path: path.to_owned(),
                mount: mount.clone(),
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
        for (section, key, least, most) in [
            ("audit", "retention_days", 0, 36_525),
            ("audit", "segment_hours", 1, 8784),
            ("audit", "segment_mb", 1, 4096),
            ("mount", "handles_per_uid", 1, 65_536),
            ("mount", "pending_opens_per_uid", 1, 65_536),
            ("rotation", "expiry_days", 0, 36_525),
            ("rotation", "grace_days", 0, 36_525),
            ("rotation", "keep_versions", 1, 1000),
            ("rotation", "recovery_days", 0, 36_525),
            ("rotation", "revocation_hours", 1, 8784),
            ("rotation", "schedule_days", 1, 36_525),
        ] {
            let with = |value: u32| {
                let (header, line) = (format!("[{section}]\n"), format!("{key} = {value}\n"));
                let text = match BASE.contains(&header) {
                    true => BASE.replace(&header, &format!("{header}{line}")),
                    false => format!("{BASE}{header}{line}"),
                };
                load(&text)
            };
            assert!(with(least).is_ok() && with(most).is_ok(), "{key}");
            let below = least.checked_sub(1);
            for bad in below.into_iter().chain([most + 1, u32::MAX]) {
                let error = with(bad).unwrap_err();
                let rule = format!("{section}.{key} must be {least} to {most}");
                assert!(error.contains(&rule), "{error}");
            }
        }
        let warnings =
            |hours: &str| load(&format!("{BASE}[rotation]\nwarning_hours = [{hours}]\n"));
        assert!(warnings("0, 8784").is_ok());
        assert!(warnings("1, 8785").unwrap_err().contains("up to 8784"));
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

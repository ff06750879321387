//! `init`: everything a daemon needs, in one directory.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use clap::Args;
use jarvis_audit::Identity;
use jarvis_sys::trust::{self, Rule};
use jarvis_vault::{Credential, KEY_FILE_LEN, SecretBytes};
use serde_json::json;
use zeroize::Zeroizing;

use super::exit::{CommandError, ErrorCode};
use super::files;
use super::home::{DEFAULT_HOME, HomeDirectory};
use super::output::Output;
use crate::common::clock::now_ms;
use crate::config::{ConfigError, WorkerConfig, is_below};
use crate::process::credential::{read_key_file, read_passphrase};
use crate::process::is_root;

#[derive(Args)]
pub(super) struct InitCommand {
    #[command(flatten)]
    home: HomeDirectory,
    /// Key file that opens the vault; made when missing (default: DIR/vault.key)
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_stdin")]
    key_file: Option<PathBuf>,
    /// Open the vault with a passphrase, read from standard input (one line)
    #[arg(long)]
    passphrase_stdin: bool,
}

impl InitCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let dir = std::path::absolute(self.home.dir.as_deref().unwrap_or(Path::new(DEFAULT_HOME)))
            .map_err(CommandError::other)?;
        let mount = std::path::absolute(mount).map_err(CommandError::other)?;
        let config = dir.join("config.toml");
        if config.exists() {
            let message = format!("{} exists already; nothing was changed", config.display());
            return Err(CommandError::new(ErrorCode::Other, message));
        }
        let below = |path: &Path| is_below(path, &mount);
        if let Some(path) = [Some(&dir), self.key_file.as_ref()]
            .into_iter()
            .flatten()
            .find(|path| below(path))
        {
            let (path, mount) = (path.clone(), mount.clone());
            return Err(CommandError::other(ConfigError::BelowMount { path, mount }));
        }
        let vault = dir.join("vault/vault.redb");
        // Of another vault, perhaps, which a new key or identity would not fit.
        let made = [
            "vault/vault.redb",
            "identity.key",
            "identity.pub",
            "policy.yaml",
        ];
        if let Some(path) = made
            .iter()
            .map(|name| dir.join(name))
            .find(|path| path.exists())
        {
            let message = format!(
                "{} exists already, though {} does not; nothing was changed: put the missing files \
                 back, or name another directory with --dir",
                path.display(),
                config.display()
            );
            return Err(CommandError::new(ErrorCode::Other, message));
        }
        let passphrase = self.passphrase()?;
        make_directory(&dir, Rule::DIRECTORY)?;
        make_workers_directory(&dir.join("vault"))?;
        make_workers_directory(&dir.join("audit"))?;
        jarvis_vault::create(&vault, &self.credential(passphrase, &dir)?, now_ms())
            .map_err(CommandError::other)?;
        let identity = Identity::create(&dir.join("identity.key"), &dir.join("identity.pub"));
        let identity = identity.map_err(CommandError::other)?;
        files::create(&dir.join("policy.yaml"), policy().as_bytes())?;
        // Last: with it the directory counts as initialised.
        files::create(&config, self.config(&mount).as_bytes())?;
        let fingerprint = identity.public().fingerprint();
        let json = json!({"dir": dir, "config": config, "identity": fingerprint});
        out.show(&json, || {
            format!(
                "initialised {}\nidentity {fingerprint}\n\
                 keep a copy of identity.pub elsewhere: it is what audit logs are verified with\n\
                 start: jarvis-secretsd --config {}\n",
                dir.display(),
                config.display()
            )
        })
    }

    /// The passphrase, if there is to be one: asked for before anything is made.
    fn passphrase(&self) -> Result<Option<SecretBytes>, CommandError> {
        let asked = self
            .passphrase_stdin
            .then(|| read_passphrase(io::stdin().lock()));
        let line = asked.transpose().map_err(CommandError::other)?;
        if line.as_ref().is_some_and(|line| line.expose().is_empty()) {
            let message = "no passphrase came on standard input; nothing was made";
            return Err(CommandError::new(ErrorCode::Usage, message));
        }
        Ok(line)
    }

    fn credential(
        &self,
        passphrase: Option<SecretBytes>,
        dir: &Path,
    ) -> Result<Credential, CommandError> {
        if let Some(line) = passphrase {
            return Ok(Credential::Passphrase(line));
        }
        let default = dir.join("vault.key");
        let path = self.key_file.as_ref().unwrap_or(&default);
        if !path.exists() {
            make_key_file(path)?;
        }
        let key = read_key_file(path).map_err(CommandError::other)?;
        Ok(Credential::KeyFile(key))
    }

    fn config(&self, mount: &Path) -> String {
        let developer = !is_root();
        let key_file = match (&self.key_file, self.passphrase_stdin) {
            (_, true) => "# started with --passphrase-stdin".to_owned(),
            (None, false) => r#"key_file = "vault.key""#.to_owned(),
            (Some(path), false) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                format!("key_file = {}", quoted(&path))
            }
        };
        CONFIG
            .replace("@DEVELOPER@", &developer.to_string())
            .replace("@MOUNT@", &quoted(mount))
            .replace("@KEY@", &key_file)
    }
}

/// Path as a TOML string.
fn quoted(path: &Path) -> String {
    toml::Value::String(path.to_string_lossy().into_owned()).to_string()
}

const CONFIG: &str = r#"# jarvis-secretsd. Relative paths start at this file's directory.

# Without root: memory that cannot be locked is a warning, not an error.
developer = @DEVELOPER@

[mount]
path = @MOUNT@
# threads = 4
# handles_per_uid = 1024
# pending_opens_per_uid = 64

[vault]
path = "vault/vault.redb"
@KEY@

[policy]
path = "policy.yaml"

[audit]
dir = "audit"
identity = "identity.key"
# "write": a read's record is in the kernel before the secret is released; a signature
# follows within 10 ms. "signed": it has one of its own before. "sync": it is on disk, too.
durability = "write"
# A directory, best on another machine, for signed checkpoints of the log.
# checkpoints = "/mnt/witness"
# A segment of the log ends after so much or so long; whole segments older than
# the retention are removed (0: never), which a signed record says.
# segment_mb = 64
# segment_hours = 24
# retention_days = 90

# Recorded and counted as suspicious, besides the first read of a secret by a
# user after others, and handles passed to another user. 0: never.
[audit.suspicion]
# denials = 5            # of one user, within
# denials_minutes = 10
# bulk_secrets = 50      # different ones read by one user, within
# bulk_seconds = 60

[worker]
# user = "jarvis"
# runner_user = "jarvis-runner"

[http]
# enabled = true
# listen = "127.0.0.1:8081"

[rotation]
# expiry_days = 90
# grace_days = 14
# Rotate by schedule whatever has a generator; without it, only what has a
# schedule of its own (jarvisctl configure).
# schedule_days = 90
# windows = "mon-fri 02:00-04:00; sun 00:00-24:00"
# warning_hours = [24]
# revocation_hours = 24
# keep_versions = 10
# recovery_days = 7

# Programs that carry new versions of secrets to where they are used: root's,
# and nobody else's to write, in a directory that is the same.
[hooks]
# dir = "hooks"
# timeout_secs = 30

# Who is told of what happens; as often as needed. A program of root's that gets
# JSON on standard input, or an address; with a key the latter's is signed.
# [[notify]]
# command = "/usr/local/lib/jarvis/page"
# webhook = "https://example.org/hook"
# secret_file = "webhook.key"
# events = ["rotation", "rotation_failed", "expiry", "revocation", "approval_wanted", "suspicious"]
#                        # all of them; and, only where it is named, "checkpoint"
# attempts = 6
# timeout_secs = 10
# allow_http = false

[logging]
# level = "info"
"#;

fn policy() -> String {
    let uid = nix::unistd::geteuid().as_raw();
    POLICY.replace("@UID@", &uid.to_string())
}

const POLICY: &str = r#"# Who may do what. All clients that match a caller apply; deny wins over
# allow; what nothing allows is denied. After a change: jarvisctl policy reload
#
# match   uid, user, gid, group: a value or a list; all given keys must hold.
#         Without match the client's name is a user's name. uid 0 and gid 0
#         never match inside a container.
# allow   names of secrets; "*" alone is everything, elsewhere * stays within
# deny    a segment and ** crosses segments.
# verbs   read, list (the default), write, rotate, revoke, emergency, approve,
#         or "*" for all of them; audit, policy and key are about the whole
#         vault: only a client with allow "*" can have them, and has them by "*".
default_deny: true
clients:
  admin:
    match: {uid: @UID@}
    allow: ["*"]
    verbs: ["*"]
#  backend:
#    match: {user: backend}
#    allow: [jwt_signing_key, "backend/**"]
#    deny: [backend/root_password]
"#;

/// Makes a directory for what the daemon gives to its worker's user at its start. One that is
/// that user's already, as systemd-tmpfiles makes it, is taken back for as long.
fn make_workers_directory(path: &Path) -> Result<(), CommandError> {
    let rule = Rule::PRIVATE_DIRECTORY;
    let user = nix::unistd::User::from_name(&WorkerConfig::default().user);
    if let Ok(Some(user)) = user
        && is_root()
        && path.exists()
    {
        let theirs = rule.or_owned_by(user.uid.as_raw());
        trust::locate(path, theirs).map_err(CommandError::other)?;
        chown(path, Some(0), Some(0)).map_err(|e| CommandError::io("own", path, &e))?;
    }
    make_directory(path, rule)
}

/// Makes a directory where nobody else can meddle; one that is there must keep `rule`.
fn make_directory(path: &Path, rule: Rule) -> Result<(), CommandError> {
    let existing = path.ancestors().find(|part| part.exists());
    if let Some(existing) = existing {
        trust::locate(existing, Rule::CONTAINER).map_err(CommandError::other)?;
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| CommandError::io("create", path, &e))?;
    trust::locate(path, rule).map_err(CommandError::other)?;
    Ok(())
}

fn make_key_file(path: &Path) -> Result<(), CommandError> {
    let mut key = Zeroizing::new([0; KEY_FILE_LEN]);
    let failed = |e: io::Error| CommandError::io("create", path, &e);
    let mut source = File::open("/dev/urandom").map_err(failed)?;
    source.read_exact(key.as_mut_slice()).map_err(failed)?;
    files::create(path, key.as_slice())
}

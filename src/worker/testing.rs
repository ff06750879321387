//! Parts of a worker around a new vault and a new audit log, for unit tests.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use jarvis_audit::{Identity, Log, Opening, Record, read_records};
use jarvis_fs::{HANDLE_WORDS, HandleLimits, HandleTable};
use jarvis_sys::SharedWords;
use jarvis_vault::{Credential, LockedVault, SecretBytes, SecretName, Vault};
use tempfile::TempDir;

use super::audit::AuditTrail;
use super::audit::outage::{FoundLog, OpenedLog};
use super::commit::{CommitParts, Committer, Journal};
use super::metrics::Metrics;
use super::runner_client::RunnerClient;
use super::scheduler::SchedulerParts;
use super::secrets::Secrets;
use super::settings::Settings;
use crate::common::clock::now_ms;
use crate::config::Config;

const CONFIG: &str = "[mount]\npath = \"m\"\n[vault]\npath = \"v\"\nkey_file = \"k\"\n\
    [policy]\npath = \"p\"\n[audit]\ndir = \"a\"\nidentity = \"i\"\n";

/// A vault, an audit log, and the parts that write to them; there is no runner.
pub(crate) struct WorkerFixture {
    pub(crate) directory: TempDir,
    pub(crate) vault: Arc<Vault>,
    pub(crate) parts: SchedulerParts,
}

impl WorkerFixture {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let below = |name: &str| directory.path().join(name);
        std::fs::create_dir(below("log")).unwrap();
        for path in [directory.path().to_owned(), below("log")] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).unwrap();
        }
        std::fs::write(below("config.toml"), CONFIG).unwrap();
        let config = Config::load(&below("config.toml")).unwrap();
        let key = || Credential::KeyFile(SecretBytes::new(vec![7; 32]));
        jarvis_vault::create(&below("vault"), &key(), now_ms()).unwrap();
        let locked = LockedVault::open(&below("vault")).unwrap();
        let probe = locked.unlock(&key()).unwrap();
        let vault = Arc::new(locked.start(probe).unwrap());
        let identity = Identity::create(&below("key"), &below("public")).unwrap();
        let log = Log::open(&below("log"), &identity, Opening::default()).unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let settings = Arc::new(Settings::from(&config));
        let runner = Arc::new(RunnerClient::new(
            settings.hooks.limit,
            Vec::new(),
            metrics.service.notifications.clone(),
        ));
        let audit = Arc::new(AuditTrail::new(
            FoundLog::Open(OpenedLog {
                log,
                recorded_seq: 0,
            }),
            Default::default(),
            Box::new(identity),
            metrics.clone(),
            runner.clone(),
            settings.clone(),
        ));
        let secrets = Arc::new(Secrets::new(
            vault.clone(),
            metrics.clone(),
            settings.clone(),
        ));
        let words = SharedWords::create("jarvis-test", HANDLE_WORDS).unwrap();
        let limits = HandleLimits {
            handles: 1,
            pending: 1,
        };
        let handles = Arc::new(HandleTable::new(words, limits).unwrap());
        let committer = Arc::new(Committer::new(CommitParts {
            vault: vault.clone(),
            secrets: secrets.clone(),
            audit: audit.clone(),
            runner: runner.clone(),
            metrics,
            settings: settings.clone(),
            journal: Journal::load(&vault, [1; 16], handles.clone()).unwrap(),
            handles,
        }));
        Self {
            directory,
            vault,
            parts: SchedulerParts {
                secrets,
                committer,
                audit,
                runner,
                settings,
                opened_seq: 0,
            },
        }
    }

    /// The log as it stands on disk.
    pub(crate) fn records(&self) -> Vec<Record> {
        let log: PathBuf = self.directory.path().join("log");
        let records = read_records(&log).unwrap();
        records.collect::<Result<_, _>>().unwrap()
    }
}

/// `text` as a secret's name.
pub(crate) fn name(text: &str) -> SecretName {
    SecretName::parse(text).unwrap()
}

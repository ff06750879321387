//! The parts that the scheduler works with.

use std::sync::Arc;

use crate::worker::audit::AuditTrail;
use crate::worker::commit::Committer;
use crate::worker::runner_client::RunnerClient;
use crate::worker::secrets::Secrets;
use crate::worker::settings::Settings;

/// The rooms of the worker that the scheduler uses.
pub(crate) struct SchedulerParts {
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) committer: Arc<Committer>,
    pub(crate) audit: Arc<AuditTrail>,
    pub(crate) runner: Arc<RunnerClient>,
    pub(crate) settings: Arc<Settings>,
    /// The vault's last commit when this worker opened it.
    pub(crate) opened_seq: u64,
}

//! The parts that control requests are carried out with.

use std::sync::Arc;

use jarvis_fs::InFlight;

use crate::worker::audit::AuditTrail;
use crate::worker::authorization::Authorization;
use crate::worker::commit::Committer;
use crate::worker::metrics::Metrics;
use crate::worker::places::Places;
use crate::worker::secrets::Secrets;
use crate::worker::settings::Settings;
use crate::worker::status::Status;

/// The control file's service.
pub(crate) struct ControlService {
    pub(crate) authorization: Arc<Authorization>,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) committer: Arc<Committer>,
    pub(crate) audit: Arc<AuditTrail>,
    pub(crate) status: Arc<Status>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) places: Arc<Places>,
    /// Told that a long request gets on.
    pub(crate) in_flight: Arc<InFlight>,
}

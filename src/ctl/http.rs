//! The daemon's HTTP port, asked.

use std::io;
use std::time::Duration;

use super::exit::{CommandError, ErrorCode};

/// Largest answer read from the HTTP port, in bytes.
const MAX_BODY: u64 = 4 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// Answer of the HTTP port.
pub(super) struct HttpReply {
    pub(super) code: u16,
    pub(super) body: String,
}

/// Reason why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {source}; is [http] enabled, and the port the daemon's?")]
pub(super) struct NoReply {
    url: String,
    source: ureq::Error,
}

impl NoReply {
    /// Whether nobody listens at all.
    pub(super) fn is_refusal(&self) -> bool {
        match &self.source {
            ureq::Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            _ => false,
        }
    }
}

impl From<NoReply> for CommandError {
    fn from(error: NoReply) -> Self {
        Self::new(ErrorCode::Unreachable, error)
    }
}

/// Asks the port at `base` for `path`. An answer that tells of trouble is an answer.
pub(super) fn get(base: &str, path: &str) -> Result<HttpReply, NoReply> {
    let url = format!("{}{path}", base.trim_end_matches('/'));
    let failed = |source| NoReply {
        url: url.clone(),
        source,
    };
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .build();
    let mut response = ureq::Agent::from(config).get(&url).call().map_err(failed)?;
    let code = response.status().as_u16();
    let body = response.body_mut().with_config().limit(MAX_BODY);
    let body = body.read_to_string().map_err(failed)?;
    Ok(HttpReply { code, body })
}

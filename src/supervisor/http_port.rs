//! The HTTP port: taken when it can be, for workers to answer on.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::error::SupervisorError;
use crate::config::HttpConfig;

/// Connections that may wait to be accepted; the kernel has a limit of its own.
const BACKLOG: i32 = 4096;
/// How often a port is tried that somebody else has.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Port that is listened on, or is to be.
pub(super) struct HttpPort {
    /// `None` where there is to be no port.
    address: Option<SocketAddr>,
    listener: Option<TcpListener>,
    next_try: Instant,
}

impl HttpPort {
    /// Listens as `settings` say. An address that can't be had now is no reason not to
    /// serve secrets: another process has the port (a worker that is about to die, perhaps),
    /// or the network is not up yet.
    ///
    /// # Errors
    /// [`SupervisorError::Listen`] for what does not change by itself.
    pub(super) fn open(settings: &HttpConfig) -> Result<Self, SupervisorError> {
        let mut port = Self {
            address: settings.enabled.then_some(settings.listen),
            listener: None,
            next_try: Instant::now() + RETRY_INTERVAL,
        };
        if let Some(address) = port.address
            && let Err(source) = port.listen(address)
        {
            if !may_pass(&source) {
                return Err(SupervisorError::Listen { address, source });
            }
            tracing::warn!(%address, error = %source, "no HTTP port yet: trying again every second");
        }
        Ok(port)
    }

    /// Listens, if that was not possible yet and it is time to try again.
    pub(super) fn retry(&mut self) {
        if let Some(address) = self.address
            && self.listener.is_none()
            && self.next_try <= Instant::now()
        {
            self.next_try = Instant::now() + RETRY_INTERVAL;
            if let Err(error) = self.listen(address) {
                tracing::debug!(%address, %error, "no HTTP port yet");
            }
        }
    }

    /// Listener for a worker.
    pub(super) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    fn listen(&mut self, address: SocketAddr) -> io::Result<()> {
        let listener = TcpListener::bind(address)?;
        // A full queue keeps others waiting for a second and more.
        rustix::net::listen(&listener, BACKLOG)?;
        tracing::info!(address = %listener.local_addr()?, "http");
        self.listener = Some(listener);
        Ok(())
    }
}

/// Whether an address may be free later.
fn may_pass(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable
    )
}

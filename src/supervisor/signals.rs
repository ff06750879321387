//! Signals that the supervisor acts on.

use std::io;
use std::os::fd::AsFd;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};

use super::events::{EventSource, SupervisorEvent};
use crate::process::signals::SignalSocket;

/// Signals, each an event.
pub(super) struct Signals([(SupervisorEvent, SignalSocket); 3]);

impl Signals {
    /// Registers the signals, which end the process until then.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn register() -> io::Result<Self> {
        let stop = SignalSocket::register(&[SIGTERM, SIGINT])?;
        let reload = SignalSocket::register(&[SIGHUP])?;
        let upgrade = SignalSocket::register(&[SIGUSR2])?;
        Ok(Self([
            (SupervisorEvent::Stop, stop),
            (SupervisorEvent::Reload, reload),
            (SupervisorEvent::Upgrade, upgrade),
        ]))
    }

    /// Sources of [`SupervisorEvent::Stop`], `Reload` and `Upgrade`.
    pub(super) fn event_sources(&self) -> [EventSource<'_>; 3] {
        self.0
            .each_ref()
            .map(|(event, socket)| (*event, socket.as_fd()))
    }

    /// Takes note that `event` is being handled, if it is a signal's: a signal that
    /// comes from now on is another event.
    pub(super) fn drain(&self, event: SupervisorEvent) {
        for (_, socket) in self.0.iter().filter(|(of, _)| *of == event) {
            socket.drain();
        }
    }
}

//! A mount that is kept: its device, its tables, and a guard for both.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use jarvis_fs::{DeviceGuard, Guarded, RequestMemory};
use jarvis_sys::SharedWords;

use super::Stall;
use super::error::HolderError;
use crate::ipc::holder::KeptMount;

/// Places among the fds: of the table of requests in flight, and of the memory for requests.
const IN_FLIGHT: usize = 2;
const REQUESTS: usize = 6;

/// Device and tables of a mount.
pub(super) struct KeptDevice {
    path: PathBuf,
    /// As the supervisor sent them: the device first.
    fds: Vec<OwnedFd>,
    in_flight: SharedWords,
    pub(super) guard: DeviceGuard,
}

impl KeptDevice {
    /// Keeps `mount` with its `fds`.
    ///
    /// # Errors
    /// [`HolderError`]: the device can't be guarded, or a table is none.
    pub(super) fn new(mount: KeptMount, fds: Vec<OwnedFd>) -> Result<Self, HolderError> {
        let device = fds.first().ok_or(HolderError::MissingFds)?;
        let in_flight = fds.get(IN_FLIGHT).ok_or(HolderError::MissingFds)?;
        let requests = fds.get(REQUESTS).ok_or(HolderError::MissingFds)?;
        let requests = RequestMemory::map(requests.try_clone()?)?;
        Ok(Self {
            guard: DeviceGuard::new(device.try_clone()?, requests),
            in_flight: SharedWords::map(in_flight.try_clone()?)?,
            path: mount.path,
            fds,
        })
    }

    /// The mount point.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The fds for the next supervisor.
    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.fds.iter().map(AsFd::as_fd).collect()
    }

    /// Whether requests wait and nobody is at work, since when, as it was `before`.
    pub(super) fn stall(&self, before: Option<Stall>) -> Option<Stall> {
        if !self.guard.has_request() {
            return None;
        }
        let words = self.in_flight.as_ref().iter();
        let in_flight: Vec<_> = words.map(|word| word.load(Ordering::Acquire)).collect();
        match before {
            Some(before) if before.in_flight == in_flight => Some(before),
            _ => Some(Stall {
                since: Instant::now(),
                in_flight,
            }),
        }
    }

    /// Answers PID 1 in all requests that wait; gives whether others wait on.
    pub(super) fn answer_waiting(&mut self) -> bool {
        let mut others = false;
        loop {
            match self.guard.take_next() {
                Ok(Some(Guarded::Answered)) => tell_answered(),
                Ok(Some(Guarded::Left)) => others = true,
                Ok(Some(Guarded::Refused)) => {
                    tracing::error!("too many requests wait: one is refused (EINTR)");
                }
                Ok(Some(Guarded::Dropped)) => {}
                Ok(None) => return others,
                Err(error) => {
                    tracing::error!(%error, "the device cannot be read");
                    return others;
                }
            }
        }
    }

    /// Answers PID 1 in what a worker has read and not answered.
    pub(super) fn answer_left(&mut self) {
        match self.guard.answer_left() {
            Ok(0) => {}
            Ok(_) => tell_answered(),
            Err(error) => tracing::error!(%error, "PID 1 cannot be answered"),
        }
    }

    /// Leaves the device to a worker.
    pub(super) fn leave(&mut self) {
        if let Err(error) = self.guard.leave() {
            tracing::error!(%error, "the device cannot be left to a worker");
        }
    }

    /// Takes the mount away and cuts its connection.
    pub(super) fn unmount(self) {
        if let Err(error) = jarvis_fs::unmount(&self.path) {
            tracing::error!(%error, "cannot unmount");
        }
    }
}

fn tell_answered() {
    tracing::warn!("PID 1 asked while nobody serves: it is told to go on (EINTR)");
}

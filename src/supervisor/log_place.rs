//! The audit log's directory, as its path leads there: workers have it open and would not
//! notice that the next start finds another one, or none.

use std::fs::{File, metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::directories;
use super::worker::WorkerPhase;
use super::{Supervisor, SupervisorError};

/// How often the path is followed.
const LOOK: Duration = Duration::from_millis(100);

/// How long nothing may have come into another directory before it is taken: somebody may
/// be at putting a log there.
const SETTLED: Duration = Duration::from_secs(2);

/// Device and inode number.
type DirectoryIdentity = (u64, u64);

/// The end of the path to the log's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PathEnd {
    /// The directory that workers have.
    Held,
    Missing,
    Other,
}

/// Where the path leads, which a thread of its own keeps asking: a disk that hangs holds
/// up nobody else.
pub(super) struct LogPlace {
    path: PathBuf,
    found: Arc<Mutex<Option<DirectoryIdentity>>>,
    held: DirectoryIdentity,
    /// Why another directory is not taken, as it was last told.
    refused: Option<String>,
}

impl LogPlace {
    /// The place of `directory`, which is open, and was found at `path`.
    ///
    /// # Errors
    /// [`SupervisorError::LogPlace`].
    pub(super) fn watch(path: PathBuf, directory: &OwnedFd) -> Result<Self, SupervisorError> {
        let held = identity(directory).map_err(SupervisorError::LogPlace)?;
        let found = Arc::new(Mutex::new(Some(held)));
        let (answer, asked) = (Arc::downgrade(&found), path.clone());
        let thread = std::thread::Builder::new().name("log-place".into());
        let started = thread.spawn(move || {
            while let Some(answer) = answer.upgrade() {
                *answer.lock() = match metadata(&asked) {
                    Ok(metadata) => Some((metadata.dev(), metadata.ino())),
                    Err(_) => None,
                };
                drop(answer);
                std::thread::sleep(LOOK);
            }
        });
        started.map_err(SupervisorError::LogPlace)?;
        Ok(Self {
            path,
            found,
            held,
            refused: None,
        })
    }

    fn end(&self) -> PathEnd {
        match *self.found.lock() {
            Some(found) if found == self.held => PathEnd::Held,
            Some(_) => PathEnd::Other,
            None => PathEnd::Missing,
        }
    }

    fn is_settled(&self) -> bool {
        let modified = metadata(&self.path).and_then(|metadata| metadata.modified());
        // A time that is yet to come tells nothing.
        modified.is_ok_and(|at| at.elapsed().map_or(true, |age| age >= SETTLED))
    }

    /// Tells once why the directory that is there now is not the log's.
    fn refuse(&mut self, why: String) {
        if self.refused.as_ref() != Some(&why) {
            tracing::error!(%why, "audit log");
            self.refused = Some(why);
        }
    }
}

fn identity(directory: &OwnedFd) -> io::Result<DirectoryIdentity> {
    let metadata = File::from(directory.try_clone()?).metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Supervisor {
    /// Tells the worker when the path to its log leads elsewhere; has another one serve
    /// with the directory that is there now, if that can be the log's.
    pub(super) fn follow_log(&mut self) {
        let end = self.log_place.end();
        let missing = end != PathEnd::Held;
        if self.service.stats.log_missing != missing {
            self.service.stats.log_missing = missing;
            let path = self.log_place.path.display();
            if missing {
                tracing::error!(%path, "the directory of the audit log is not in its place");
            } else {
                tracing::warn!(%path, "the directory of the audit log is in its place");
            }
            self.log_place.refused = None;
            let stats = self.service.stats;
            if let Some(worker) = self.workers.serving() {
                worker.ping(stats);
            }
        }
        if end == PathEnd::Other && self.log_place.is_settled() && !self.service.stopping {
            match self.take_other_directory() {
                Ok(()) => self.begin_with_other_directory(),
                Err(why) => self.log_place.refuse(why),
            }
        }
    }

    fn take_other_directory(&mut self) -> Result<(), String> {
        let (config, user) = (&self.config, self.workers.user);
        let [_, held] = &self.directories.fds;
        let other = directories::reopen_log(config, user, held).map_err(|e| e.to_string())?;
        self.log_place.held = identity(&other).map_err(|e| e.to_string())?;
        let [_, held] = &mut self.directories.fds;
        *held = other;
        Ok(())
    }

    /// A worker's sandbox has the directory in it: other workers are needed.
    fn begin_with_other_directory(&mut self) {
        tracing::warn!("the audit log goes on in the directory that is there now");
        self.service.stats.log_missing = false;
        self.workers.standby = None;
        match &self.workers.active {
            Some(active) if active.phase >= WorkerPhase::Opening => {
                self.retire("the audit log has another directory");
            }
            _ => self.workers.active = None,
        }
    }
}

//! Whether readers see the mount: looked at when it is made, and at each change of the
//! mount table.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jarvis_fs::{MountError, Place, ReaderMounts, Standing};

use super::backoff::Backoff;
use super::events::{EventSource, SupervisorEvent};

/// Watch over the mount.
pub(super) struct MountWatch {
    path: PathBuf,
    mounts: ReaderMounts,
    /// The mount that is watched; `None` while there is none.
    shown: Option<ShownMount>,
    /// Why readers do not get to it.
    trouble: Option<String>,
    /// The mount was taken away and is to be made anew once no worker serves it.
    pub(super) is_lost: bool,
    /// Pauses between mounts that are taken away again and again.
    backoff: Backoff,
}

/// Mount, and where readers find it.
struct ShownMount {
    connection: u32,
    place: Place,
    since: Instant,
}

impl MountWatch {
    /// Watch over the mount to come on `path`; with `own` in the namespace of this process.
    ///
    /// # Errors
    /// No mount table can be read.
    pub(super) fn open(path: &Path, own: bool) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            mounts: ReaderMounts::open(own)?,
            shown: None,
            trouble: None,
            is_lost: false,
            backoff: Backoff::new(),
        })
    }

    /// Source of [`SupervisorEvent::MountsChanged`].
    pub(super) fn event_source(&self) -> EventSource<'_> {
        (SupervisorEvent::MountsChanged, self.mounts.as_fd())
    }

    /// Whether this process has a mount namespace of its own.
    pub(super) fn is_foreign(&self) -> bool {
        self.mounts.is_foreign()
    }

    /// Begins to watch the mount that was made or taken over, if that is not done yet.
    ///
    /// # Errors
    /// [`MountError::MountPoint`].
    pub(super) fn begin(&mut self) -> Result<(), MountError> {
        if self.shown.is_none()
            && let Some(connection) = jarvis_fs::connection(&self.path)?
        {
            let place = self.mounts.place(&self.path, connection)?;
            let since = Instant::now();
            self.shown = Some(ShownMount {
                connection,
                place,
                since,
            });
        }
        Ok(())
    }

    /// How the mount stands; `None` when there is none to watch.
    ///
    /// # Errors
    /// The mount table can't be read.
    pub(super) fn look(&mut self) -> io::Result<Option<Standing>> {
        let Some(shown) = &self.shown else {
            return Ok(None);
        };
        let standing = self.mounts.standing(&shown.place, shown.connection)?;
        Ok(Some(standing))
    }

    /// Notes that the mount is gone.
    pub(super) fn note_loss(&mut self) {
        self.is_lost = true;
        let lasted = self.shown.take().map(|shown| shown.since.elapsed());
        self.backoff.ended(lasted.unwrap_or_default(), true);
    }

    /// Notes that another mount is to be made; forgets the one before.
    pub(super) fn start_over(&mut self) {
        self.is_lost = false;
        self.shown = None;
    }

    /// How long to wait with the next mount.
    pub(super) fn pause(&self) -> Duration {
        self.backoff.left()
    }

    /// Why readers do not get to the mount.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Notes why readers do not get to the mount, or that they do; gives whether that is
    /// news.
    pub(super) fn note_trouble(&mut self, trouble: Option<String>) -> bool {
        if self.trouble == trouble {
            return false;
        }
        let path = self.path.display();
        match &trouble {
            Some(why) => tracing::error!(%path, %why, "readers do not get to the mount"),
            None => tracing::info!(%path, "readers get to the mount"),
        }
        self.trouble = trouble;
        true
    }
}

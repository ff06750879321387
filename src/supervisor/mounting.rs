//! The mount as the loop of events treats it: made, watched, and made anew when it was
//! taken away.

use jarvis_fs::Standing;

use super::error::SupervisorError;
use super::worker::WorkerPhase;
use super::{FuseMount, Supervisor};
use crate::process::is_root;

/// Makes the mount point of `mount` ready, and says what lies in it: readers would have
/// got that instead of secrets.
///
/// # Errors
/// [`SupervisorError::Mount`], [`SupervisorError::MountPoint`],
/// [`SupervisorError::LinkedMountPoint`].
pub(super) fn prepare(mount: &FuseMount) -> Result<(), SupervisorError> {
    let path = mount.path();
    // A mount that nobody serves is not touched.
    let is_bare = jarvis_fs::connection(path)?.is_none();
    let is_new = is_bare && !path.exists();
    if is_bare && path.is_symlink() {
        return Err(SupervisorError::LinkedMountPoint(path.to_owned()));
    }
    mount.prepare_mount_point()?;
    let shown = path.display();
    // fusermount3 mounts only where its user may write.
    if is_new
        && is_root()
        && let Err(error) = jarvis_fs::seal(path)
    {
        tracing::info!(path = %shown, %error, "the bare mount point is not immutable");
    }
    match jarvis_fs::beneath(path) {
        Ok(names) if names.is_empty() => {}
        Ok(names) => tracing::warn!(
            path = %shown, names = %names.join(", "),
            "something lies in the bare mount point and is hidden while secrets are served: made \
             by whoever came before the mount, as Docker does for a bind; remove it while the \
             daemon is stopped"
        ),
        Err(error) => tracing::warn!(path = %shown, %error, "cannot look below the mount"),
    }
    Ok(())
}

impl Supervisor {
    /// Lets the active worker serve the device, with `secrets` in its vault.
    ///
    /// # Errors
    /// [`SupervisorError::Hidden`], and what keeps a mount from being made.
    pub(super) fn attach(&mut self, secrets: u64) -> Result<(), SupervisorError> {
        self.service.secrets = secrets;
        self.mount.attach()?;
        self.watch.begin()?;
        let is_hidden =
            self.watch.is_foreign() && matches!(self.watch.look(), Ok(Some(Standing::Absent)));
        if is_hidden {
            self.mount.give_up();
            return Err(SupervisorError::Hidden(self.mount.path().to_owned()));
        }
        self.check_mount()?;
        if self.watch.is_lost {
            return Ok(());
        }
        if let Some(device) = self.mount.attach()? {
            let trouble = self.watch.trouble();
            self.workers.attach_active(device, trouble);
        }
        Ok(())
    }

    /// Looks whether readers get to the mount. What was taken away is made anew; what
    /// another mount hides is only told: somebody may have meant it.
    pub(super) fn check_mount(&mut self) -> Result<(), SupervisorError> {
        if self.service.stopping || self.watch.is_lost || !self.mount.is_mounted() {
            return Ok(());
        }
        let trouble = match self.watch.look() {
            Ok(Some(Standing::OnTop)) => None,
            Ok(Some(Standing::Covered(by))) => Some(format!("{by} hides it")),
            Ok(Some(Standing::Absent) | None) => return self.replace_mount("it was taken away"),
            Err(error) => Some(format!("the mount table cannot be read: {error}")),
        };
        if self.watch.note_trouble(trouble) {
            self.workers.tell_mount_trouble(self.watch.trouble());
        }
        Ok(())
    }

    /// Makes the mount anew, with another worker: the one before has the old tables, and
    /// what was open on the old mount is gone with it.
    pub(super) fn replace_mount(&mut self, why: &str) -> Result<(), SupervisorError> {
        if self.service.stopping || self.watch.is_lost {
            return Ok(());
        }
        self.watch.note_loss();
        self.watch
            .note_trouble(Some(format!("{why}; mounting anew")));
        self.workers.tell_mount_trouble(self.watch.trouble());
        self.workers.standby = None;
        match self.workers.active.as_ref().map(|active| active.phase) {
            Some(WorkerPhase::Retiring) => Ok(()),
            Some(phase) if phase >= WorkerPhase::Opening => {
                self.retire("the mount is made anew");
                Ok(())
            }
            _ => {
                // One that has nothing open has nothing to close in order.
                self.workers.active = None;
                self.start_over()
            }
        }
    }

    /// Has the next worker make a mount, with tables of its own.
    pub(super) fn start_over(&mut self) -> Result<(), SupervisorError> {
        self.workers.standby = None;
        self.mount.start_over(self.policy.in_force())?;
        self.watch.start_over();
        // What was taken away may have gone with the directory that it was on.
        prepare(&self.mount)
    }
}

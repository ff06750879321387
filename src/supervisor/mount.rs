//! The mount: its device, and the tables that go with it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jarvis_audit::LogHead;
use jarvis_fs::{Device, MountError};
use jarvis_sys::SecretPage;
use jarvis_sys::trust::{self, Rule};

use super::error::SupervisorError;
use super::events::{EventSource, SupervisorEvent};
use super::holder_client::HolderClient;
use super::tables::PersistentTables;
use crate::config::MountConfig;
use crate::process::is_root;

/// Mount of the secrets, made or to be made.
///
/// Device and tables belong together. The kernel's requests carry handles that are in the
/// tables, so a worker has the tables before it gets the device, and another mount
/// gets other tables.
pub(super) struct FuseMount {
    path: PathBuf,
    /// A dead worker's mount is to be kept (`[mount] keep`).
    keep: bool,
    /// Keeps device and tables for the next supervisor, and answers PID 1 meanwhile.
    holder: Option<HolderClient>,
    device: Option<Device>,
    pub(super) tables: PersistentTables,
}

/// Tables and device that an earlier supervisor left.
type Inheritance = (PersistentTables, OwnedFd);

/// Takes what an earlier supervisor left with `holder` for the mount on `path`; what
/// can't be used is given up.
///
/// # Errors
/// [`MountError`]: a mount that can't be used stays.
fn take_inheritance(
    path: &Path,
    holder: &mut HolderClient,
) -> Result<Option<Inheritance>, MountError> {
    let fds = holder.recover();
    if fds.is_empty() {
        return Ok(None);
    }
    match PersistentTables::recover(fds) {
        Ok(left) => Ok(Some(left)),
        Err(why) => {
            tracing::error!(%why, "the mount that was kept cannot be taken over: mounting anew");
            holder.withdraw();
            jarvis_fs::unmount(path)?;
            Ok(None)
        }
    }
}

impl FuseMount {
    /// Takes over the mount that `holder` keeps, or prepares one to be made.
    ///
    /// # Errors
    /// [`SupervisorError::Mount`], [`SupervisorError::Tables`],
    /// [`SupervisorError::KeyPage`].
    pub(super) fn open(
        settings: &MountConfig,
        mut holder: Option<HolderClient>,
    ) -> Result<Self, SupervisorError> {
        let inherited = match &mut holder {
            Some(holder) => take_inheritance(&settings.path, holder)?,
            None => None,
        };
        let Some((tables, fd)) = inherited else {
            let keys = SecretPage::create().map_err(SupervisorError::KeyPage)?;
            let log_head = LogHead::create().map_err(SupervisorError::KeyPage)?;
            let tables = PersistentTables::new(keys, log_head)?;
            return Ok(Self::new(settings, holder, tables, None));
        };
        match Device::adopt(&settings.path, fd)? {
            Some(device) if settings.keep => Ok(Self::new(settings, holder, tables, Some(device))),
            device => {
                // The mount was taken away meanwhile, or is not to be kept any more.
                holder.iter_mut().for_each(HolderClient::withdraw);
                device.map_or(Ok(()), Device::unmount)?;
                let tables = PersistentTables::new(tables.keys, tables.log_head)?;
                Ok(Self::new(settings, holder, tables, None))
            }
        }
    }

    /// Composes a mount; without a `device` it is still to be made.
    pub(super) fn new(
        settings: &MountConfig,
        holder: Option<HolderClient>,
        tables: PersistentTables,
        device: Option<Device>,
    ) -> Self {
        Self {
            path: settings.path.clone(),
            keep: settings.keep,
            holder,
            device,
            tables,
        }
    }

    /// Mount point.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the mount is there.
    pub(super) fn is_mounted(&self) -> bool {
        self.device.is_some()
    }

    /// Whether the mount survives a worker.
    pub(super) fn outlives_worker(&self) -> bool {
        self.keep
    }

    /// Whether the mount survives the supervisor, too.
    pub(super) fn outlives_supervisor(&self) -> bool {
        self.holder.is_some() && self.outlives_worker()
    }

    /// Makes the mount point when it is missing, and clears a dead mount on it.
    ///
    /// # Errors
    /// [`SupervisorError::Mount`], also for a live mount;
    /// [`SupervisorError::MountPoint`].
    pub(super) fn prepare_mount_point(&self) -> Result<(), SupervisorError> {
        let path = &self.path;
        if jarvis_fs::clear_stale(path)? {
            tracing::warn!(path = %path.display(), "cleared the mount of a daemon that died");
        }
        let failed = |source| SupervisorError::MountPoint {
            path: path.clone(),
            source,
        };
        let missing: Vec<_> = path.ancestors().take_while(|part| !part.exists()).collect();
        for directory in missing.into_iter().rev() {
            std::fs::create_dir(directory).map_err(failed)?;
            // Whatever the umask: everybody who may read has to get there.
            let open = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(directory, open).map_err(failed)?;
        }
        // What is mounted on is not looked at: it may be a mount that nobody serves yet.
        if let Some(parent) = path.parent() {
            trust::locate(parent, Rule::CONTAINER)?;
        }
        Ok(())
    }

    /// Mounts, if nothing is mounted yet; gives the device for a worker, which nobody else
    /// reads from now on.
    ///
    /// # Errors
    /// [`MountError`].
    pub(super) fn attach(&mut self) -> Result<Option<BorrowedFd<'_>>, MountError> {
        if self.device.is_none() {
            self.device = Some(Device::mount(&self.path, is_root())?);
            // Kept at once: should the supervisor be killed, the next one finds it.
            self.hand_to_holder();
        }
        if let Some(holder) = &mut self.holder {
            holder.pause();
        }
        Ok(self.device.as_ref().map(Device::fd))
    }

    /// Has the holder keep the mount, where that is of use.
    fn hand_to_holder(&mut self) {
        if let (Some(holder), Some(device), true) = (&mut self.holder, &self.device, self.keep) {
            holder.keep(&self.path, &self.tables.kept_fds(device.fd()));
        }
    }

    /// Source of [`SupervisorEvent::Holder`].
    pub(super) fn event_source(&self) -> Option<EventSource<'_>> {
        let fd = self.holder.as_ref().and_then(HolderClient::event_fd)?;
        Some((SupervisorEvent::Holder, fd))
    }

    /// Takes what the holder says; whether it has read requests because nobody did: only
    /// the next worker gets those.
    pub(super) fn holder_took_requests(&mut self) -> bool {
        self.holder.as_mut().is_some_and(HolderClient::receive)
    }

    /// Tells the holder whether a worker serves.
    pub(super) fn set_serving(&mut self, serving: bool) {
        if let Some(holder) = &mut self.holder {
            holder.set_serving(serving);
        }
    }

    /// Gives the mount to a new holder, where the last one is gone.
    pub(super) fn ensure_holder(&mut self) {
        if self.holder.as_mut().is_some_and(HolderClient::ensure) {
            self.hand_to_holder();
            tracing::warn!("there is a holder again, and it has what there is to keep");
        }
    }

    /// Takes the mount away, so that who waits gets an error.
    pub(super) fn give_up(&mut self) {
        // A supervisor that is killed in between must not be followed by one that is
        // given a device without a mount.
        if let (Some(holder), true) = (&mut self.holder, self.device.is_some()) {
            holder.withdraw();
        }
        if let Some(device) = self.device.take() {
            match device.unmount() {
                Ok(()) => tracing::info!("unmounted"),
                Err(error) => tracing::error!(%error, "cannot unmount"),
            }
        }
    }

    /// Takes the mount away and makes tables for another one, with `policy` in force.
    ///
    /// # Errors
    /// [`SupervisorError::Tables`].
    pub(super) fn start_over(&mut self, policy: &str) -> Result<(), SupervisorError> {
        self.give_up();
        self.tables = self.tables.for_new_mount(policy)?;
        Ok(())
    }
}

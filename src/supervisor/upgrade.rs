//! A worker of another program takes over.

use super::Supervisor;

impl Supervisor {
    /// Has a worker of the installed program take over. The old one goes on until the new
    /// one is ready, and its program is kept until the new one has served.
    pub(super) fn upgrade(&mut self) {
        if self.service.stopping {
            return;
        }
        if self.workers.serving().is_none() {
            tracing::warn!("nobody serves: the worker is not replaced; reload again");
            return;
        }
        tracing::info!("replacing the worker");
        if let Err(error) = self.workers.executable.try_installed() {
            let program = self.workers.executable.installed().display();
            tracing::error!(%error, %program, "the old worker stays");
            return;
        }
        self.workers.standby = None;
        match self.spawn_worker() {
            Ok(worker) => self.workers.begin_upgrade(worker),
            Err(why) => {
                tracing::error!(%why, "the old worker stays");
                self.workers.abandon_upgrade();
            }
        }
    }
}

//! Memory of the audit log that the vault keeps.

use jarvis_audit::RecordMark;

use super::Committer;
use crate::worker::audit::outage::RecordError;
use crate::worker::witness::log_witness;

impl Committer {
    /// Notes that the log has commit `seq`, the last record of which is `mark`.
    pub(super) fn confirm(&self, seq: u64, mark: Option<RecordMark>) {
        self.audit.set_recorded(seq);
        self.vault.confirm_recorded(seq);
        if let Some(mark) = mark {
            self.note_log(mark);
        }
    }

    /// Has the vault remember that the log came to `mark`.
    fn note_log(&self, mark: RecordMark) {
        self.vault.note_log(log_witness(self.audit.host(), mark));
    }

    /// Forgets what the vault knew of the log, and stores how far this one has come.
    ///
    /// # Errors
    /// As [`Self::keep_witness`].
    pub(crate) fn begin_witness_anew(&self) -> Result<(), RecordError> {
        self.vault.forget_log();
        self.keep_witness()
    }

    /// Stores in the vault how far the log has come, so that the next worker finds out
    /// when it lost its end.
    ///
    /// # Errors
    /// [`RecordError`]. A failure of the vault is logged and counted.
    pub(crate) fn keep_witness(&self) -> Result<(), RecordError> {
        self.note_log(self.audit.durable_mark()?);
        if let Err(error) = self.vault.store_witness() {
            self.secrets.vault_failed(&error);
        }
        Ok(())
    }
}

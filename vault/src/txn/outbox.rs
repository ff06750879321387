//! Notes and answers that are committed with a change.
//!
//! A note tells of the commit that it is in, for the audit record that follows it.
//! It goes with a later commit, once the record is known to be durable; a crash in
//! between leaves the note, and the record is made from it at the next start.

use std::ops::ControlFlow;

use super::Txn;
use crate::crypto::RecordKind;
use crate::error::VaultError;
use crate::record::key;

impl Txn<'_> {
    /// Keeps `note` with the commit until [`crate::Vault::confirm_recorded`] confirms it.
    ///
    /// # Errors
    /// [`VaultError::Keys`] when random bytes can't be had.
    pub fn note(&mut self, note: &[u8]) -> Result<(), VaultError> {
        let keys = &self.core.keys;
        let context = keys.context(RecordKind::Outbox, self.state.seq, u64::from(self.notes));
        let sealed = keys.seal_meta(context, note)?;
        self.put(key::outbox(self.state.seq, self.notes), sealed);
        self.notes += 1;
        Ok(())
    }

    /// Keeps `answer` to request `request` of mount `mount` with the commit: a
    /// repeat of the request finds it ([`crate::Vault::journal`]).
    ///
    /// # Errors
    /// [`VaultError::Keys`] when random bytes can't be had.
    pub fn journal(
        &mut self,
        mount: &[u8; 16],
        request: u64,
        answer: &[u8],
    ) -> Result<(), VaultError> {
        let keys = &self.core.keys;
        let sealed = keys.seal_meta(keys.journal_context(mount, request), answer)?;
        self.put(key::journal(mount, request), sealed);
        Ok(())
    }

    /// Drops an answer from the journal.
    pub fn forget_answer(&mut self, mount: &[u8; 16], request: u64) {
        self.remove(key::journal(mount, request));
    }

    /// Drops the notes of commits up to `recorded`, which the audit log has.
    pub(crate) fn drop_notes(&mut self, recorded: u64) -> Result<(), VaultError> {
        let mut done = Vec::new();
        self.core.store.scan(
            key::OUTBOX,
            key::OUTBOX,
            &mut |k, _| match key::outbox_position(k) {
                Some((seq, _)) if seq > recorded => ControlFlow::Break(()),
                _ => {
                    done.push(k.to_vec());
                    ControlFlow::Continue(())
                }
            },
        )?;
        for k in done {
            self.remove(k);
        }
        Ok(())
    }
}

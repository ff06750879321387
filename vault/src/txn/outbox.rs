//! Notes and answers that are committed with a change.

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

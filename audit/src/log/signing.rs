//! Signatures that follow: records are written without waiting for one.
//!
//! A record is chained to the one before it, so one signature vouches for all records of
//! its epoch that came before. When there are some without, a thread appends a record that
//! has nothing but a signature, soon after the first of them; whatever else is signed (a
//! change, the end of an epoch, a segment or the daemon) makes that unnecessary. Then they
//! go to the disk, all at once.

use super::chain::Transition;
use super::error::AppendError;
use super::payload::RecordExtras;
use super::signer::{self, Turn};
use super::writer::Writer;
use crate::event::{Action, Event, Outcome};

impl Writer {
    /// Signs what has no signature, again and again.
    pub(super) fn sign_loop(&self) {
        let mut delay = self.setup.signature_delay;
        loop {
            match self.signer.await_turn(delay) {
                Turn::Sign => {}
                Turn::EndDirty => return self.disk.mark_dirty(),
                Turn::End => return,
            }
            delay = self.setup.signature_delay;
            match self.sign_pending() {
                Ok(()) => self.disk.mark_dirty(),
                // The log is closed: its last record vouches for all.
                Err(AppendError::Closed) => {}
                Err(_) => {
                    delay = signer::AGAIN;
                    self.signer.note_record();
                }
            }
        }
    }

    /// Writes a record that vouches for those without a signature, if there are any.
    ///
    /// # Errors
    /// [`AppendError`].
    pub(super) fn sign_pending(&self) -> Result<(), AppendError> {
        loop {
            let mut chain = self.chain.lock();
            if chain.head().unsigned == 0 {
                return Ok(());
            }
            if self.setup.epoch_limits.are_reached(chain.head()) {
                drop(chain);
                self.roll_epoch()?;
                continue;
            }
            self.disk.check_takes_records()?;
            chain.check_open(Action::Signature)?;
            let event = Event::new(Action::Signature, Outcome::Ok, chain.head().vault_seq);
            let (ticket, line) = self.compose(
                &mut chain,
                &event,
                RecordExtras::default(),
                Transition::Record,
            )?;
            drop(chain);
            return self.write_own(&ticket, line);
        }
    }
}

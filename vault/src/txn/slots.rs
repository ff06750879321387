//! Key slots: added and removed.

use super::Txn;
use crate::error::VaultError;
use crate::record::key;
use crate::slot::{Credential, MAX_SLOTS, SlotRecord};

impl Txn<'_> {
    /// Adds a key slot that `credential` opens, and gives its number.
    ///
    /// # Errors
    /// [`VaultError::NoFreeSlot`], or what is wrong with the credential.
    pub fn add_slot(&mut self, credential: &Credential) -> Result<u8, VaultError> {
        let mut free = None;
        for number in (0..MAX_SLOTS).rev() {
            if self.get(&key::slot(number))?.is_none() {
                free = Some(number);
            }
        }
        let number = free.ok_or(VaultError::NoFreeSlot)?;
        let keys = &self.core.keys;
        let record = SlotRecord::seal(keys.vault, number, credential, keys.root.expose())?;
        self.put(key::slot(number), self.core.encode(&record)?);
        Ok(number)
    }

    /// Removes a key slot; never the last one, nor the one that the vault was unlocked with:
    /// its key is what the next start has.
    ///
    /// # Errors
    /// [`VaultError::NoSuchSlot`], [`VaultError::LastSlot`], [`VaultError::SlotInUse`].
    pub fn remove_slot(&mut self, number: u8) -> Result<(), VaultError> {
        let mut others = false;
        for other in (0..MAX_SLOTS).filter(|&other| other != number) {
            others |= self.get(&key::slot(other))?.is_some();
        }
        if self.get(&key::slot(number))?.is_none() {
            return Err(VaultError::NoSuchSlot(number));
        }
        if !others {
            return Err(VaultError::LastSlot(number));
        }
        // Where it is not known which one it was, it may be any.
        if self.core.slot.is_none_or(|used| used == number) {
            return Err(VaultError::SlotInUse(number));
        }
        self.remove(key::slot(number));
        Ok(())
    }
}

//! New values made by the daemon.

use rand::distr::{Alphanumeric, Distribution};
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;

use crate::error::VaultError;
use crate::record::SecretType;
use crate::secret::SecretBytes;

const LENGTHS: std::ops::RangeInclusive<usize> = 8..=4096;

impl SecretType {
    /// A password of `length` characters.
    ///
    /// # Errors
    /// [`VaultError::Length`] outside of 8 to 4096.
    pub fn password(length: usize) -> Result<Self, VaultError> {
        match u16::try_from(length) {
            Ok(short) if LENGTHS.contains(&length) => Ok(Self::Password { length: short }),
            _ => Err(VaultError::Length(length)),
        }
    }

    /// Whether the daemon can make a new value.
    #[must_use]
    pub fn has_generator(self) -> bool {
        match self {
            Self::Opaque => false,
            Self::Password { .. } => true,
        }
    }

    /// A fresh value, or `None` when the type has no generator.
    pub(crate) fn generate(self) -> Option<SecretBytes> {
        match self {
            Self::Opaque => None,
            Self::Password { length } => {
                let mut rng = UnwrapErr(SysRng);
                let mut value = Vec::with_capacity(usize::from(length));
                value.extend((0..length).map(|_| Alphanumeric.sample(&mut rng)));
                Some(SecretBytes::new(value))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_have_their_length_and_alphabet() {
        let kind = SecretType::password(64).unwrap();
        let first = kind.generate().unwrap();
        let second = kind.generate().unwrap();
        assert_eq!(first.len(), 64);
        assert!(first.expose().iter().all(u8::is_ascii_alphanumeric));
        assert!(first.expose() != second.expose());
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(SecretType::password(7).is_err());
        assert!(SecretType::password(4097).is_err());
        assert!(SecretType::Opaque.generate().is_none());
    }
}

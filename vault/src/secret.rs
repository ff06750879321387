//! Plaintext that wipes itself.

use std::ops::Range;

use zeroize::Zeroize;

/// Largest value in bytes: its base64 fits one control write of 1 MiB.
pub const MAX_VALUE: usize = 512 * 1024;

/// Plaintext bytes: no `Debug`, no `Clone`, no `Serialize`, wiped on drop.
///
/// [`SecretBytes::expose`] is the one way to the bytes.
pub struct SecretBytes {
    buffer: Vec<u8>,
    visible: Range<usize>,
}

impl SecretBytes {
    /// Takes over `bytes`; the caller must not have left copies by growing it.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let visible = 0..bytes.len();
        Self {
            buffer: bytes,
            visible,
        }
    }

    /// The part `visible` of `buffer` is the plaintext (the rest is a nonce and
    /// a tag that decryption in place leaves behind).
    pub(crate) fn within(buffer: Vec<u8>, visible: Range<usize>) -> Self {
        Self { buffer, visible }
    }

    /// The plaintext. Every use of a value in the code base calls this.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.buffer.get(self.visible.clone()).unwrap_or_default()
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.visible.len()
    }

    /// True if there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.visible.is_empty()
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

//! Ranges of bytes that a READ asks for.

/// The part of `bytes` that a read of `size` at `offset` gets.
pub(crate) fn slice(bytes: &[u8], (offset, size): (u64, u32)) -> &[u8] {
    let from = usize::try_from(offset).map_or(bytes.len(), |from| from.min(bytes.len()));
    let to = from.saturating_add(size as usize).min(bytes.len());
    bytes.get(from..to).unwrap_or_default()
}

//! Reading that ends: no more than a limit, whatever the other side has.

use std::io::{self, Read};

use zeroize::Zeroizing;

/// At most `limit` bytes of `source`.
///
/// # Errors
/// `FileTooLarge` when there are more; else what the system says.
pub(crate) fn bytes(source: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fill(source, limit, &mut bytes)?;
    Ok(bytes)
}

/// The first bytes of `source`, at most `limit`; what comes after them stays unread.
///
/// # Errors
/// What the system says.
pub(crate) fn first_bytes(source: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first bytes of `source`, as [`first_bytes`] gives them, in memory that is wiped.
///
/// # Errors
/// What the system says.
pub(crate) fn first_secret(source: impl Read, limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = reserved(limit);
    source.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// At most `limit` bytes of `source`, in memory that is wiped.
///
/// # Errors
/// `FileTooLarge` when there are more; else what the system says.
pub(crate) fn secret(source: impl Read, limit: u32) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = reserved(limit as usize);
    fill(source, limit.into(), &mut bytes)?;
    Ok(bytes)
}

/// At most `limit` bytes of `source`, which must be UTF-8.
///
/// # Errors
/// `FileTooLarge` when there are more, `InvalidData` when they are no text; else
/// what the system says.
pub(crate) fn text(source: impl Read, limit: u64) -> io::Result<String> {
    let bytes = bytes(source, limit)?;
    let no_text = |_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "stream did not contain valid UTF-8",
        )
    };
    String::from_utf8(bytes).map_err(no_text)
}

/// Memory for a secret of up to `limit` bytes: growing would leave copies behind.
fn reserved(limit: usize) -> Zeroizing<Vec<u8>> {
    // `read_to_end` probes for the end with 32 bytes more than it has.
    Zeroizing::new(Vec::with_capacity(limit + 64))
}

fn fill(source: impl Read, limit: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    source.take(limit.saturating_add(1)).read_to_end(bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_fits_and_one_more_does_not() {
        assert_eq!(bytes(&b"abc"[..], 3).unwrap(), b"abc");
        assert_eq!(text(&b""[..], 0).unwrap(), "");
        let over = secret(&b"abcd"[..], 3).unwrap_err();
        assert_eq!(over.kind(), io::ErrorKind::FileTooLarge);
        let endless = bytes(io::repeat(1), 1000).unwrap_err();
        assert_eq!(endless.kind(), io::ErrorKind::FileTooLarge);
        let no_text = text(&[0xff][..], 9).unwrap_err();
        assert_eq!(no_text.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_follows_the_first_bytes_stays_unread() {
        assert_eq!(first_bytes(&b"abcd"[..], 3).unwrap(), b"abc");
        assert_eq!(first_bytes(&b"ab"[..], 3).unwrap(), b"ab");
        let mut source = &b"abcd"[..];
        assert_eq!(*first_secret(&mut source, 3).unwrap(), b"abc");
        assert_eq!(source, b"d");
    }

    #[test]
    fn a_secret_never_moves_while_it_is_read() {
        let read = secret(io::repeat(7).take(4096), 4096).unwrap();
        assert_eq!(read.len(), 4096);
        assert!(read.capacity() <= 4096 + 64, "it grew");
        let first = first_secret(io::repeat(7), 4096).unwrap();
        assert_eq!(first.len(), 4096);
        assert!(first.capacity() <= 4096 + 64, "it grew");
    }
}

//! Signals as sockets, which can be waited for together with everything else.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Some signals, which make this readable.
pub(crate) struct SignalSocket(UnixStream);

impl SignalSocket {
    /// Registers `signals`, which do nothing else from then on.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn register(signals: &[i32]) -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        for signal in signals {
            signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
        }
        Ok(Self(reader))
    }

    /// Whether a signal came since the last time.
    pub(crate) fn drain(&self) -> bool {
        let mut bytes = [0; 64];
        matches!((&self.0).read(&mut bytes), Ok(n) if n > 0)
    }
}

impl AsFd for SignalSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

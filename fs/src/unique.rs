//! Numbers of FUSE requests.

/// A request's number, and whether another process had the request before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unique {
    request: u64,
    again: bool,
}

impl Unique {
    /// The number of a request that nobody had before.
    pub(crate) fn new(request: u64) -> Self {
        Self {
            request,
            again: false,
        }
    }

    /// This number as that of a request which another process had and did not answer.
    pub(crate) fn again(self) -> Self {
        Self {
            again: true,
            ..self
        }
    }

    /// The number.
    pub(crate) fn request(self) -> u64 {
        self.request
    }

    /// Whether an earlier process may have begun it, and did not answer.
    pub(crate) fn resent(self) -> bool {
        self.again
    }
}

//! Numbers of FUSE requests.

/// Set in the `unique` of a request that the kernel sends a second time.
const RESENT: u64 = 1 << 63;

/// The `unique` of a request as its header has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unique(u64);

impl Unique {
    pub(crate) fn new(unique: u64) -> Self {
        Self(unique)
    }

    /// The name that an answer gives the request.
    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    /// The request's number, the same when it is sent again.
    pub(crate) fn request(self) -> u64 {
        self.0 & !RESENT
    }

    /// Whether the kernel sent the request before, to a process that did not
    /// answer.
    pub(crate) fn resent(self) -> bool {
        self.0 & RESENT != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resent_request_keeps_its_number() {
        let (first, again) = (Unique::new(8), Unique::new(8 | 1 << 63));
        assert!(!first.resent() && again.resent());
        assert_eq!((first.request(), again.request()), (8, 8));
    }
}

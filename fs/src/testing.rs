//! Test doubles: a table in memory that two of its users share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Words that outlive the table made over them, as a memfd does.
#[derive(Clone)]
pub(crate) struct Words(Arc<Vec<AtomicU64>>);

impl Words {
    pub(crate) fn zeroed(count: usize) -> Self {
        Self(Arc::new((0..count).map(|_| AtomicU64::new(0)).collect()))
    }
}

impl AsRef<[AtomicU64]> for Words {
    fn as_ref(&self) -> &[AtomicU64] {
        &self.0
    }
}

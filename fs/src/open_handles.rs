//! Files that are open in this process, with the plaintext kept for them.
//!
//! Everything here but the verdicts on other readers can be had again from the
//! handle table and the vault.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::RwLock;

use crate::control::ControlHandle;
use crate::errno::FsError;
use crate::handles::OpenFile;

/// Plaintext kept for open handles, in bytes; beyond it READ decrypts again.
const PLAINTEXT_BUDGET: usize = 64 * 1024 * 1024;

/// An open file of either kind.
pub(crate) enum OpenHandle<P> {
    Secret(SecretHandle<P>),
    Control(Arc<ControlHandle>),
}

/// An open secret.
pub(crate) struct SecretHandle<P> {
    pub(crate) file: OpenFile,
    pub(crate) plaintext: Option<P>,
    /// [`crate::Tree::revocation_epoch`] when the version was last found readable.
    pub(crate) revocation_epoch: AtomicU64,
    /// Other readers' uids and whether they may read.
    pub(crate) shared: RwLock<HashMap<u32, Result<(), FsError>>>,
}

/// The open files by their handles.
pub(crate) struct OpenHandles<P> {
    by_handle: RwLock<HashMap<u64, Arc<OpenHandle<P>>>>,
    plaintext_bytes: AtomicUsize,
}

impl<P: AsRef<[u8]>> OpenHandles<P> {
    pub(crate) fn new() -> Self {
        Self {
            by_handle: RwLock::default(),
            plaintext_bytes: AtomicUsize::new(0),
        }
    }

    pub(crate) fn get(&self, handle: u64) -> Option<Arc<OpenHandle<P>>> {
        self.by_handle.read().get(&handle).cloned()
    }

    /// Enters a secret that was opened; its plaintext is kept while the budget
    /// lasts.
    pub(crate) fn insert_secret(&self, handle: u64, file: OpenFile, plaintext: P, epoch: u64) {
        let secret = SecretHandle {
            file,
            plaintext: self.keep(plaintext),
            revocation_epoch: AtomicU64::new(epoch),
            shared: RwLock::default(),
        };
        let open = Arc::new(OpenHandle::Secret(secret));
        self.by_handle.write().insert(handle, open);
    }

    pub(crate) fn insert_control(&self, handle: u64, control: ControlHandle) {
        let open = Arc::new(OpenHandle::Control(control.into()));
        self.by_handle.write().insert(handle, open);
    }

    /// Enters what an earlier process opened, unless another thread was quicker.
    pub(crate) fn adopt(&self, handle: u64, open: OpenHandle<P>) -> Arc<OpenHandle<P>> {
        let open = Arc::new(open);
        self.by_handle.write().entry(handle).or_insert(open).clone()
    }

    pub(crate) fn remove(&self, handle: u64) -> Option<Arc<OpenHandle<P>>> {
        let open = self.by_handle.write().remove(&handle)?;
        let plaintext = match &*open {
            OpenHandle::Secret(secret) => secret.plaintext.as_ref(),
            OpenHandle::Control(_) => None,
        };
        if let Some(plaintext) = plaintext {
            let len = plaintext.as_ref().len();
            self.plaintext_bytes.fetch_sub(len, Ordering::Relaxed);
        }
        Some(open)
    }

    fn keep(&self, plaintext: P) -> Option<P> {
        let len = plaintext.as_ref().len();
        // Counted before it is compared: two threads cannot both take the rest.
        let before = self.plaintext_bytes.fetch_add(len, Ordering::Relaxed);
        if before.saturating_add(len) <= PLAINTEXT_BUDGET {
            return Some(plaintext);
        }
        self.plaintext_bytes.fetch_sub(len, Ordering::Relaxed);
        None
    }
}

impl<P> SecretHandle<P> {
    /// A secret that an earlier process opened: nobody has looked in this one
    /// whether it is readable still.
    pub(crate) fn adopted(file: OpenFile) -> Self {
        Self {
            file,
            plaintext: None,
            revocation_epoch: AtomicU64::new(u64::MAX),
            shared: RwLock::default(),
        }
    }
}

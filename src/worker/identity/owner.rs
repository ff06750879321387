//! Owners of the user namespaces that callers are in, asked for once a thread.

use std::collections::HashMap;
use std::sync::Arc;

use jarvis_fs::{Caller, NamespaceOwner};
use parking_lot::RwLock;

use super::client::ThreadClient;
use crate::ipc::programs::{ThreadAnswer, ThreadQuestion};

/// Most threads that are remembered; all are forgotten together.
const MAX_REMEMBERED: usize = 16 * 1024;

/// Finds out whose user namespace a caller is in.
pub(super) struct OwnerLookup {
    /// By the threads' numbers. A thread that has left our namespace never comes back, and
    /// never leaves the one below ours: what it may enter lies in that.
    known: RwLock<HashMap<u64, NamespaceOwner>>,
    client: Arc<ThreadClient>,
}

impl OwnerLookup {
    pub(super) fn new(client: Arc<ThreadClient>) -> Self {
        Self {
            known: RwLock::default(),
            client,
        }
    }

    /// The owner of the user namespace of `caller`, which is not ours.
    pub(super) fn owner_for(&self, caller: &Caller) -> NamespaceOwner {
        let thread = self.client.thread_of(caller);
        let known = thread
            .thread
            .and_then(|number| self.known.read().get(&number).copied());
        if let Some(owner) = known {
            return owner;
        }
        let owner = match self.client.ask(ThreadQuestion::Namespace(thread)) {
            Some(ThreadAnswer::Namespace { owner: 0, number }) => {
                NamespaceOwner::Root { namespace: number }
            }
            Some(ThreadAnswer::Namespace { owner, .. }) => NamespaceOwner::User(owner),
            // It may be found out the next time.
            Some(ThreadAnswer::Exe(_)) | None => return NamespaceOwner::Unknown,
        };
        if let Some(number) = thread.thread {
            let mut known = self.known.write();
            if known.len() >= MAX_REMEMBERED {
                known.clear();
            }
            known.insert(number, owner);
        }
        owner
    }
}

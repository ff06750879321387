//! Exactly once: answers that were committed together with their effects.
//!
//! A worker can die after a commit and before its answer. The kernel then sends
//! the request to the next worker, which finds the answer here.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jarvis_fs::{HandleTable, RequestOrigin};
use jarvis_vault::{Txn, Vault, VaultError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// After this time in a worker's life nothing is repeated any more: the kernel
/// sends everything again at once.
const REPEATS: Duration = Duration::from_secs(60);

/// An entry of the journal.
#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    /// The control handle that asked.
    handle: u64,
    body: Vec<u8>,
    /// Where the answer stands in the control file.
    at: u64,
}

/// The journal of one mount, as one worker sees it.
pub(crate) struct Journal {
    mount: [u8; 16],
    since: Instant,
    handles: Arc<HandleTable>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By request.
    kept: BTreeMap<u64, Kept>,
    /// Entries of other mounts.
    foreign: Vec<([u8; 16], u64)>,
    /// Dropped with the commit that is on its way.
    dropping: Vec<u64>,
}

struct Kept {
    handle: u64,
    answered: bool,
    /// The entry that an earlier worker left.
    inherited: Option<Entry>,
}

impl Journal {
    /// Reads what earlier workers left.
    ///
    /// # Errors
    /// A failure of the vault.
    pub(crate) fn load(
        vault: &Vault,
        mount: [u8; 16],
        handles: Arc<HandleTable>,
    ) -> Result<Self, VaultError> {
        let mut state = State::default();
        for found in vault.journal()? {
            match postcard::from_bytes::<Entry>(&found.answer) {
                Ok(entry) if found.mount == mount => {
                    let kept = Kept {
                        handle: entry.handle,
                        answered: false,
                        inherited: Some(entry),
                    };
                    state.kept.insert(found.request, kept);
                }
                _ => state.foreign.push((found.mount, found.request)),
            }
        }
        Ok(Self {
            mount,
            since: Instant::now(),
            handles,
            state: Mutex::new(state),
        })
    }

    /// The answer to `request` if an earlier worker carried it out.
    pub(crate) fn replay(&self, request: u64) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let entry = state.kept.get(&request)?.inherited.as_ref()?;
        Some(entry.body.clone())
    }

    /// The last answer committed for `handle` by an earlier worker.
    pub(crate) fn answer_for(&self, handle: u64) -> Option<jarvis_fs::KeptAnswer> {
        let state = self.state.lock();
        let mut entries = state
            .kept
            .values()
            .rev()
            .filter_map(|k| k.inherited.as_ref());
        let entry = entries.find(|e| e.handle == handle)?;
        Some(jarvis_fs::KeptAnswer {
            body: entry.body.clone(),
            at: entry.at,
        })
    }

    /// Enters the answer into the commit, and drops what nobody will ask for.
    ///
    /// # Errors
    /// A failure of the vault.
    pub(crate) fn enter(
        &self,
        txn: &mut Txn<'_>,
        origin: RequestOrigin,
        body: &[u8],
    ) -> Result<(), VaultError> {
        let RequestOrigin {
            request, handle, ..
        } = origin;
        let entry = Entry {
            handle,
            at: origin.end,
            body: body.to_vec(),
        };
        let mut state = self.state.lock();
        self.forget(&mut state, txn);
        let kept = Kept {
            handle,
            answered: false,
            inherited: None,
        };
        state.kept.insert(request, kept);
        // Numbers and bytes always serialise.
        let entry = postcard::to_allocvec(&entry).unwrap_or_default();
        txn.journal(&self.mount, request, &entry)
    }

    /// An answered entry still serves a read of its handle, until the handle
    /// has a newer answer or is closed.
    fn forget(&self, state: &mut State, txn: &mut Txn<'_>) {
        let repeats_are_over = self.since.elapsed() > REPEATS;
        let mut newest = HashSet::new();
        let mut dropping = Vec::new();
        for (request, kept) in state.kept.iter().rev() {
            let answered = kept.answered || (repeats_are_over && kept.inherited.is_some());
            let readable = newest.insert(kept.handle) && self.handles.is_open(kept.handle);
            if answered && !readable {
                txn.forget_answer(&self.mount, *request);
                dropping.push(*request);
            }
        }
        for (mount, request) in &state.foreign {
            txn.forget_answer(mount, *request);
        }
        state.dropping = dropping;
    }

    /// The commit that [`Self::enter`] was part of stands.
    pub(crate) fn committed(&self) {
        let mut state = self.state.lock();
        for request in std::mem::take(&mut state.dropping) {
            state.kept.remove(&request);
        }
        state.foreign.clear();
    }

    /// The kernel has the answer to `request`.
    pub(crate) fn answered(&self, request: u64) {
        if let Some(kept) = self.state.lock().kept.get_mut(&request) {
            kept.answered = true;
        }
    }
}

//! Recently used nodes. Sealed metadata is opened once, not at every stat.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::record::{Node, NodeId};

/// Most nodes kept; a full cache starts over, which costs one decryption a node.
const CAPACITY: usize = 2048;

/// Nodes by id. A reader that loaded a node while a writer replaced it must not put
/// the old one back: `generation` tells it.
#[derive(Default)]
pub(crate) struct NodeCache {
    inner: RwLock<CachedNodes>,
}

#[derive(Default)]
struct CachedNodes {
    generation: u64,
    nodes: HashMap<NodeId, Arc<Node>>,
}

impl NodeCache {
    /// The node, if it is kept.
    pub(crate) fn get(&self, id: NodeId) -> Option<Arc<Node>> {
        self.inner.read().nodes.get(&id).cloned()
    }

    /// The generation: read before the store is, and given back to `insert`.
    pub(crate) fn generation(&self) -> u64 {
        self.inner.read().generation
    }

    /// Keeps `node`, unless there was a commit since `generation`.
    pub(crate) fn insert(&self, node: &Arc<Node>, generation: u64) {
        if self.inner.read().nodes.contains_key(&node.id) {
            return;
        }
        let mut inner = self.inner.write();
        if inner.generation != generation {
            return;
        }
        if inner.nodes.len() >= CAPACITY {
            inner.nodes.clear();
        }
        inner.nodes.insert(node.id, node.clone());
    }

    /// Forgets the nodes that a commit changed; called after the commit, never before:
    /// a reader in between would bring the old node back.
    pub(crate) fn invalidate(&self, ids: impl Iterator<Item = NodeId>) {
        let mut inner = self.inner.write();
        inner.generation += 1;
        for id in ids {
            inner.nodes.remove(&id);
        }
    }
}

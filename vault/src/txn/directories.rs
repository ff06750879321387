//! The tree: secrets and directories with their entries and counts.

use std::ops::ControlFlow;

use super::Txn;
use crate::crypto::{self, RecordKind};
use crate::error::VaultError;
use crate::kind::SecretType;
use crate::name::SecretName;
use crate::record::{Body, Node, NodeId, ROOT, Secret, key};
use crate::version::SecretSettings;

impl Txn<'_> {
    /// A new secret without a version, linked and counted; stored with its first version.
    pub(super) fn create_secret(
        &mut self,
        name: &SecretName,
        kind: Option<&SecretType>,
        now_ms: i64,
    ) -> Result<Node, VaultError> {
        let parent = self.make_directories(name, now_ms)?;
        let id = self.allocate();
        let data_key = crypto::random_key()?;
        let keys = &self.core.keys;
        let context = keys.context(RecordKind::DataKey, id, 0);
        let node = Node {
            id,
            parent,
            path: name.as_str().into(),
            created_ms: now_ms,
            body: Body::Secret(Box::new(Secret {
                kind: kind.cloned().unwrap_or(SecretType::Opaque),
                data_key: crypto::seal(keys.wrap.expose(), context, data_key.as_slice())?,
                versions: Vec::new(),
                pending: None,
                settings: SecretSettings::default(),
                deleted: None,
                cached: false,
            })),
        };
        self.link(&node);
        self.count(parent, true)?;
        Ok(node)
    }

    /// The directory `name` belongs in, made when missing.
    fn make_directories(&mut self, name: &SecretName, now_ms: i64) -> Result<NodeId, VaultError> {
        let mut parent = ROOT;
        let mut path = String::new();
        let mut segments = name.segments();
        segments.next_back();
        for segment in segments {
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(segment);
            parent = match self.lookup(parent, segment)? {
                Some(node) if matches!(node.body, Body::Directory { .. }) => node.id,
                Some(node) => return Err(VaultError::NotDirectory(node.path.into())),
                None => self.make_directory(parent, &path, now_ms)?,
            };
        }
        Ok(parent)
    }

    /// A new directory called `path`.
    fn make_directory(
        &mut self,
        parent: NodeId,
        path: &str,
        now_ms: i64,
    ) -> Result<NodeId, VaultError> {
        let node = Node {
            id: self.allocate(),
            parent,
            path: path.into(),
            created_ms: now_ms,
            body: Body::Directory { live: 0 },
        };
        self.link(&node);
        self.save(&node)?;
        Ok(node.id)
    }

    /// Removes `directory`, in which nothing is, not even what could be restored.
    pub(super) fn remove_directory(&mut self, directory: &Node) -> Result<NodeId, VaultError> {
        let is_within = |node: &Node| node.parent == directory.id;
        if self.has_child(directory.id)? || !self.deleted_nodes(is_within)?.is_empty() {
            return Err(VaultError::NotEmpty(directory.path.to_string()));
        }
        self.unlist(directory);
        self.remove_entry(directory)?;
        self.remove(key::node(directory.id));
        self.nodes.push(directory.id);
        Ok(directory.id)
    }

    /// Whether anything is listed in directory `id`.
    fn has_child(&self, id: NodeId) -> Result<bool, VaultError> {
        let children = key::children(id);
        let written = self.writes.range(children.clone()..);
        let mut written = written.take_while(|(key, _)| key.starts_with(&children));
        let mut found = written.any(|(_, value)| value.is_some());
        let mut stored = |key: &[u8], _: &[u8]| match self.writes.get(key) {
            // Taken away by this change.
            Some(None) => ControlFlow::Continue(()),
            _ => {
                found = true;
                ControlFlow::Break(())
            }
        };
        self.core.store.scan(&children, &children, &mut stored)?;
        Ok(found)
    }

    /// Adds or takes one live secret in `directory` and all above it.
    pub(super) fn count(&mut self, directory: NodeId, more: bool) -> Result<(), VaultError> {
        let step = |count: u64| {
            if more {
                count + 1
            } else {
                count.saturating_sub(1)
            }
        };
        self.state.secrets = step(self.state.secrets);
        let mut id = directory;
        while id != ROOT {
            let missing = || self.core.damaged("a directory is missing");
            let mut node = self.node(id)?.ok_or_else(missing)?;
            if let Body::Directory { live } = &mut node.body {
                *live = step(*live);
            }
            self.save(&node)?;
            id = node.parent;
        }
        Ok(())
    }

    /// Enters `node` into its directory.
    pub(super) fn link(&mut self, node: &Node) {
        let entry = self.core.keys.entry(node.parent, node.segment());
        self.put(entry, node.id.to_be_bytes().to_vec());
        self.put(key::child(node.parent, node.id), Vec::new());
    }

    /// Takes `node` off the list of its directory. A secret's entry stays, by which a new value
    /// finds what was deleted.
    pub(super) fn unlist(&mut self, node: &Node) {
        self.remove(key::child(node.parent, node.id));
    }

    /// Removes the entry of `node`, unless another one has the name by now.
    pub(super) fn remove_entry(&mut self, node: &Node) -> Result<(), VaultError> {
        let entry = self.core.keys.entry(node.parent, node.segment());
        let leads_to = self.get(&entry)?.and_then(|id| key::trailing_id(&id));
        if leads_to == Some(node.id) {
            self.remove(entry);
        }
        Ok(())
    }
}

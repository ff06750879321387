//! Grace that ends once everybody has the new version.
//!
//! Who reads a secret, and which version last, stands in the audit log.

use std::collections::HashMap;
use std::path::Path;

use jarvis_audit::{Action, Outcome, Record, recent_records};
use jarvis_vault::{SecretName, VersionState};

use super::parts::SchedulerParts;
use crate::worker::commit::change::{Change, ChangeKind};

/// How much of the log's end is looked at, in bytes: who has not read since is no
/// consumer any more.
const LOOKED_AT: u64 = 64 * 1024 * 1024;

/// A secret whose grace may end, and what ends it.
struct Candidate {
    name: Box<str>,
    current: u32,
    in_grace: Vec<u32>,
}

/// Uid, unit and container of a reader.
type ReaderKey = (Option<u32>, Option<String>, Option<String>);

/// Ends the grace of old versions where that was asked for and all readers in the
/// log in `directory` had the current one last.
pub(super) fn end_graces(parts: &SchedulerParts, directory: &Path) {
    let mut candidates = HashMap::new();
    let walk = parts.secrets.walk(&mut |node, secret| {
        let in_grace = secret.versions.iter();
        let in_grace: Vec<_> = in_grace
            .filter(|version| parts.secrets.state_of(secret, version) == VersionState::Grace)
            .map(|version| version.number)
            .collect();
        if let Some(current) = secret.current()
            && secret.settings.end_grace_when_adopted
            && !in_grace.is_empty()
        {
            let candidate = Candidate {
                name: node.path.clone(),
                current: current.number,
                in_grace,
            };
            candidates.insert(node.id, candidate);
        }
    });
    if let Err(error) = walk {
        parts.secrets.vault_failed(&error);
    }
    if candidates.is_empty() {
        return;
    }
    let records = match recent_records(directory, LOOKED_AT) {
        Ok(records) => records,
        Err(error) => return tracing::warn!(%error, "cannot tell who has which version"),
    };
    let last = last_versions(records, |id| candidates.contains_key(&id));
    for (id, candidate) in &candidates {
        let Some(readers) = last.get(id) else {
            // Nobody reads it: nobody has the new one either.
            continue;
        };
        if readers
            .values()
            .all(|&version| version == candidate.current)
        {
            end(parts, candidate, readers.len());
        }
    }
}

/// The version that each reader of each wanted secret read last.
fn last_versions(
    records: impl Iterator<Item = Record>,
    wanted: impl Fn(u64) -> bool,
) -> HashMap<u64, HashMap<ReaderKey, u32>> {
    let mut last: HashMap<u64, HashMap<ReaderKey, u32>> = HashMap::new();
    for record in records {
        let granted = record.action == Action::Read && record.result == Outcome::Ok;
        let Some(id) = record.id.filter(|&id| granted && wanted(id)) else {
            continue;
        };
        if let Some(version) = record.version {
            let reader = (record.uid, record.unit, record.container);
            last.entry(id).or_default().insert(reader, version);
        }
    }
    last
}

fn end(parts: &SchedulerParts, candidate: &Candidate, readers: usize) {
    let Ok(name) = SecretName::parse(&candidate.name) else {
        return;
    };
    let reason = format!(
        "deprecated: all {readers} consumers have version {}",
        candidate.current
    );
    let ended = parts.committer.commit(|txn| {
        let mut changes = Vec::new();
        for &version in &candidate.in_grace {
            let outcome = txn.deprecate(&name, version)?;
            let change = Change::new(ChangeKind::Configure, &name, outcome);
            changes.push(Change {
                reason: Some(reason.clone()),
                ..change
            });
        }
        Ok(changes)
    });
    if let Err(error) = ended {
        tracing::error!(%error, "a grace could not be ended");
    }
}

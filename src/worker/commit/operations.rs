//! Changes that several rooms make the same way.

use jarvis_vault::{NewVersion, SecretName, Txn, VaultError};

use super::change::{Change, ChangeKind};

/// A new value now, or one that waits for its hook.
///
/// # Errors
/// The vault's.
pub(crate) fn rotate(
    txn: &mut Txn<'_>,
    name: &SecretName,
    new: &NewVersion<'_>,
) -> Result<Change, VaultError> {
    if !txn.has_hook(name)? {
        let outcome = txn.rotate(name, new)?;
        return Ok(Change {
            reason: new.why.map(str::to_owned),
            ..Change::new(ChangeKind::Rotate, name, outcome)
        });
    }
    let (outcome, pending) = txn.begin_rotation(name, new)?;
    let change = Change::new(ChangeKind::Configure, name, outcome);
    Ok(Change {
        reason: Some(format!("rotation to version {} begun", pending.number)),
        begins: Some(pending.number),
        ..change
    })
}

/// `changes`, followed by those that they brought about in `txn`: the public parts of
/// key pairs.
pub(crate) fn with_derived(txn: &mut Txn<'_>, changes: Vec<Change>) -> Vec<Change> {
    let derived = txn.derived_changes().into_iter();
    let derived = derived.map(|(name, outcome)| Change::derived(&name, outcome));
    changes.into_iter().chain(derived).collect()
}

//! What a vault keeps is bounded, and no bound keeps a secret in service.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::ops::ControlFlow;

use common::{DAY, NOW, VaultHome, current, name, new_version, set};
use jarvis_vault::{
    ActedBy, MAX_DELETED, MAX_OPEN_OF_ONE, MAX_OPEN_REVOCATIONS, MAX_REVOCATIONS, Revocation,
    RevocationReason, RevocationRequest, Severity, Vault, VaultError,
};

fn request(uid: u32, immediate: bool) -> RevocationRequest<'static> {
    RevocationRequest {
        reason: RevocationReason::ManualRequest,
        severity: Severity::Low,
        note: None,
        by: ActedBy { uid, at_ms: NOW },
        life_ms: DAY,
        immediate,
    }
}

/// Asks for so many revocations of `a` in one change.
fn ask(vault: &Vault, uid: u32, times: usize) -> Result<(), VaultError> {
    vault.write(|txn| {
        for _ in 0..times {
            txn.request_revocation(&name("a"), &request(uid, false))?;
        }
        Ok(())
    })
}

/// Takes `a` out of service so many times, each time in one step.
fn take_out(vault: &Vault, times: usize) -> Result<(), VaultError> {
    vault.write(|txn| {
        for _ in 0..times {
            let asked = txn.request_revocation(&name("a"), &request(0, true))?;
            txn.execute_revocation(asked.id, asked.requested, true)?;
        }
        Ok(())
    })
}

fn kept(vault: &Vault) -> Vec<Revocation> {
    let mut kept = Vec::new();
    let visited = vault.revocations(0, |revocation| {
        kept.push(revocation.clone());
        ControlFlow::Continue(())
    });
    visited.unwrap();
    kept
}

#[test]
fn requests_that_wait_are_bounded_and_an_immediate_one_is_taken() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "a", b"1");
    ask(&vault, 1, MAX_OPEN_OF_ONE).unwrap();
    let full = ask(&vault, 1, 1).unwrap_err().to_string();
    assert!(
        full.starts_with("64 revocations that uid 1 asked for wait"),
        "{full}"
    );
    let others = u32::try_from(MAX_OPEN_REVOCATIONS / MAX_OPEN_OF_ONE).unwrap();
    for uid in 2..=others {
        ask(&vault, uid, MAX_OPEN_OF_ONE).unwrap();
    }
    let full = ask(&vault, 0, 1).unwrap_err().to_string();
    assert!(full.starts_with("512 revocations wait"), "{full}");
    take_out(&vault, 1).unwrap();
    assert!(current(&vault, "a").is_none());
    // Those that waited too long keep nobody from asking.
    let mut later = request(1, false);
    later.by.at_ms += DAY;
    vault
        .write(|txn| txn.request_revocation(&name("a"), &later))
        .unwrap();
    // Nor do those that were decided against.
    let by = ActedBy { uid: 1, at_ms: NOW };
    for id in [70, 71] {
        vault
            .write(|txn| txn.decide_revocation(id, false, by))
            .unwrap();
    }
    ask(&vault, 9, 1).unwrap();
}

#[test]
fn the_oldest_revocations_that_are_over_are_forgotten() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "a", b"1");
    ask(&vault, 1, 1).unwrap();
    take_out(&vault, MAX_REVOCATIONS - 1).unwrap();
    assert_eq!(kept(&vault).len(), MAX_REVOCATIONS);
    take_out(&vault, 2).unwrap();
    ask(&vault, 2, 1).unwrap();
    let kept = kept(&vault);
    assert_eq!(kept.len(), MAX_REVOCATIONS);
    // The first one still waits; three of those that were carried out are gone.
    assert_eq!((kept[0].id, kept[1].id), (1, 5));
    assert_eq!(kept.last().unwrap().id, MAX_REVOCATIONS as u64 + 3);
    let gone = vault.revocation(2).unwrap_err();
    assert!(matches!(gone, VaultError::NoSuchRevocation(2)));
}

#[test]
fn deleted_secrets_are_bounded_and_make_room_when_they_are_purged() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let nth = |n: usize| name(&format!("s{n}"));
    vault
        .write(|txn| {
            for n in 0..=MAX_DELETED {
                txn.set(&nth(n), b"", &new_version())?;
            }
            for n in 0..MAX_DELETED {
                txn.delete(&nth(n), 0, NOW)?;
            }
            Ok::<_, VaultError>(())
        })
        .unwrap();
    assert_eq!(vault.deleted_count().unwrap(), MAX_DELETED);
    let delete = |n| vault.write(|txn| txn.delete(&nth(n), 0, NOW));
    let full = delete(MAX_DELETED).unwrap_err();
    assert!(matches!(full, VaultError::TooManyDeleted(MAX_DELETED)));
    let both = vault.write(|txn| {
        txn.purge(&nth(7))?;
        txn.delete(&nth(MAX_DELETED), 0, NOW)
    });
    both.unwrap();
    // It goes out of service all the same.
    set(&vault, "a", b"1");
    take_out(&vault, 1).unwrap();
    assert!(current(&vault, "a").is_none());
}

#[test]
fn nodes_come_in_the_order_of_their_ids_from_any_place_on() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    for path in ["b", "dir/a", "a", "gone"] {
        set(&vault, path, b"1");
    }
    vault
        .write(|txn| txn.delete(&name("gone"), 0, NOW))
        .unwrap();
    let seen = |after: u64, most: usize| {
        let mut seen: Vec<(u64, String)> = Vec::new();
        let visited = vault.nodes(after, |node| {
            seen.push((node.id, node.path.to_string()));
            if seen.len() < most {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        visited.unwrap();
        seen
    };
    let all = seen(0, usize::MAX);
    let paths: Vec<_> = all.iter().map(|(_, path)| path.as_str()).collect();
    assert_eq!(paths, ["b", "dir", "dir/a", "a", "gone"]);
    assert_eq!(seen(0, 2), all[..2]);
    assert_eq!(seen(all[1].0, usize::MAX), all[2..]);
}

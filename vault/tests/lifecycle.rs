//! Versions after they were made: superseded, rolled back, revoked.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::sync::Arc;

use common::{DAY, NOW, VaultHome, current, name, new_version, set, try_set};
use jarvis_vault::{
    ActedBy, KidPrecondition, MAX_DESTROYED, NewVersion, Node, RevocationReason, RevocationRequest,
    RevocationStatus, SecretType, Severity, Vault, VaultError, VersionState,
};

fn node(vault: &Vault, path: &str) -> Arc<Node> {
    vault.find(&name(path)).unwrap().unwrap()
}

fn states(vault: &Vault, path: &str, now_ms: i64) -> Vec<VersionState> {
    let node = node(vault, path);
    let versions = &node.live_secret().unwrap().versions;
    let states = versions.iter().map(|v| v.state(now_ms, 14 * DAY));
    states.collect()
}

fn later(days: i64) -> NewVersion<'static> {
    NewVersion {
        now_ms: NOW + days * DAY,
        ..new_version()
    }
}

#[test]
fn versions_go_from_current_to_grace_to_retired() {
    use VersionState::{Current, Destroyed, Grace, Retired};
    let home = VaultHome::with_key(1);
    let vault = home.open();
    for day in [0, 10, 20] {
        try_set(&vault, "a", b"v", &later(day)).unwrap();
    }
    assert_eq!(states(&vault, "a", NOW + 20 * DAY), [Grace, Grace, Current]);
    let over = NOW + 24 * DAY;
    assert_eq!(states(&vault, "a", over - 1), [Grace, Grace, Current]);
    assert_eq!(states(&vault, "a", over), [Retired, Grace, Current]);
    let two = NewVersion {
        keep: 2,
        ..later(21)
    };
    try_set(&vault, "a", b"v", &two).unwrap();
    let expected = [Destroyed, Destroyed, Grace, Current];
    assert_eq!(states(&vault, "a", NOW + 21 * DAY), expected);
    let node = node(&vault, "a");
    assert!(vault.value(&node, 1).unwrap().is_none());
    assert!(vault.value(&node, 3).unwrap().is_some());
}

#[test]
fn a_versions_metadata_is_kept() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let explained = NewVersion {
        why: Some("because"),
        ..new_version()
    };
    try_set(&vault, "a", b"1", &explained).unwrap();
    set(&vault, "a", b"2");
    let node = node(&vault, "a");
    let [first, second] = &node.live_secret().unwrap().versions[..] else {
        panic!("two versions");
    };
    assert_eq!(first.why.as_deref(), Some("because"));
    assert_eq!(
        (first.superseded_ms, second.superseded_ms),
        (Some(NOW), None)
    );
    assert_eq!((first.by_uid, second.why.as_deref()), (7, None));
    let secret = node.live_secret().unwrap();
    assert_eq!(secret.version_by_kid(&second.kid).unwrap().number, 2);
    assert_eq!(secret.version(1).unwrap().kid, first.kid);
    assert!(secret.version_by_kid("a-2").is_none());
}

#[test]
fn a_rollback_is_a_new_version_with_the_old_value() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "a", b"good");
    set(&vault, "a", b"bad");
    let back = vault
        .write(|t| t.rollback(&name("a"), 1, &new_version()))
        .unwrap();
    assert_eq!(back.version, 3);
    assert_eq!(current(&vault, "a").unwrap(), b"good");
    let missing = vault.write(|t| t.rollback(&name("a"), 9, &new_version()));
    assert!(matches!(
        missing,
        Err(VaultError::NoSuchVersion { version: 9, .. })
    ));
    vault
        .write(|t| t.prune(&name("a"), 1, |_, _| false))
        .unwrap();
    let gone = vault.write(|t| t.rollback(&name("a"), 2, &new_version()));
    assert!(matches!(
        gone,
        Err(VaultError::Unusable {
            state: "destroyed",
            ..
        })
    ));
    // What is written and rolled back to in one change.
    vault
        .write(|t| {
            t.set(&name("a"), b"x", &new_version())?;
            t.set(&name("a"), b"y", &new_version())?;
            t.rollback(&name("a"), 4, &new_version())
        })
        .unwrap();
    assert_eq!(current(&vault, "a").unwrap(), b"x");
}

#[test]
fn deprecation_ends_the_grace_of_old_versions_only() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "a", b"1");
    let refused = vault.write(|t| t.deprecate(&name("a"), 1));
    assert!(matches!(refused, Err(VaultError::Unusable { .. })));
    set(&vault, "a", b"2");
    let done = vault.write(|t| t.deprecate(&name("a"), 1)).unwrap();
    assert_eq!(done.version, 1);
    let expected = [VersionState::Deprecated, VersionState::Current];
    assert_eq!(states(&vault, "a", NOW), expected);
    vault
        .write(|t| t.rollback(&name("a"), 1, &new_version()))
        .unwrap();
}

#[test]
fn a_secrets_own_settings_come_first() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "a", b"0");
    vault
        .write(|t| {
            t.configure(&name("a"), |settings| {
                settings.keep = Some(2);
                settings.life_ms = Some(DAY);
            })
        })
        .unwrap();
    for value in [b"1", b"2", b"3"] {
        set(&vault, "a", value);
    }
    let node = node(&vault, "a");
    let secret = node.live_secret().unwrap();
    assert_eq!(secret.versions.iter().filter(|v| v.has_value()).count(), 2);
    assert_eq!(secret.current().unwrap().expires_ms, NOW + DAY);
}

#[test]
fn history_is_bounded() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    vault
        .write(|t| -> Result<_, VaultError> {
            for _ in 0..MAX_DESTROYED + 15 {
                t.set(&name("a"), b"v", &new_version())?;
            }
            Ok(())
        })
        .unwrap();
    let node = node(&vault, "a");
    let versions = &node.live_secret().unwrap().versions;
    assert_eq!(versions.len(), MAX_DESTROYED + 10);
    assert_eq!(versions[0].number, 6);
    assert_eq!(versions.last().unwrap().number as usize, MAX_DESTROYED + 15);
}

fn password(vault: &Vault, path: &str) {
    let kind = SecretType::password(20).unwrap();
    vault
        .write(|t| t.generate(&name(path), &kind, &new_version()))
        .unwrap();
}

#[test]
fn a_begun_rotation_changes_nothing_until_it_is_finished() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    password(&vault, "p");
    let old = current(&vault, "p").unwrap();
    let begin = || vault.write(|t| t.begin_rotation(&name("p"), &new_version()));
    let (outcome, pending) = begin().unwrap();
    assert_eq!((outcome.version, pending.number), (1, 2));
    assert_eq!(current(&vault, "p").unwrap(), old);
    let waiting = vault.value(&node(&vault, "p"), 2).unwrap().unwrap();
    assert!(waiting.expose() != old);
    assert!(matches!(begin(), Err(VaultError::RotationPending(_))));
    let other = try_set(&vault, "p", b"x", &new_version());
    assert!(matches!(other, Err(VaultError::RotationPending(_))));

    let abandon = |number| vault.write(|t| t.abandon_rotation(outcome.id, number));
    assert!(matches!(abandon(3), Err(VaultError::NoRotation(_))));
    abandon(2).unwrap();
    assert!(vault.value(&node(&vault, "p"), 2).unwrap().is_none());
    assert!(matches!(abandon(2), Err(VaultError::NoRotation(_))));

    let (_, pending) = begin().unwrap();
    drop(vault);
    let vault = home.open();
    let value = vault.value(&node(&vault, "p"), pending.number).unwrap();
    let done = vault
        .write(|t| t.finish_rotation(outcome.id, pending.number, &new_version()))
        .unwrap();
    assert_eq!((done.version, &done.kid), (2, &pending.kid));
    assert_eq!(current(&vault, "p").unwrap(), value.unwrap().expose());
}

#[test]
fn a_purge_takes_the_waiting_value_too() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    password(&vault, "p");
    vault
        .write(|t| t.begin_rotation(&name("p"), &new_version()))
        .unwrap();
    let node = node(&vault, "p");
    vault.write(|t| t.delete(&name("p"), 0, NOW)).unwrap();
    vault.write(|t| t.purge(&name("p"))).unwrap();
    assert!(vault.value(&node, 2).unwrap().is_none());
}

fn request_by(by: u32) -> RevocationRequest<'static> {
    RevocationRequest {
        reason: RevocationReason::SuspectedCompromise,
        severity: Severity::High,
        note: Some("seen in a log"),
        by: ActedBy {
            uid: by,
            at_ms: NOW,
        },
        life_ms: DAY,
        immediate: false,
    }
}

fn by(uid: u32, at_ms: i64) -> ActedBy {
    ActedBy { uid, at_ms }
}

#[test]
fn two_persons_take_a_secret_out_of_service() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "a", b"1");
    set(&vault, "a", b"2");
    let request = vault
        .write(|t| t.request_revocation(&name("a"), &request_by(1)))
        .unwrap();
    assert_eq!(
        (request.id, request.status),
        (1, RevocationStatus::Requested)
    );
    let decide = |uid, at| vault.write(|t| t.decide_revocation(1, true, by(uid, at)));
    let execute = || vault.write(|t| t.execute_revocation(1, by(1, NOW), false));
    assert!(matches!(decide(1, NOW), Err(VaultError::SamePerson(1))));
    let early = execute();
    assert!(matches!(
        early,
        Err(VaultError::WrongStatus {
            found: "requested",
            ..
        })
    ));
    let late = decide(2, NOW + DAY);
    assert!(matches!(
        late,
        Err(VaultError::WrongStatus {
            found: "expired",
            ..
        })
    ));
    decide(2, NOW).unwrap();
    let again = decide(3, NOW);
    assert!(matches!(
        again,
        Err(VaultError::WrongStatus {
            found: "approved",
            ..
        })
    ));
    assert!(current(&vault, "a").is_some(), "approved is not executed");
    execute().unwrap();
    assert!(matches!(
        execute(),
        Err(VaultError::WrongStatus {
            found: "executed",
            ..
        })
    ));
    assert!(current(&vault, "a").is_none());
    assert_eq!(states(&vault, "a", NOW), [VersionState::Revoked; 2]);
    drop(vault);
    let vault = home.open();
    assert!(current(&vault, "a").is_none(), "also after a restart");
    let kept = vault.revocation(1).unwrap();
    assert_eq!(kept.decided, Some(by(2, NOW)));
    assert_eq!(kept.note.as_deref(), Some("seen in a log"));
    // A new value is clean; the old ones stay out.
    set(&vault, "a", b"3");
    assert_eq!(current(&vault, "a").unwrap(), b"3");
    let back = vault.write(|t| t.rollback(&name("a"), 2, &new_version()));
    assert!(matches!(
        back,
        Err(VaultError::Unusable {
            state: "revoked",
            ..
        })
    ));
}

#[test]
fn a_refused_request_stays_refused() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "a", b"1");
    vault
        .write(|t| t.request_revocation(&name("a"), &request_by(1)))
        .unwrap();
    // Who asked may think better of it.
    vault
        .write(|t| t.decide_revocation(1, false, by(1, NOW)))
        .unwrap();
    let late = vault.write(|t| t.decide_revocation(1, true, by(2, NOW)));
    assert!(matches!(
        late,
        Err(VaultError::WrongStatus {
            found: "rejected",
            ..
        })
    ));
    let none = vault.write(|t| t.decide_revocation(7, true, by(2, NOW)));
    assert!(matches!(none, Err(VaultError::NoSuchRevocation(7))));
    let immediate = vault.write(|t| t.execute_revocation(1, by(1, NOW), true));
    assert!(immediate.is_err());
    assert!(current(&vault, "a").is_some());
}

#[test]
fn an_emergency_needs_nobody_else_and_a_deleted_secret_does_not_escape() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "a", b"1");
    let id = vault
        .write(|t| t.request_revocation(&name("a"), &request_by(1)))
        .unwrap()
        .id;
    vault.write(|t| t.delete(&name("a"), 0, NOW)).unwrap();
    let (done, outcome) = vault
        .write(|t| t.execute_revocation(id, by(1, NOW), true))
        .unwrap();
    assert!(done.immediate && done.decided.is_none());
    assert_eq!(outcome.version, 1);
    vault.write(|t| t.restore(&name("a"), NOW - DAY)).unwrap();
    assert!(current(&vault, "a").is_none());
}

/// A deleted secret called `d/a` with two versions; its id.
fn deleted(vault: &Vault) -> u64 {
    let id = set(vault, "d/a", b"1").id;
    set(vault, "d/a", b"2");
    vault.write(|t| t.delete(&name("d/a"), 0, NOW)).unwrap();
    id
}

#[test]
fn a_new_value_continues_what_was_deleted() {
    use VersionState::{Current, Deprecated};
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let password = SecretType::password(20).unwrap();
    let typed = NewVersion {
        kind: Some(&password),
        cached: Some(true),
        ..new_version()
    };
    let first = try_set(&vault, "d/a", b"1", &typed).unwrap();
    set(&vault, "d/a", b"2");
    vault
        .write(|t| t.configure(&name("d/a"), |settings| settings.keep = Some(5)))
        .unwrap();
    vault.write(|t| t.delete(&name("d/a"), 0, NOW)).unwrap();
    // Who may rotate need not be who may bring it back.
    let rotated = vault.write(|t| t.rotate(&name("d/a"), &new_version()));
    assert!(matches!(rotated, Err(VaultError::NotFound(_))));
    let demand = |if_kid| NewVersion {
        if_kid,
        ..new_version()
    };
    let stale = try_set(
        &vault,
        "d/a",
        b"3",
        &demand(KidPrecondition::Current("a-1")),
    );
    assert!(matches!(stale, Err(VaultError::Conflict { .. })));
    assert!(vault.find(&name("d/a")).unwrap().is_none(), "still deleted");
    let back = try_set(&vault, "d/a", b"3", &demand(KidPrecondition::Absent)).unwrap();
    assert!(back.created && back.continued);
    assert_eq!((back.id, back.version), (first.id, 3));
    assert_eq!(current(&vault, "d/a").unwrap(), b"3");
    assert_eq!(vault.counts().secrets, 1);
    // Neither is in its grace again, and both can be rolled back to.
    assert_eq!(
        states(&vault, "d/a", NOW),
        [Deprecated, Deprecated, Current]
    );
    let secret = node(&vault, "d/a");
    let secret = secret.live_secret().unwrap();
    assert!(secret.cached && secret.kind == password);
    assert_eq!(secret.settings.keep, Some(5));
    let again = vault.write(|t| t.restore(&name("d/a"), 0));
    assert!(matches!(again, Err(VaultError::Occupied(_))));
    let rolled = vault.write(|t| t.rollback(&name("d/a"), 1, &new_version()));
    assert_eq!(rolled.unwrap().version, 4);
    assert_eq!(current(&vault, "d/a").unwrap(), b"1");
    // As it was left: restored with what is current, and the deprecated ones beside it.
    vault.write(|t| t.delete(&name("d/a"), 0, NOW)).unwrap();
    drop(vault);
    let vault = home.open();
    vault.write(|t| t.restore(&name("d/a"), NOW)).unwrap();
    let expected = [Deprecated, Deprecated, VersionState::Grace, Current];
    assert_eq!(states(&vault, "d/a", NOW), expected);
}

#[test]
fn what_was_purged_or_is_past_its_window_is_not_continued() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let purged = deleted(&vault);
    vault.write(|t| t.purge(&name("d/a"))).unwrap();
    let second = set(&vault, "d/a", b"new");
    assert!(second.id > purged && second.version == 1 && !second.continued);
    vault.write(|t| t.delete(&name("d/a"), 0, NOW)).unwrap();
    let late = NewVersion {
        recoverable_since_ms: NOW + 1,
        ..new_version()
    };
    let third = try_set(&vault, "d/a", b"newer", &late).unwrap();
    assert!(third.id > second.id && third.version == 1 && !third.continued);
    // The purge of the one before leaves the name to who has it now.
    let gone = vault.write(|t| t.purge_expired(NOW + 1)).unwrap();
    assert_eq!(gone, [("d/a".into(), second.id)]);
    assert_eq!(current(&vault, "d/a").unwrap(), b"newer");
    assert_eq!(vault.counts().secrets, 1);
}

#[test]
fn revoked_versions_stay_so_when_a_new_value_continues() {
    use VersionState::{Current, Revoked};
    let home = VaultHome::with_key(1);
    let vault = home.open();
    deleted(&vault);
    vault.write(|t| t.restore(&name("d/a"), NOW)).unwrap();
    vault
        .write(|t| -> Result<_, VaultError> {
            let asked = t.request_revocation(&name("d/a"), &request_by(1))?;
            t.delete(&name("d/a"), 0, NOW)?;
            t.execute_revocation(asked.id, by(1, NOW), true)
        })
        .unwrap();
    set(&vault, "d/a", b"clean");
    assert_eq!(states(&vault, "d/a", NOW), [Revoked, Revoked, Current]);
    assert_eq!(current(&vault, "d/a").unwrap(), b"clean");
}

#[test]
fn a_rotation_that_waits_keeps_a_deleted_secret_from_new_values() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    password(&vault, "p");
    let (outcome, pending) = vault
        .write(|t| t.begin_rotation(&name("p"), &new_version()))
        .unwrap();
    vault.write(|t| t.delete(&name("p"), 0, NOW)).unwrap();
    let refused = try_set(&vault, "p", b"x", &new_version());
    assert!(matches!(refused, Err(VaultError::RotationPending(_))));
    assert!(vault.find(&name("p")).unwrap().is_none(), "still deleted");
    assert_eq!(vault.counts().secrets, 0);
    vault
        .write(|t| t.abandon_rotation(outcome.id, pending.number))
        .unwrap();
    assert_eq!(set(&vault, "p", b"x").id, outcome.id);
}

#[test]
fn a_directory_may_take_a_deleted_secrets_name() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let id = set(&vault, "a", b"1").id;
    vault.write(|t| t.delete(&name("a"), 0, NOW)).unwrap();
    set(&vault, "a/b", b"2");
    let taken = vault.write(|t| t.restore(&name("a"), NOW));
    assert!(matches!(taken, Err(VaultError::Occupied(_))));
    let onto = try_set(&vault, "a", b"3", &new_version());
    assert!(matches!(onto, Err(VaultError::IsDirectory(_))));
    assert_eq!(vault.write(|t| t.purge(&name("a"))).unwrap(), [id]);
    assert_eq!(current(&vault, "a/b").unwrap(), b"2");
}

#[test]
fn a_deleted_public_part_goes_on_with_its_key() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let make = || vault.write(|t| t.generate(&name("k"), &SecretType::Ed25519, &new_version()));
    make().unwrap();
    let public = node(&vault, "k.pub").id;
    for path in ["k", "k.pub"] {
        vault.write(|t| t.delete(&name(path), 0, NOW)).unwrap();
    }
    let derived = vault.write(|t| -> Result<_, VaultError> {
        t.generate(&name("k"), &SecretType::Ed25519, &new_version())?;
        Ok(t.derived_changes())
    });
    let (path, outcome) = derived.unwrap().remove(0);
    assert_eq!((path.as_str(), outcome.id), ("k.pub", public));
    assert!(outcome.created && outcome.continued && outcome.version == 2);
}

#[test]
fn deleted_and_set_in_one_change() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let id = set(&vault, "a", b"1").id;
    let outcome = vault.write(|t| {
        t.delete(&name("a"), 0, NOW)?;
        t.set(&name("a"), b"2", &new_version())
    });
    let outcome = outcome.unwrap();
    assert!(outcome.id == id && outcome.version == 2 && outcome.continued);
    let mut left = 0;
    vault.deleted(|_| left += 1).unwrap();
    assert_eq!((left, vault.counts().secrets), (0, 1));
}

#[test]
fn warnings_are_given_once_a_version() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let id = set(&vault, "a", b"1").id;
    let warn = |number, n| vault.write(|t| t.warned(id, number, n)).unwrap().is_some();
    assert!(warn(1, 1) && !warn(1, 1) && warn(1, 2) && !warn(1, 1));
    assert!(!warn(9, 1));
    set(&vault, "a", b"2");
    assert!(!warn(1, 3) && warn(2, 1));
}

#[test]
fn a_key_pairs_public_part_is_a_secret_of_its_own() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let make = || vault.write(|t| t.generate(&name("d/k"), &SecretType::Ed25519, &new_version()));
    make().unwrap();
    let public = || current(&vault, "d/k.pub").unwrap();
    let first = public();
    assert!(first.starts_with(b"-----BEGIN PUBLIC KEY-----"));
    let seq = vault.counts().seq;
    let derived = vault.write(|t| -> Result<_, VaultError> {
        t.rotate(&name("d/k"), &new_version())?;
        Ok(t.derived_changes())
    });
    let derived = derived.unwrap();
    assert_eq!(
        (derived[0].0.as_str(), derived[0].1.version),
        ("d/k.pub", 2)
    );
    assert_eq!(vault.counts().seq, seq + 1, "one commit");
    assert!(public() != first);
    // A begun rotation publishes when it is finished.
    let (_, pending) = vault
        .write(|t| t.begin_rotation(&name("d/k"), &new_version()))
        .unwrap();
    let before = public();
    let id = node(&vault, "d/k").id;
    vault
        .write(|t| t.finish_rotation(id, pending.number, &new_version()))
        .unwrap();
    assert!(public() != before);
    // What is no key is refused, and so is a name that is taken.
    let wrong = try_set(&vault, "d/k", b"hunter2", &new_version());
    assert!(matches!(wrong, Err(VaultError::Value(_))));
    set(&vault, "x.pub", b"mine");
    let taken = vault.write(|t| t.generate(&name("x"), &SecretType::Ed25519, &new_version()));
    assert!(matches!(taken, Err(VaultError::Occupied(_))));
    assert_eq!(current(&vault, "x.pub").unwrap(), b"mine");
}

/// What a clock that was ahead has dated is dated now; lives keep their lengths.
#[test]
fn what_was_made_in_the_future_is_made_now() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let now = NOW + DAY;
    set(&vault, "a", b"1");
    try_set(&vault, "a", b"2", &later(3650)).unwrap();
    set(&vault, "b", b"1");
    let request = RevocationRequest {
        by: by(1, NOW + 3650 * DAY),
        ..request_by(1)
    };
    vault
        .write(|t| t.request_revocation(&name("b"), &request))
        .unwrap();
    let correct = |path: &str| {
        let id = node(&vault, path).id;
        let corrected = vault.write(|t| t.correct_times(id, now)).unwrap();
        corrected.is_some()
    };
    assert_eq!(
        (correct("a"), correct("a"), correct("b")),
        (true, false, false)
    );
    let node = node(&vault, "a");
    let [old, new] = &node.live_secret().unwrap().versions[..] else {
        panic!("two versions");
    };
    assert_eq!((old.created_ms, old.superseded_ms), (NOW, Some(now)));
    assert_eq!((new.created_ms, new.expires_ms), (now, now + 90 * DAY));
    let corrected = vault.write(|t| t.correct_revocation(1, now)).unwrap();
    let life = request.life_ms;
    assert_eq!(corrected.unwrap().expires_ms, now + life);
    assert!(
        vault
            .write(|t| t.correct_revocation(1, now))
            .unwrap()
            .is_none()
    );
}

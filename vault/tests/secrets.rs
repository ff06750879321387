//! Secrets from their first version to their purge.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;

use common::{DAY, NOW, VaultHome, current, name, new_version, set, try_set};
use jarvis_vault::{
    Body, KidPrecondition, MAX_VALUE, NewVersion, ROOT, SecretType, Vault, VaultError, WriteOutcome,
};
use proptest::prelude::*;

#[test]
fn versions_count_and_old_ones_stay_readable() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let first = set(&vault, "a", b"one");
    let second = set(&vault, "a", b"two");
    assert!(first.created && !second.created);
    assert_eq!((first.version, second.version), (1, 2));
    assert_eq!(first.id, second.id);
    assert_eq!(first.kid, "a-20270115-080000");
    assert_eq!(second.kid, "a-20270115-080000-2");
    let node = vault.node(first.id).unwrap().unwrap();
    assert_eq!(vault.value(&node, 1).unwrap().unwrap().expose(), b"one");
    assert_eq!(vault.value(&node, 2).unwrap().unwrap().expose(), b"two");
    assert_eq!(vault.counts().seq, 2);
}

#[test]
fn ids_are_never_reused() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let first = set(&vault, "a", b"1").id;
    vault.write(|t| t.delete(&name("a"), 0, NOW)).unwrap();
    vault.write(|t| t.purge(&name("a"))).unwrap();
    drop(vault);
    let vault = home.open();
    let second = set(&vault, "a", b"2");
    assert!(first < second.id && second.created && !second.continued);
    assert!(vault.node(first).unwrap().is_none(), "purged");
}

#[test]
fn delete_restore_purge() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let made = set(&vault, "d/a", b"kept");
    vault.write(|t| t.delete(&name("d/a"), 9, NOW)).unwrap();
    assert!(current(&vault, "d/a").is_none());
    assert_eq!(vault.counts().secrets, 0);
    let gone = vault.write(|t| t.delete(&name("d/a"), 9, NOW));
    assert!(matches!(gone, Err(VaultError::NotFound(_))));

    let late = vault.write(|t| t.restore(&name("d/a"), NOW + 1));
    assert!(matches!(late, Err(VaultError::NotFound(_))), "window over");
    let back = vault.write(|t| t.restore(&name("d/a"), NOW - DAY)).unwrap();
    assert_eq!((back.id, &back.kid), (made.id, &made.kid));
    assert_eq!(current(&vault, "d/a").unwrap(), b"kept");
    let taken = vault.write(|t| t.restore(&name("d/a"), 0));
    assert!(matches!(taken, Err(VaultError::Occupied(_))));

    vault.write(|t| t.delete(&name("d/a"), 9, NOW)).unwrap();
    let expired = vault.write(|t| t.purge_expired(NOW + 1)).unwrap();
    assert_eq!(expired, vec![("d/a".into(), made.id)]);
    let purged = vault.write(|t| t.restore(&name("d/a"), 0));
    assert!(matches!(purged, Err(VaultError::NotFound(_))));
}

#[test]
fn delete_and_restore_within_one_change() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "a", b"1");
    vault
        .write(|t| -> Result<(), VaultError> {
            t.delete(&name("a"), 0, NOW)?;
            t.restore(&name("a"), 0)?;
            Ok(())
        })
        .unwrap();
    assert_eq!(current(&vault, "a").unwrap(), b"1");
    let mut deleted = 0;
    vault.deleted(|_| deleted += 1).unwrap();
    assert_eq!(deleted, 0);
}

#[test]
fn a_change_is_all_or_nothing() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let result = vault.write(|t| -> Result<(), VaultError> {
        t.set(&name("a"), b"1", &new_version())?;
        t.set(&name("a/b"), b"2", &new_version())?;
        Ok(())
    });
    assert!(matches!(result, Err(VaultError::NotDirectory(_))));
    assert!(current(&vault, "a").is_none());
    assert_eq!(vault.counts().seq, 0);
}

#[test]
fn if_kid_guards_what_is_replaced() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let demand = |if_kid| NewVersion {
        if_kid,
        ..new_version()
    };
    let absent = try_set(&vault, "a", b"0", &demand(KidPrecondition::Current("a-1")));
    assert!(matches!(absent, Err(VaultError::Conflict { .. })));
    let made = try_set(&vault, "a", b"1", &demand(KidPrecondition::Absent)).unwrap();
    let again = try_set(&vault, "a", b"2", &demand(KidPrecondition::Absent));
    assert!(matches!(again, Err(VaultError::NotAbsent(_))));
    try_set(
        &vault,
        "a",
        b"2",
        &demand(KidPrecondition::Current(&made.kid)),
    )
    .unwrap();
    let stale = try_set(
        &vault,
        "a",
        b"3",
        &demand(KidPrecondition::Current(&made.kid)),
    );
    assert!(matches!(stale, Err(VaultError::Conflict { .. })));
    assert_eq!(current(&vault, "a").unwrap(), b"2");
}

#[test]
fn rotation_needs_a_generator() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "a", b"1");
    let refused = vault.write(|t| t.rotate(&name("a"), &new_version()));
    assert!(matches!(refused, Err(VaultError::NoGenerator(_))));
    let kind = SecretType::password(40).unwrap();
    vault
        .write(|t| t.generate(&name("p"), &kind, &new_version()))
        .unwrap();
    let before = current(&vault, "p").unwrap();
    vault
        .write(|t| t.rotate(&name("p"), &new_version()))
        .unwrap();
    let after = current(&vault, "p").unwrap();
    assert!(before.len() == 40 && after.len() == 40 && before != after);
}

#[test]
fn old_versions_are_pruned_unless_pinned() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let pin_two = NewVersion {
        pinned: &|_, version| version == 2,
        keep: 3,
        ..new_version()
    };
    let id = set(&vault, "a", b"1").id;
    for n in 2..=8u8 {
        try_set(&vault, "a", &[n], &pin_two).unwrap();
    }
    let node = vault.node(id).unwrap().unwrap();
    let kept: Vec<u32> = (1..=8)
        .filter(|&v| vault.value(&node, v).unwrap().is_some())
        .collect();
    assert_eq!(kept, [2, 6, 7, 8]);
}

#[test]
fn values_are_bounded() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "a", &vec![1; MAX_VALUE]);
    let over = try_set(&vault, "a", &vec![1; MAX_VALUE + 1], &new_version());
    assert!(matches!(over, Err(VaultError::TooLarge { .. })));
    assert_eq!(current(&vault, "a").unwrap().len(), MAX_VALUE);
}

#[test]
fn directories_count_what_lives_beneath() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(&vault, "x/y/a", b"1");
    set(&vault, "x/b", b"2");
    let live = |path: &str| match &vault.find(&name(path)).unwrap().unwrap().body {
        Body::Directory { live } => *live,
        Body::Secret(_) => panic!("{path} is a secret"),
    };
    assert_eq!((live("x"), live("x/y")), (2, 1));
    vault.write(|t| t.delete(&name("x/y/a"), 0, NOW)).unwrap();
    assert_eq!((live("x"), live("x/y")), (1, 0));
    let onto_directory = try_set(&vault, "x/y", b"", &new_version());
    assert!(matches!(onto_directory, Err(VaultError::IsDirectory(_))));
}

#[test]
fn children_come_in_order_and_resume() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    let ids: Vec<u64> = ["c", "a", "b"].map(|n| set(&vault, n, b"").id).into();
    let mut seen = Vec::new();
    vault
        .children(ROOT, ids[0], |node| {
            seen.push(node.id);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, ids[1..]);
}

#[test]
fn notes_stay_until_they_are_recorded() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    for n in 1..=3u8 {
        vault
            .write(|t| -> Result<(), VaultError> {
                t.set(&name("a"), b"1", &new_version())?;
                t.note(&[n])
            })
            .unwrap();
    }
    vault.confirm_recorded(1);
    set(&vault, "b", b"2");
    drop(vault);
    let notes = |recorded| -> Vec<(u64, Vec<u8>)> {
        let pending = home.open().pending_notes(recorded).unwrap();
        pending.into_iter().map(|p| (p.seq, p.note)).collect()
    };
    assert_eq!(notes(0), [(2, vec![2]), (3, vec![3])]);
    assert_eq!(notes(2), [(3, vec![3])]);
}

#[test]
fn neither_names_nor_values_are_on_disk() {
    let home = VaultHome::with_key(1);
    let vault = home.open();
    set(
        &vault,
        "conspicuous-directory/conspicuous-name",
        b"conspicuous-value",
    );
    vault
        .write(|t| -> Result<(), VaultError> { t.note(b"conspicuous-note") })
        .unwrap();
    drop(vault);
    let bytes = fs::read(home.path()).unwrap();
    for word in ["conspicuous-", "directory", "-name", "-value", "-note"] {
        let found = bytes.windows(word.len()).any(|w| w == word.as_bytes());
        assert!(!found, "{word} is readable");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(u8, Vec<u8>),
    Delete(u8),
    Restore(u8),
    Purge(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let n = 0..4u8;
    let step = prop_oneof![
        4 => (n.clone(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(n, v)| Step::Set(n, v)),
        2 => n.clone().prop_map(Step::Delete),
        2 => n.clone().prop_map(Step::Restore),
        1 => n.prop_map(Step::Purge),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..25)
}

/// A vault in plain maps: versions and values of live secrets, and of deleted ones.
#[derive(Default)]
struct Model {
    live: HashMap<u8, (u32, Vec<u8>)>,
    deleted: HashMap<u8, (u32, Vec<u8>)>,
}

impl Model {
    fn apply(&mut self, step: &Step) -> bool {
        match step {
            Step::Set(n, value) => {
                let before = self.live.remove(n).or_else(|| self.deleted.remove(n));
                let version = before.map_or(1, |(version, _)| version + 1);
                self.live.insert(*n, (version, value.clone()));
                true
            }
            Step::Delete(n) => {
                let gone = self.live.remove(n);
                self.deleted.extend(gone.clone().map(|secret| (*n, secret)));
                gone.is_some()
            }
            Step::Restore(n) => {
                if self.live.contains_key(n) {
                    return false;
                }
                let back = self.deleted.remove(n);
                self.live.extend(back.clone().map(|secret| (*n, secret)));
                back.is_some()
            }
            Step::Purge(n) => self.deleted.remove(n).is_some(),
            Step::Reopen => true,
        }
    }
}

fn run(vault: &Vault, step: &Step) -> bool {
    let path = |n: &u8| name(&format!("dir{}/s{n}", n % 2));
    let done = |r: Result<WriteOutcome, VaultError>| r.is_ok();
    match step {
        Step::Set(n, value) => done(vault.write(|t| t.set(&path(n), value, &new_version()))),
        Step::Delete(n) => done(vault.write(|t| t.delete(&path(n), 0, NOW))),
        Step::Restore(n) => done(vault.write(|t| t.restore(&path(n), 0))),
        Step::Purge(n) => vault.write(|t| t.purge(&path(n))).is_ok(),
        Step::Reopen => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn behaves_like_a_map(steps in steps()) {
        let home = VaultHome::with_key(1);
        let mut vault = Some(home.open());
        let mut model = Model::default();
        for step in &steps {
            if matches!(step, Step::Reopen) {
                drop(vault.take());
                vault = Some(home.open());
            }
            let open = vault.as_ref().unwrap();
            prop_assert_eq!(run(open, step), model.apply(step), "{:?}", step);
            for n in 0..4u8 {
                let path = format!("dir{}/s{n}", n % 2);
                let stored = current(open, &path).map(|value| {
                    let node = open.find(&name(&path)).unwrap().unwrap();
                    (node.live_secret().unwrap().newest().unwrap().number, value)
                });
                prop_assert_eq!(stored.as_ref(), model.live.get(&n), "{} after {:?}", n, step);
            }
            prop_assert_eq!(open.counts().secrets, model.live.len() as u64);
        }
    }
}

//! What is owed to the audit log stays owed until it is written.

use jarvis_audit::{Action, Outcome};

use super::*;
use crate::worker::testing::{WorkerFixture, name};

#[test]
fn a_note_that_is_not_understood_is_not_taken_for_recorded() {
    let fixture = WorkerFixture::new();
    let (committer, audit) = (&fixture.parts.committer, &fixture.parts.audit);
    let seq = fixture.vault.write(|txn| {
        txn.set(&name("a"), b"value", &committer.version_defaults(1))?;
        txn.note(b"")?;
        Ok::<_, VaultError>(txn.seq())
    });
    let seq = seq.unwrap();
    for _ in 0..2 {
        assert_eq!(committer.flush_outbox(), Err(FsError::Io));
        assert!(audit.recorded_seq() < seq, "it would be lost");
    }
    let change = committer.commit(|_| Ok(Vec::new()));
    assert!(matches!(change, Err(CommitError::AuditUnavailable(_))));
    assert_eq!(fixture.vault.pending_notes(0).unwrap().len(), 1);
}

#[test]
fn what_another_worker_committed_is_recorded_once_and_marked() {
    let fixture = WorkerFixture::new();
    let committer = &fixture.parts.committer;
    let written = fixture.vault.write(|txn| {
        let outcome = txn.set(&name("a"), b"value", &committer.version_defaults(1))?;
        let change = Change::new(ChangeKind::Create, &name("a"), outcome);
        txn.note(&serde_json::to_vec(&change).unwrap())?;
        Ok::<_, VaultError>(txn.seq())
    });
    committer.flush_outbox().unwrap();
    committer.flush_outbox().unwrap();
    let records = fixture.records();
    let created: Vec<_> = records
        .iter()
        .filter(|record| record.action == Action::Create)
        .collect();
    assert_eq!(created.len(), 1);
    assert!(created[0].recovered && created[0].result == Outcome::Ok);
    assert_eq!(fixture.parts.audit.recorded_seq(), written.unwrap());
}

#[test]
fn a_failure_of_the_vault_is_told_without_its_text() {
    let fixture = WorkerFixture::new();
    let damaged = || VaultError::Damaged {
        path: "/proc/self/fd/5/vault".into(),
        what: "a node".into(),
    };
    let failed = fixture.parts.committer.commit(|_| Err(damaged()));
    let failed = failed.unwrap_err();
    assert!(matches!(failed, CommitError::VaultFailed), "{failed:?}");
    assert_eq!(failed.to_string(), "the vault failed; see the daemon's log");
    let refused = fixture
        .parts
        .committer
        .commit(|_| Err(VaultError::NotFound("a".into())));
    assert!(matches!(refused, Err(CommitError::Refused(_))));
}

//! What an open is made of.

use std::fmt::Write;

use jarvis_policy::{Accounts, Caller, Namespace, Policy, Verb};
use jarvis_vault::{Credential, LockedVault, NewVersion, SecretBytes, SecretName, Vault};

use crate::rows::{Row, timed};
use crate::stage::Stage;
use crate::{Effort, VALUE};

pub(crate) fn measure(effort: Effort) -> Vec<Row> {
    let stage = Stage::new();
    vec![
        decrypt(&stage, effort),
        decisions(100, 3, effort),
        decisions(1000, 10, effort),
    ]
}

fn decrypt(stage: &Stage, effort: Effort) -> Row {
    let path = stage.path("vault.redb");
    let key = || Credential::KeyFile(SecretBytes::new(vec![1; 32]));
    jarvis_vault::create(&path, &key(), 0).unwrap();
    let locked = LockedVault::open(&path).unwrap();
    let probe = locked.unlock(&key()).unwrap();
    let vault: Vault = locked.start(probe).unwrap();
    let name = SecretName::parse("team/db/password").unwrap();
    let new = NewVersion::by(0, 0);
    vault.write(|txn| txn.set(&name, &VALUE, &new)).unwrap();
    let node = vault.find(&name).unwrap().unwrap();
    let value = || vault.value(&node, 1).unwrap().unwrap();
    let samples = timed(effort.of(20_000), value);
    Row::new("decrypt (load and open 1 KiB from the vault)", &samples)
}

struct Nobody;

impl Accounts for Nobody {
    fn uid(&self, _: &str) -> Option<u32> {
        None
    }

    fn gid(&self, _: &str) -> Option<u32> {
        None
    }
}

/// A policy of `clients`, each with its uid and `patterns`: one denies, all others allow.
fn policy(clients: usize, patterns: usize) -> Policy {
    let mut text = "clients:\n".to_owned();
    for n in 0..clients {
        write!(text, "  c{n}: {{match: {{uid: {n}}}, allow: ['app{n}/**'").unwrap();
        for pattern in 2..patterns {
            write!(text, ", 'x{pattern}/*/y'").unwrap();
        }
        writeln!(text, "], deny: ['app{n}/no']}}").unwrap();
    }
    Policy::parse(&text, &Nobody).unwrap()
}

fn decisions(clients: usize, patterns: usize, effort: Effort) -> Row {
    let policy = policy(clients, patterns);
    let last = u32::try_from(clients - 1).unwrap();
    let caller = Caller {
        uid: last,
        gid: last,
        groups: &[1, 2, 3],
        containerized: false,
        namespace: Namespace::Host,
    };
    let name = format!("app{last}/team/db/password");
    // A hundred at a time: one is shorter than the clock's step.
    let samples = timed(effort.of(2000), || {
        for _ in 0..100 {
            let decision = policy.decide(&caller, Verb::Read, &name);
            assert!(std::hint::black_box(decision.allowed()));
        }
    });
    let patterns = clients * patterns;
    let name = format!("100 policy decisions, {clients} clients, {patterns} patterns");
    Row::new(&name, &samples)
}

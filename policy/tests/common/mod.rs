//! Callers and accounts that tests share.
#![allow(dead_code)] // Each test binary takes its part.

use jarvis_policy::{Accounts, Caller, Namespace};

/// Nobody has a name here.
pub(crate) struct Nobody;

impl Accounts for Nobody {
    fn uid(&self, _: &str) -> Option<u32> {
        None
    }

    fn gid(&self, _: &str) -> Option<u32> {
        None
    }
}

/// A user of the host, in a group of their own.
pub(crate) fn user(uid: u32) -> Caller<'static> {
    Caller {
        uid,
        gid: uid,
        groups: &[],
        containerized: false,
        namespace: Namespace::Host,
    }
}

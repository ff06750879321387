//! User and group names, looked up when a policy is loaded.

use jarvis_policy::Accounts;
use nix::unistd::{Group, User};

/// The system's user database (NSS).
pub(crate) struct SystemAccounts;

impl Accounts for SystemAccounts {
    fn uid(&self, user: &str) -> Option<u32> {
        User::from_name(user).ok().flatten().map(|u| u.uid.as_raw())
    }

    fn gid(&self, group: &str) -> Option<u32> {
        Group::from_name(group)
            .ok()
            .flatten()
            .map(|g| g.gid.as_raw())
    }
}

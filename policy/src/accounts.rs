//! Names of users and groups.

/// Looks up names when a policy is compiled, so that this crate needs no
/// system calls.
pub trait Accounts {
    /// The id of `user`.
    fn uid(&self, user: &str) -> Option<u32>;
    /// The id of `group`.
    fn gid(&self, group: &str) -> Option<u32>;
}

//! Features of the kernel that are used where they are there, and what holds without them.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope,
};
use rustix::thread::gettid;

/// Feature that not every supported kernel has; docs/SEMANTICS.md has the same table.
struct Feature {
    /// First release of Linux with it.
    since: &'static str,
    /// Consequence of its absence.
    without: &'static str,
    is_there: fn() -> bool,
}

/// Features by age.
const FEATURES: [Feature; 3] = [
    Feature {
        since: "6.12",
        without: "the worker's sandbox is that of an older Landlock",
        is_there: has_landlock,
    },
    Feature {
        since: "6.13",
        without: "each open reads /proc/TID/status, and records have no exe",
        is_there: tells_threads,
    },
    Feature {
        since: "6.15",
        without: "readers wait, and PID 1 with them, while everything of ours is stopped",
        is_there: limits_requests,
    },
];

/// The running kernel's release, and what it lacks.
pub(crate) fn kernel() -> String {
    let names = rustix::system::uname();
    let mut told = names.release().to_string_lossy().into_owned();
    for feature in FEATURES.iter().filter(|feature| !(feature.is_there)()) {
        told.push_str("; before Linux ");
        told.push_str(feature.since);
        told.push_str(": ");
        told.push_str(feature.without);
    }
    told
}

/// Landlock as the worker asks for it, tried without restricting anything.
fn has_landlock() -> bool {
    let wanted = ABI::V6;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(wanted))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(wanted)))
        .and_then(|rules| rules.scope(Scope::from_all(wanted)));
    ruleset.is_ok_and(|rules| rules.create().is_ok())
}

fn tells_threads() -> bool {
    jarvis_sys::thread(gettid().as_raw_nonzero().get().unsigned_abs()).is_ok()
}

/// FUSE_REQUEST_TIMEOUT, whose setting came with it.
fn limits_requests() -> bool {
    Path::new("/proc/sys/fs/fuse/max_request_timeout").exists()
}

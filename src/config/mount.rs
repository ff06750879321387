//! `[mount]`: where and how the tree is shown.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::rule::SettingRule;

/// Most handles, or opens, of one uid that can be allowed: more than there is room for.
const MAX_OF_UID: u32 = 65_536;

/// `[mount]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MountConfig {
    /// The mount point.
    pub path: PathBuf,
    /// Serving threads, 2 to 64.
    #[serde(default = "MountConfig::threads")]
    pub threads: usize,
    /// Open handles one uid may hold, 1 to 65536.
    #[serde(default = "MountConfig::handles")]
    pub handles_per_uid: u32,
    /// Opens of one uid that may be served at once, 1 to 65536.
    #[serde(default = "MountConfig::pending")]
    pub pending_opens_per_uid: u32,
    /// Keep the mount when the worker dies ; otherwise mount anew.
    #[serde(default = "MountConfig::keep")]
    pub keep: bool,
}

impl MountConfig {
    fn threads() -> usize {
        std::thread::available_parallelism().map_or(4, |n| n.get().clamp(4, 64))
    }

    fn handles() -> u32 {
        1024
    }

    fn pending() -> u32 {
        64
    }

    fn keep() -> bool {
        true
    }

    /// Rules of this section.
    pub(super) fn rules(&self) -> Vec<SettingRule> {
        vec![
            SettingRule::within("mount.threads", self.threads, 2..=64),
            SettingRule::within(
                "mount.handles_per_uid",
                self.handles_per_uid,
                1..=MAX_OF_UID,
            ),
            SettingRule::within(
                "mount.pending_opens_per_uid",
                self.pending_opens_per_uid,
                1..=MAX_OF_UID,
            ),
        ]
    }
}

//! The directory that `init` makes, for the commands that need it.

use std::path::PathBuf;

use clap::Args;

/// Option that names the directory that `init` makes.
#[derive(Args)]
pub(super) struct HomeDirectory {
    /// Directory made by `init`
    #[arg(
        long,
        env = "JARVIS_DIR",
        value_name = "DIR",
        default_value = "/var/lib/jarvis"
    )]
    pub(super) dir: PathBuf,
}

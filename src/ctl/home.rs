//! The directory that `init` makes, for the commands that need it.

use std::path::PathBuf;

use clap::Args;

/// Where `init` makes its directory, unless told otherwise.
pub(super) const DEFAULT_HOME: &str = "/var/lib/jarvis";

/// Option that names the directory that `init` makes.
#[derive(Args)]
pub(super) struct HomeDirectory {
    /// Directory made by `init`; a running daemon tells its own
    #[arg(long, env = "JARVIS_DIR", value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
}

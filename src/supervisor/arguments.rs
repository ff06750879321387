//! The daemon's command line.

use std::path::PathBuf;

use clap::Parser;

use crate::ipc::worker::AcceptedLosses;

/// Shows secrets as files, each read checked and recorded.
#[derive(Parser)]
#[command(name = "jarvis-secretsd", version)]
pub(crate) struct Arguments {
    /// The configuration, as `jarvisctl init` writes it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Read the vault's passphrase from standard input (one line)
    #[arg(long)]
    pub(crate) passphrase_stdin: bool,
    /// Leave the mount to the holder at this socket when told to stop, and take it from there
    #[arg(long, value_name = "SOCKET")]
    pub(crate) holder: Option<PathBuf>,
    /// Take the mount away that a daemon left, unless one answers there, and end
    #[arg(long)]
    pub(crate) unmount: bool,
    /// Accept a vault that is older than its audit log (a restored copy); recorded
    #[arg(long)]
    pub(crate) accept_restored_vault: bool,
    /// Accept an audit log that lost records, or another one than the vault and the kept
    /// checkpoint know; recorded
    #[arg(long)]
    pub(crate) accept_lost_log: bool,
}

impl Arguments {
    /// Losses that the operator accepts.
    pub(super) fn accepted_losses(&self) -> AcceptedLosses {
        AcceptedLosses {
            restored_vault: self.accept_restored_vault,
            lost_log: self.accept_lost_log,
        }
    }
}

//! `jarvisctl`: one file a family of commands.

mod audit;
mod client;
mod exit;
mod init;
mod secrets;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::Failure;

/// Administers a jarvis-secretsd.
#[derive(Parser)]
#[command(name = "jarvisctl", version, after_help = exit::HELP)]
struct Arguments {
    /// The mount point of the daemon
    #[arg(
        long,
        global = true,
        env = "JARVIS_MOUNT",
        value_name = "DIR",
        default_value = "/run/jarvis/secrets"
    )]
    mount: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create vault, keys, configuration and a commented policy
    Init(init::Init),
    /// Store a value (from standard input) as the new version of a secret
    Set(secrets::Set),
    /// Print a secret's value
    Get(secrets::Get),
    /// List the secrets you may see
    List(secrets::List),
    /// Take a secret out of the tree; it can be restored for some days
    Delete(secrets::Named),
    /// Bring a deleted secret back
    Restore(secrets::Named),
    /// Destroy a deleted secret for good
    Purge(secrets::Named),
    /// Have the daemon generate a secret's next value
    Rotate(secrets::Named),
    /// Create a secret with a generated value
    Generate(secrets::Generate),
    /// Have the daemon load its policy anew
    Reload,
    /// Show how the daemon is
    Status,
    /// Work with the audit log
    #[command(subcommand)]
    Audit(audit::Audit),
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mount = &arguments.mount;
    match &arguments.command {
        Command::Init(init) => init.run(mount),
        Command::Set(set) => set.run(mount),
        Command::Get(get) => get.run(mount),
        Command::List(list) => list.run(mount),
        Command::Delete(named) => named.run(mount, "delete"),
        Command::Restore(named) => named.run(mount, "restore"),
        Command::Purge(named) => named.run(mount, "purge"),
        Command::Rotate(named) => named.run(mount, "rotate"),
        Command::Generate(generate) => generate.run(mount),
        Command::Reload => secrets::plain(mount, "reload"),
        Command::Status => secrets::plain(mount, "status"),
        Command::Audit(audit) => audit.run(),
    }
}

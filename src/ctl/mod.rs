//! `jarvisctl`: one file a family of commands.

mod audit;
mod client;
mod credential_args;
mod doctor;
mod exit;
mod files;
mod health;
mod history;
mod home;
mod init;
mod keys;
mod lifecycle;
mod listing;
mod output;
mod policy;
mod progress;
mod revoke;
mod rotate;
mod secrets;
mod table;
mod value;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use exit::Failure;
use output::Output;

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
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
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
    /// Have the daemon generate the next value of a secret, or of many
    Rotate(rotate::Rotate),
    /// List the versions of a secret: who made them, when, why, their states
    Versions(lifecycle::Versions),
    /// Compare two versions without showing them
    Diff(lifecycle::Diff),
    /// Take what is kept of a secret elsewhere, encrypted
    #[command(subcommand)]
    History(history::Command),
    /// Make the value of an older version current again
    Rollback(lifecycle::Rollback),
    /// End the grace of a superseded version
    Deprecate(lifecycle::Deprecate),
    /// Destroy the values of old versions
    Prune(lifecycle::Prune),
    /// Show or change a secret's own settings
    Configure(lifecycle::Configure),
    /// Declare who depends on a secret
    #[command(subcommand)]
    Consumer(lifecycle::Consumer),
    /// Before a rotation: who is affected, how much, and when it disturbs least
    Impact(audit::consumers::Impact),
    /// After a rotation: who has the new version, and who was last seen with an old one
    Adoption(audit::consumers::Adoption),
    /// Which consumers read which secrets
    Graph(audit::consumers::Graph),
    /// Take secrets out of service
    #[command(subcommand)]
    Revoke(revoke::Revoke),
    /// Create a secret with a generated value
    Generate(secrets::Generate),
    /// List the types of secrets and their options
    Types,
    /// Check, explain and reload the policy
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Manage the vault's key slots
    #[command(subcommand)]
    Key(keys::Key),
    /// Work with the audit log
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Show how the daemon is, by the control file
    Status,
    /// Show how the daemon is, by its HTTP port
    Health(health::Http),
    /// Print the metrics, from the HTTP port
    Metrics(health::Http),
    /// Wait until the daemon serves the mount
    Wait(health::Wait),
    /// Look for what keeps a daemon from working here, and say what to do
    Doctor(doctor::Doctor),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
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
    let out = Output::new(arguments.json);
    match &arguments.command {
        Command::Init(init) => init.run(mount, &out),
        Command::Set(set) => set.run(mount, &out),
        Command::Get(get) => get.run(mount, &out),
        Command::List(list) => list.run(mount, &out),
        Command::Delete(named) => named.run(mount, &out, "delete"),
        Command::Restore(named) => named.run(mount, &out, "restore"),
        Command::Purge(named) => named.run(mount, &out, "purge"),
        Command::Rotate(rotate) => rotate.run(mount, &out),
        Command::Versions(versions) => versions.run(mount, &out),
        Command::Diff(diff) => diff.run(mount, &out),
        Command::History(history) => history.run(mount, &out),
        Command::Rollback(rollback) => rollback.run(mount, &out),
        Command::Deprecate(deprecate) => deprecate.run(mount, &out),
        Command::Prune(prune) => prune.run(mount, &out),
        Command::Configure(configure) => configure.run(mount, &out),
        Command::Consumer(consumer) => consumer.run(mount, &out),
        Command::Impact(impact) => impact.run(mount, &out),
        Command::Adoption(adoption) => adoption.run(mount, &out),
        Command::Graph(graph) => graph.run(mount, &out),
        Command::Revoke(revoke) => revoke.run(mount, &out),
        Command::Generate(generate) => generate.run(mount, &out),
        Command::Types => secrets::types(&out),
        Command::Policy(policy) => policy.run(mount, &out),
        Command::Key(key) => key.run(mount, &out),
        Command::Audit(audit) => audit.run(mount, &out),
        Command::Status => health::status(mount, &out),
        Command::Health(http) => http.health(&out),
        Command::Metrics(http) => http.metrics(&out),
        Command::Wait(wait) => wait.run(mount, &out),
        Command::Doctor(doctor) => doctor.run(mount, &out),
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut command, "jarvisctl", &mut script);
            out.bytes(&script)
        }
    }
}

//! `jarvisctl`: one file a family of commands.
//!
//! Runs in: `jarvisctl`, a process of its user with no other rights than theirs.
//! Touches: values and credentials that go in or out (plaintext), the control file, the
//! mount, the HTTP port (network), the audit log's files; `init` makes vault and keys.
//! Imported by: `bin/jarvisctl.rs`.
//!
//! No command imports another one. Below them stand the daemon (`client`, `http`,
//! `mounted`), what they print (`output`, `table`) and how they end (`exit`), and what some
//! of them share.

mod audit;
mod client;
mod credential_args;
mod doctor;
mod exit;
mod files;
mod health;
mod history;
mod home;
mod http;
mod init;
mod keys;
mod lifecycle;
mod listing;
mod mounted;
mod output;
mod policy;
mod progress;
mod revoke;
mod rotate;
mod rows;
mod running;
mod secrets;
mod table;
mod terminal;
mod value;
mod vocabulary;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use exit::CommandError;
use output::Output;

/// Administers a jarvis-secretsd.
#[derive(Parser)]
#[command(name = "jarvisctl", version, after_help = exit::HELP)]
struct CommandLine {
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
    Init(init::InitCommand),
    /// Store a value (from standard input) as the new version of a secret
    Set(secrets::SetCommand),
    /// Print a secret's value
    Get(secrets::GetCommand),
    /// List the secrets you may see
    List(secrets::ListCommand),
    /// Take a secret out of the tree; it can be restored for some days
    Delete(secrets::NamedSecret),
    /// Bring a deleted secret back
    Restore(secrets::NamedSecret),
    /// Destroy a deleted secret for good, or remove an empty directory
    Purge(secrets::NamedSecret),
    /// Have the daemon generate the next value of a secret, or of many
    Rotate(rotate::RotateCommand),
    /// List the versions of a secret: who made them, when, why, their states
    Versions(lifecycle::VersionsCommand),
    /// Compare two versions without showing them
    Diff(lifecycle::DiffCommand),
    /// Take what is kept of a secret elsewhere, encrypted
    #[command(subcommand)]
    History(history::HistoryCommand),
    /// Make the value of an older version current again
    Rollback(lifecycle::RollbackCommand),
    /// End the grace of a superseded version
    Deprecate(lifecycle::DeprecateCommand),
    /// Destroy the values of old versions
    Prune(lifecycle::PruneCommand),
    /// Show or change a secret's own settings
    Configure(lifecycle::ConfigureCommand),
    /// Declare who depends on a secret
    #[command(subcommand)]
    Consumer(lifecycle::ConsumerCommand),
    /// Before a rotation: who is affected, how much, and when it disturbs least
    Impact(audit::consumers::ImpactCommand),
    /// After a rotation: who has the new version, and who was last seen with an old one
    Adoption(audit::consumers::AdoptionCommand),
    /// Which consumers read which secrets
    Graph(audit::consumers::GraphCommand),
    /// Take secrets out of service
    #[command(subcommand)]
    Revoke(revoke::RevokeCommand),
    /// Create a secret with a generated value
    Generate(secrets::GenerateCommand),
    /// List the types of secrets and their options
    Types,
    /// Check, explain and reload the policy
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Manage the vault's key slots
    #[command(subcommand)]
    Key(keys::KeyCommand),
    /// Work with the audit log
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Show how the daemon is, by the control file
    Status,
    /// Show how the daemon is, by its HTTP port
    Health(health::HttpEndpoint),
    /// Print the metrics, from the HTTP port
    Metrics(health::HttpEndpoint),
    /// Wait until the daemon serves the mount
    Wait(health::WaitCommand),
    /// Look for what keeps a daemon from working here, and say what to do
    Doctor(doctor::DoctorCommand),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = CommandLine::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

fn run(arguments: &CommandLine) -> Result<(), CommandError> {
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
        Command::Health(http) => http.health(mount, &out),
        Command::Metrics(http) => http.metrics(mount, &out),
        Command::Wait(wait) => wait.run(mount, &out),
        Command::Doctor(doctor) => doctor.run(mount, &out),
        Command::Completions { shell } => {
            let mut command = CommandLine::command();
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut command, "jarvisctl", &mut script);
            out.bytes(&script)
        }
    }
}

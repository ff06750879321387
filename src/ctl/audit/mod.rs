//! Commands about the audit log: most read its files, and need no daemon.
//!
//! Runs in: `jarvisctl`.
//! Touches: the log's files and the host's public identity; names of secrets, no value.
//! Imported by: `ctl/mod.rs`.

pub(super) mod consumers;
mod csv;
mod filter;
mod log;
mod period;
mod query;
mod records;
mod suspicious;
mod verify;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jarvis_audit::{Action, Follower, ReceiptError, receipt, verify_receipt};
use rustix::fs::inotify;
use serde_json::{Value, json};

use super::client::request;
use super::exit::{CommandError, ErrorCode};
use super::files;
use super::output::Output;
use super::table::text;
use filter::RecordFilter;
use log::LogLocation;
use query::{LastReadCommand, QueryCommand, SummaryCommand, UnusedCommand};
use records::{line, print_last, record_rows, table};
use suspicious::SuspiciousCommand;
use verify::VerifyCommand;

/// Longest receipt in bytes: a year of a worker's epochs.
const MAX_RECEIPT: u64 = 64 * 1024 * 1024;

#[derive(Subcommand)]
pub(super) enum AuditCommand {
    /// Check every record: form, sequence, chain, certificates, signatures
    Verify(VerifyCommand),
    /// Print a signed note of how far the log has come, to be kept elsewhere
    Checkpoint,
    /// End the log's segment and begin the next one
    Rotate,
    /// Print the lines that prove one record, or verify such lines
    Receipt(ReceiptCommand),
    /// Print the last records; they are not verified
    Tail(TailCommand),
    /// Print records as they are written, verified, until interrupted
    Follow(FollowCommand),
    /// Print the records that meet all conditions; they are not verified
    Query(QueryCommand),
    /// Count records by secret, actor, action or result
    Summary(SummaryCommand),
    /// Print who read each secret last, and when
    LastRead(LastReadCommand),
    /// Print the secrets that nobody has read for a while
    Unused(UnusedCommand),
    /// Look for suspicious activity; the records are not verified
    Suspicious(SuspiciousCommand),
}

#[derive(Args)]
pub(super) struct TailCommand {
    #[command(flatten)]
    location: LogLocation,
    /// How many
    #[arg(short = 'n', long, default_value_t = 10)]
    lines: usize,
}

#[derive(Args)]
pub(super) struct FollowCommand {
    #[command(flatten)]
    location: LogLocation,
    /// Public key of the host (default: where the log's host has its own)
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct ReceiptCommand {
    #[command(flatten)]
    location: LogLocation,
    /// Sequence number of the record
    #[arg(required_unless_present = "check")]
    seq: Option<u64>,
    /// Verify the receipt in this file instead of printing one
    #[arg(long, value_name = "FILE", conflicts_with = "seq")]
    check: Option<PathBuf>,
    /// Public key of the host, for --check (default: where the log's host has its own)
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

impl AuditCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        match self {
            Self::Verify(verify) => verify.run(mount, out),
            Self::Checkpoint => checkpoint(mount, out),
            Self::Rotate => rotate(mount, out),
            Self::Receipt(receipt) => receipt.run(mount, out),
            Self::Tail(tail) => tail.run(mount, out),
            Self::Follow(follow) => follow.run(mount, out),
            Self::Query(query) => query.run(mount, out),
            Self::Summary(summary) => summary.run(mount, out),
            Self::LastRead(last) => last.run(mount, out),
            Self::Unused(unused) => unused.run(mount, out),
            Self::Suspicious(suspicious) => suspicious.run(mount, out),
        }
    }
}

impl ReceiptCommand {
    fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        if let Some(seq) = self.seq {
            let proof = receipt(self.location.resolve(mount)?.directory(), seq).map_err(
                |error| match error {
                    ReceiptError::NoSuchRecord(_) => CommandError::new(ErrorCode::NotFound, error),
                    other => CommandError::other(other),
                },
            )?;
            let lines: Vec<_> = proof
                .split(|&b| b == b'\n')
                .map(String::from_utf8_lossy)
                .collect();
            let lines: Vec<_> = lines.iter().filter(|line| !line.is_empty()).collect();
            // Whoever keeps it needs every byte; who looks at it needs none of a terminal's orders.
            if !out.json() && !std::io::stdout().is_terminal() {
                return out.bytes(&proof);
            }
            return out.show(&json!(lines), || {
                String::from_utf8_lossy(&proof).into_owned()
            });
        }
        let path = self.check.as_deref().unwrap_or(Path::new(""));
        let identity = self
            .location
            .resolve(mount)?
            .identity(self.identity.as_deref())?;
        let text = files::read_text(path, MAX_RECEIPT)?;
        let record = verify_receipt(text.as_bytes(), &identity)
            .map_err(|error| CommandError::new(ErrorCode::Integrity, error))?;
        let json = serde_json::to_value(&record).map_err(CommandError::other)?;
        out.show(&json, || table(&record))
    }
}

impl TailCommand {
    fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let all = RecordFilter::default();
        print_last(
            &self.location.resolve(mount)?,
            &all,
            Some(self.lines),
            record_rows(out),
        )
    }
}

impl FollowCommand {
    /// Waits for the kernel's word that something was written.
    fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let log = self.location.resolve(mount)?;
        let identity = log.identity(self.identity.as_deref())?;
        let log = log.directory();
        let failed = |error: rustix::io::Errno| CommandError::io("watch", log, &error.into());
        let bad = |error| CommandError::new(ErrorCode::Integrity, error);
        // Before the first look, so that nothing falls in between.
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).map_err(failed)?;
        let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        inotify::add_watch(&watch, log, events).map_err(failed)?;
        let mut follower = Follower::new(log, &identity).map_err(bad)?;
        let mut seen = [0; 4096];
        loop {
            while let Some(record) = follower.next_record().map_err(bad)? {
                let told = record.action != Action::Signature;
                if told && out.line(&record, || line(&record))?.is_break() {
                    return Ok(());
                }
            }
            rustix::io::read(&watch, &mut seen).map_err(failed)?;
        }
    }
}

fn checkpoint(mount: &Path, out: &Output) -> Result<(), CommandError> {
    let answer = request(mount, &json!({"op": "checkpoint"}))?;
    out.show(&answer, || text(&answer, "note").to_owned())
}

fn rotate(mount: &Path, out: &Output) -> Result<(), CommandError> {
    let answer = request(mount, &json!({"op": "audit_rotate"}))?;
    let segment = answer.get("segment").and_then(Value::as_u64);
    out.show(&answer, || {
        format!("segment {} is written now\n", segment.unwrap_or_default())
    })
}

//! `audit verify`: what a log proves.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use jarvis_audit::{
    Checkpoint, LogEnd, MAX_CHECKPOINT_BYTES, PublicIdentity, VerifyOptions, VerifyReport,
    verify_with,
};
use serde_json::{Value, json};

use super::log::LogLocation;
use crate::ctl::exit::{CommandError, ErrorCode};
use crate::ctl::files;
use crate::ctl::output::Output;
use crate::ctl::progress::ProgressMeter;

#[derive(Args)]
pub(in crate::ctl) struct VerifyCommand {
    #[command(flatten)]
    location: LogLocation,
    /// Public key of the host, best a copy kept elsewhere (default: where the log's host has its own)
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// A checkpoint that was kept elsewhere: the log must have what it says
    #[arg(long, value_name = "NOTE")]
    against: Option<PathBuf>,
    /// Leave no doubt: check each signature by itself, not many in one equation, and
    /// fail (6) also when no checkpoint vouches for the end, when the last segment was
    /// closed and none follows, when a start came after an unclean end or a loss of
    /// records, or when no signature vouches for some
    #[arg(long)]
    strict: bool,
}

impl VerifyCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let log = self.location.resolve(mount)?;
        let identity = log.identity(self.identity.as_deref())?;
        let note = self.against.as_deref().map(read_checkpoint).transpose()?;
        let meter = ProgressMeter::new(out);
        let options = VerifyOptions {
            against: note.as_ref(),
            strict: self.strict,
            progress: Some(&mut |progress| meter.show(progress)),
        };
        let begun = Instant::now();
        let report = verify_with(log.directory(), &identity, options);
        let took = begun.elapsed();
        meter.clear();
        let report = report.map_err(|error| CommandError::new(ErrorCode::Integrity, error))?;
        out.show(&report_json(&report, &identity), || {
            report_text(&report, &identity) + &speed(&report, took)
        })?;
        if self.strict
            && let Some(doubts) = doubts(&report)
        {
            return Err(CommandError::new(ErrorCode::Integrity, doubts));
        }
        Ok(())
    }
}

/// Doubts that every record being good leaves open.
fn doubts(report: &VerifyReport) -> Option<String> {
    let mut doubts = Vec::new();
    if !report.anchored {
        doubts.push("no checkpoint vouches for its end".to_owned());
    }
    if report.end == LogEnd::Closed {
        doubts.push("the segment after the last one is missing".to_owned());
    }
    // What was cut off before such a start a later checkpoint does not show.
    if report.unclean_starts > 0 {
        let starts = report.unclean_starts;
        doubts.push(format!("{starts} start(s) came after an unclean end"));
    }
    for loss in &report.lost {
        let start = loss.start;
        doubts.push(format!("start {start} came after a loss of records"));
    }
    if !report.unsigned.is_empty() {
        let records = unsigned_records(report);
        doubts.push(format!("no signature vouches for record(s) {records}"));
    }
    if report.not_signed_yet > 0 {
        let records = report.not_signed_yet;
        doubts.push(format!("{records} record(s) at its end are not signed"));
    }
    let all = doubts.join("; ");
    (!all.is_empty()).then(|| format!("every record is good, but not beyond doubt: {all}"))
}

fn speed(report: &VerifyReport, took: Duration) -> String {
    let nanos = took.as_nanos().max(1);
    let a_second = u128::from(report.records) * 1_000_000_000 / nanos;
    format!("speed     {a_second} records/s\n")
}

/// Records that nobody vouches for, as ranges of their numbers.
fn unsigned_records(report: &VerifyReport) -> String {
    let ranges = report.unsigned.iter().map(|records| match records.count {
        0 | 1 => records.first.to_string(),
        count => format!(
            "{} to {}",
            records.first,
            records.first.saturating_add(count - 1)
        ),
    });
    ranges.collect::<Vec<_>>().join(", ")
}

fn read_checkpoint(path: &Path) -> Result<Checkpoint, CommandError> {
    let text = files::read_text(path, MAX_CHECKPOINT_BYTES as u64)?;
    Checkpoint::parse(&text).map_err(|error| {
        CommandError::new(ErrorCode::Usage, format!("{}: {error}", path.display()))
    })
}

fn report_json(report: &VerifyReport, identity: &PublicIdentity) -> Value {
    let counts = report.counts.iter();
    let counts = counts.map(|((a, r), n)| json!({"action": a, "result": r, "count": n}));
    json!({
        "host": identity.host().to_string(),
        "identity": identity.fingerprint(),
        "records": report.records,
        "segments": report.segments,
        "first_seq": report.first_seq,
        "first_time": report.first_time,
        "last_time": report.last_time,
        "times_back": report.times_back,
        "first_time_back": report.first_back,
        "starts": report.starts,
        "unclean_starts": report.unclean_starts,
        "unsigned": report.unsigned.iter().map(|records| {
            json!({"first_seq": records.first, "count": records.count})
        }).collect::<Value>(),
        "not_signed_yet": report.not_signed_yet,
        "lost": report.lost.iter().map(|loss| {
            let records = loss.records;
            json!({"start_seq": loss.start, "known": records.known, "found": records.found})
        }).collect::<Value>(),
        "head": report.head,
        "stopped": report.end == LogEnd::Stopped,
        "segment_missing": report.end == LogEnd::Closed,
        "tail_anchored": report.anchored,
        "counts": counts.collect::<Value>(),
    })
}

fn report_text(report: &VerifyReport, identity: &PublicIdentity) -> String {
    let mut text = format!(
        "host      {} (identity {})\n\
         records   {} in {} segment(s), {} to {}\n\
         starts    {}, {} of them after an unclean end\n\
         head      {}\n",
        identity.host(),
        identity.fingerprint(),
        report.records,
        report.segments,
        report.first_time,
        report.last_time,
        report.starts,
        report.unclean_starts,
        report.head,
    );
    if report.first_seq > 1 {
        text.push_str(&format!(
            "pruned    all before record {}, as a signed record says\n",
            report.first_seq
        ));
    }
    if let Some(first) = report.first_back {
        text.push_str(&format!(
            "clock     went back {} time(s), first before record {first}\n",
            report.times_back
        ));
    }
    for loss in &report.lost {
        text.push_str(&format!(
            "lost      before start {}: record {} was known, the log ended with {}; accepted by the\n\
             \x20         operator\n",
            loss.start, loss.records.known, loss.records.found
        ));
    }
    if !report.unsigned.is_empty() {
        text.push_str(&format!(
            "unsigned  record(s) {}: daemon and worker died together before a signature followed;\n\
             \x20         somebody else may have changed them\n",
            unsigned_records(report)
        ));
    }
    if report.not_signed_yet > 0 {
        text.push_str(&format!(
            "end       {} record(s) not signed yet: the signature follows within 10 ms, or with the\n\
             \x20         next start\n",
            report.not_signed_yet
        ));
    }
    for ((action, result), count) in &report.counts {
        text.push_str(&format!("  {action} {result}: {count}\n"));
    }
    text.push_str(match report.end {
        LogEnd::Stopped => "end       the daemon stopped in order\n",
        LogEnd::Open => "end       no stop record: the daemon runs, or it died\n",
        LogEnd::Closed => {
            "end       the last segment is closed and no other is there: it was removed, unless\n\
             \x20         the daemon died in that moment\n"
        }
    });
    text.push_str(
        "checked   form, sequence, chain and host of every record, every certificate and every\n\
         \x20         signature: all good\n",
    );
    text.push_str(if report.anchored {
        "anchored  the log has what the checkpoint says; records after it may have been cut off\n"
    } else {
        "not shown by the log alone: whether records after the head were cut off; compare the\n\
         log with a checkpoint that was kept elsewhere (--against NOTE)\n"
    });
    text
}

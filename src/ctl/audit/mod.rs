//! Commands about the audit log. They read its files; no daemon is needed.

pub(super) mod consumers;
pub(super) mod query;
pub(super) mod suspicious;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jarvis_audit::{
    Checkpoint, Follower, LogEnd, MAX_CHECKPOINT_BYTES, PublicIdentity, ReceiptError, Record,
    VerifyFailure, VerifyOptions, VerifyReport, read_records, receipt, verify_receipt, verify_with,
};
use rustix::fs::inotify;
use serde_json::{Value, json};

use super::client::request;
use super::exit::{Code, Failure};
use super::files;
use super::home::Home;
use super::output::Output;
use super::progress::Bar;
use super::table::columns;
use query::{LastRead, Query, Summary, Unused};
use suspicious::Suspicious;

/// Longest receipt in bytes: a year of a worker's epochs.
const MAX_RECEIPT: u64 = 64 * 1024 * 1024;

#[derive(Subcommand)]
pub(super) enum Audit {
    /// Check every record: form, sequence, chain, certificates, signatures
    Verify(Verify),
    /// Print a signed note of how far the log has come, to be kept elsewhere
    Checkpoint,
    /// End the log's segment and begin the next one
    Rotate,
    /// Print the lines that prove one record, or verify such lines
    Receipt(Receipt),
    /// Print the last records; they are not verified
    Tail(Tail),
    /// Print records as they are written, verified, until interrupted
    Follow(Follow),
    /// Print the records that meet all conditions; they are not verified
    Query(Query),
    /// Count records by secret, actor, action or result
    Summary(Summary),
    /// Print who read each secret last, and when
    LastRead(LastRead),
    /// Print the secrets that nobody has read for a while
    Unused(Unused),
    /// Look for suspicious activity; the records are not verified
    Suspicious(Suspicious),
}

#[derive(Args)]
pub(super) struct Place {
    #[command(flatten)]
    home: Home,
    /// Directory of the log (default: DIR/audit)
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
}

impl Place {
    pub(super) fn log(&self) -> PathBuf {
        self.log
            .clone()
            .unwrap_or_else(|| self.home.dir.join("audit"))
    }
}

#[derive(Args)]
pub(super) struct Tail {
    #[command(flatten)]
    place: Place,
    /// How many
    #[arg(short = 'n', long, default_value_t = 10)]
    lines: usize,
}

#[derive(Args)]
pub(super) struct Follow {
    #[command(flatten)]
    place: Place,
    /// Public key of the host (default: DIR/identity.pub)
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct Verify {
    #[command(flatten)]
    place: Place,
    /// Public key of the host, best a copy kept elsewhere (default: DIR/identity.pub)
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// A checkpoint that was kept elsewhere: the log must have what it says
    #[arg(long, value_name = "NOTE")]
    against: Option<PathBuf>,
    /// Leave no doubt: check each signature by itself, not many in one equation, and
    /// fail (6) also when no checkpoint vouches for the end, when the last segment was
    /// closed and none follows, or when a start came after an unclean end
    #[arg(long)]
    strict: bool,
}

#[derive(Args)]
pub(super) struct Receipt {
    #[command(flatten)]
    place: Place,
    /// Sequence number of the record
    #[arg(required_unless_present = "check")]
    seq: Option<u64>,
    /// Verify the receipt in this file instead of printing one
    #[arg(long, value_name = "FILE", conflicts_with = "seq")]
    check: Option<PathBuf>,
    /// Public key of the host, for --check (default: DIR/identity.pub)
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

impl Audit {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), Failure> {
        match self {
            Self::Verify(verify) => verify.run(out),
            Self::Checkpoint => checkpoint(mount, out),
            Self::Rotate => rotate(mount, out),
            Self::Receipt(receipt) => receipt.run(out),
            Self::Tail(tail) => tail.run(out),
            Self::Follow(follow) => follow.run(out),
            Self::Query(query) => query.run(out),
            Self::Summary(summary) => summary.run(out),
            Self::LastRead(last) => last.run(out),
            Self::Unused(unused) => unused.run(mount, out),
            Self::Suspicious(suspicious) => suspicious.run(out),
        }
    }
}

impl Receipt {
    fn run(&self, out: &Output) -> Result<(), Failure> {
        if let Some(seq) = self.seq {
            let proof = receipt(&self.place.log(), seq).map_err(|error| match error {
                ReceiptError::NoSuchRecord(_) => Failure::new(Code::NotFound, error.to_string()),
                other => Failure::other(other),
            })?;
            let lines: Vec<_> = proof
                .split(|&b| b == b'\n')
                .map(String::from_utf8_lossy)
                .collect();
            let lines: Vec<_> = lines.iter().filter(|line| !line.is_empty()).collect();
            return out.show(&json!(lines), || {
                String::from_utf8_lossy(&proof).into_owned()
            });
        }
        let path = self.check.as_deref().unwrap_or(Path::new(""));
        let identity = open_identity(&self.place, self.identity.as_deref())?;
        let text = files::read_text(path, MAX_RECEIPT)?;
        let record = verify_receipt(text.as_bytes(), &identity)
            .map_err(|error| Failure::new(Code::Integrity, error.to_string()))?;
        let json = serde_json::to_value(&record).map_err(Failure::other)?;
        out.show(&json, || table([&record]))
    }
}

/// The host's public identity, from `file` or from where `init` put it.
fn open_identity(place: &Place, file: Option<&Path>) -> Result<PublicIdentity, Failure> {
    let default = place.home.dir.join("identity.pub");
    PublicIdentity::open(file.unwrap_or(&default)).map_err(Failure::other)
}

impl Tail {
    fn run(&self, out: &Output) -> Result<(), Failure> {
        let log = self.place.log();
        let mut last = VecDeque::new();
        for record in read_records(&log).map_err(|e| Failure::io("open", &log, &e))? {
            last.push_back(record.map_err(|e| Failure::io("read", &log, &e))?);
            if last.len() > self.lines {
                last.pop_front();
            }
        }
        let json = serde_json::to_value(&last).map_err(Failure::other)?;
        out.show(&json, || table(&last))
    }
}

/// The container, shortened as engines do, else the unit.
fn place(record: &Record) -> String {
    match (&record.container, &record.unit) {
        (Some(container), _) => container.chars().take(12).collect(),
        (None, Some(unit)) => unit.clone(),
        (None, None) => String::new(),
    }
}

impl Follow {
    /// Waits for the kernel's word that something was written.
    fn run(&self, out: &Output) -> Result<(), Failure> {
        let log = self.place.log();
        let identity = open_identity(&self.place, self.identity.as_deref())?;
        let failed = |error: rustix::io::Errno| Failure::io("watch", &log, &error.into());
        let bad = |failure: VerifyFailure| Failure::new(Code::Integrity, failure.to_string());
        // Before the first look, so that nothing falls in between.
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).map_err(failed)?;
        let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        inotify::add_watch(&watch, &log, events).map_err(failed)?;
        let mut follower = Follower::new(&log, &identity).map_err(bad)?;
        let mut seen = [0; 4096];
        loop {
            while let Some(record) = follower.next_record().map_err(bad)? {
                out.line(&record, || line(&record))?;
            }
            rustix::io::read(&watch, &mut seen).map_err(failed)?;
        }
    }
}

/// A record for people who watch.
fn line(record: &Record) -> String {
    let words = [
        Some(record.time.clone()),
        Some(format!("{} {}", record.action, record.result)),
        record.name.clone(),
        record.version.map(|version| format!("version {version}")),
        record.uid.map(|uid| format!("uid {uid}")),
        record.pid.map(|pid| format!("pid {pid}")),
        Some(place(record)).filter(|place| !place.is_empty()),
        record.reason.clone(),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join("  ")
}

pub(super) fn table<'r>(records: impl IntoIterator<Item = &'r Record>) -> String {
    let number = |n: Option<u32>| n.map(|n| n.to_string()).unwrap_or_default();
    let header = [
        "seq", "time", "action", "result", "name", "version", "uid", "pid", "where", "client",
        "rule", "reason",
    ];
    let row = |r: &Record| {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        [
            r.seq.to_string(),
            r.time.clone(),
            r.action.to_string(),
            r.result.to_string(),
            text(&r.name),
            number(r.version),
            number(r.uid),
            number(r.pid),
            place(r),
            text(&r.client),
            text(&r.rule),
            text(&r.reason),
        ]
    };
    columns(header, records.into_iter().map(row))
}

impl Verify {
    fn run(&self, out: &Output) -> Result<(), Failure> {
        let identity = open_identity(&self.place, self.identity.as_deref())?;
        let note = self.against.as_deref().map(read_checkpoint).transpose()?;
        let bar = Bar::new(out);
        let options = VerifyOptions {
            against: note.as_ref(),
            strict: self.strict,
            progress: Some(&mut |progress| bar.show(progress)),
        };
        let report = verify_with(&self.place.log(), &identity, options);
        bar.clear();
        let report =
            report.map_err(|failure| Failure::new(Code::Integrity, failure.to_string()))?;
        out.show(&as_json(&report, &identity), || {
            describe(&report, &identity)
        })?;
        match self.strict.then(|| doubts(&report)).flatten() {
            Some(doubts) => Err(Failure::new(Code::Integrity, doubts)),
            None => Ok(()),
        }
    }
}

/// What every record being good leaves open.
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
    let all = doubts.join("; ");
    (!all.is_empty()).then(|| format!("every record is good, but not beyond doubt: {all}"))
}

fn read_checkpoint(path: &Path) -> Result<Checkpoint, Failure> {
    let text = files::read_text(path, MAX_CHECKPOINT_BYTES as u64)?;
    Checkpoint::parse(&text)
        .map_err(|error| Failure::new(Code::Usage, format!("{}: {error}", path.display())))
}

fn checkpoint(mount: &Path, out: &Output) -> Result<(), Failure> {
    let answer = request(mount, &json!({"op": "checkpoint"}))?;
    let note = answer.get("note").and_then(Value::as_str);
    out.show(&answer, || note.unwrap_or_default().to_owned())
}

fn rotate(mount: &Path, out: &Output) -> Result<(), Failure> {
    let answer = request(mount, &json!({"op": "audit_rotate"}))?;
    let segment = answer.get("segment").and_then(Value::as_u64);
    out.show(&answer, || {
        format!("segment {} is written now\n", segment.unwrap_or_default())
    })
}

fn as_json(report: &VerifyReport, identity: &PublicIdentity) -> Value {
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
        "starts": report.starts,
        "unclean_starts": report.unclean_starts,
        "head": report.head,
        "stopped": report.end == LogEnd::Stopped,
        "segment_missing": report.end == LogEnd::Closed,
        "tail_anchored": report.anchored,
        "counts": counts.collect::<Value>(),
    })
}

fn describe(report: &VerifyReport, identity: &PublicIdentity) -> String {
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
        "checked   form, sequence, chain, host, certificates and signatures of every record: all good\n",
    );
    text.push_str(match report.anchored {
        true => "anchored  the log has what the checkpoint says; records after it may have been cut off\n",
        false => {
            "not shown by the log alone: whether records after the head were cut off; compare the\n\
             log with a checkpoint that was kept elsewhere (--against NOTE)\n"
        }
    });
    text
}

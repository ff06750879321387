//! Lines through all cores, in batches.
//!
//! A batch goes twice through the workers: its lines are parsed and hashed; then,
//! when those before it have been there too, the chain is followed through it, which
//! tells whose signatures its records should bear; and these are checked.
//!
//! What is found out of order does not change what is reported: of all failures the
//! one of the first record, and of one record's that of its signature, before which
//! nothing that it says counts.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use parking_lot::Mutex;

use super::signatures::{SignatureClaim, check_all, check_each};
use super::{FailureKind, Verifier, VerifyFailure, nowhere, unreadable};
use crate::line::{MAX_LINE_BYTES, RecordDigest, SignedLine};
use crate::read::{LogLine, Record, parse};

/// How much is under way at once.
#[derive(Clone, Copy)]
pub(super) struct PipelineLimits {
    /// Threads that parse, hash and check signatures.
    pub(super) workers: usize,
    /// Batches that are read and not checked, for each worker.
    pub(super) ahead: usize,
    /// Lines in a batch.
    pub(super) lines: usize,
    /// Bytes after which a batch ends, also with fewer lines.
    pub(super) bytes: usize,
    /// Signatures are checked each by itself.
    pub(super) strict: bool,
}

impl Default for PipelineLimits {
    fn default() -> Self {
        Self {
            workers: thread::available_parallelism().map_or(1, usize::from),
            ahead: 4,
            lines: 256,
            bytes: 256 * 1024,
            strict: false,
        }
    }
}

impl PipelineLimits {
    /// Batches under way.
    fn batches(self) -> usize {
        (self.workers * self.ahead).max(1)
    }

    /// Most bytes of lines that are in memory at any time, however long the log is.
    /// What is parsed out of them is no longer than they are.
    #[cfg(test)]
    pub(super) fn memory(self) -> usize {
        self.batches() * (self.bytes + MAX_LINE_BYTES)
    }
}

/// A line and what it says.
pub(super) struct ParsedLine {
    pub(super) line: LogLine,
    pub(super) content: Result<LineContent, FailureKind>,
}

/// What a line says, of which nothing is verified yet.
pub(super) struct LineContent {
    pub(super) record: Record,
    pub(super) digest: RecordDigest,
    pub(super) signature: [u8; 64],
}

impl ParsedLine {
    pub(super) fn new(line: LogLine) -> Self {
        let content = LineContent::of(&line);
        Self { line, content }
    }
}

impl LineContent {
    fn of(line: &LogLine) -> Result<Self, FailureKind> {
        if !line.complete {
            let long = line.bytes.len() >= MAX_LINE_BYTES;
            return Err(match long {
                true => FailureKind::TooLong,
                false => FailureKind::Torn,
            });
        }
        let signed = SignedLine::split(&line.bytes).ok_or(FailureKind::NotARecord)?;
        Ok(Self {
            record: parse(&signed).map_err(|_| FailureKind::NotARecord)?,
            digest: signed.digest(),
            signature: signed.signature,
        })
    }
}

/// What a worker does with batch `number`.
struct Job {
    number: u64,
    task: Task,
}

enum Task {
    Parse(Vec<LogLine>),
    Check(Vec<SignatureClaim>),
}

enum Done {
    ParsedLine(u64, Vec<ParsedLine>),
    Checked(u64, Result<(), VerifyFailure>),
    /// The worker panicked.
    Lost,
}

impl Job {
    fn run(self, strict: bool) -> Done {
        match self.task {
            Task::Parse(lines) => Done::ParsedLine(
                self.number,
                lines.into_iter().map(ParsedLine::new).collect(),
            ),
            Task::Check(claims) if strict => Done::Checked(self.number, check_each(&claims)),
            Task::Check(claims) => Done::Checked(self.number, check_all(&claims)),
        }
    }
}

/// Tells of a worker that panicked: nobody waits for it forever.
struct PanicNotice<'a>(&'a Sender<Done>);

impl Drop for PanicNotice<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.send(Done::Lost).ok();
        }
    }
}

fn work(jobs: &Mutex<Receiver<Job>>, done: &Sender<Done>, strict: bool) {
    let _alarm = PanicNotice(done);
    loop {
        let job = jobs.lock().recv();
        let Ok(job) = job else { return };
        if done.send(job.run(strict)).is_err() {
            return;
        }
    }
}

/// Leads `lines` through `verifier` and their signatures through the workers; calls
/// `progress` with the bytes that are done.
///
/// # Errors
/// The failure of the first bad record.
pub(super) fn run(
    lines: impl Iterator<Item = io::Result<LogLine>>,
    verifier: &mut Verifier<'_>,
    limits: PipelineLimits,
    progress: &mut dyn FnMut(u64),
) -> Result<(), VerifyFailure> {
    // How much is in them is bounded by the batches under way.
    let (jobs, queue) = channel();
    let (results, done) = channel();
    let queue = Mutex::new(queue);
    thread::scope(|scope| {
        for _ in 0..limits.workers.max(1) {
            let (queue, results) = (&queue, results.clone());
            scope.spawn(move || work(queue, &results, limits.strict));
        }
        drop(results);
        let flow = Pipeline {
            lines,
            verifier,
            limits,
            jobs,
            read: 0,
            followed: 0,
            parsed: BTreeMap::new(),
            under_way: BTreeMap::new(),
            ended: false,
            broken: None,
            failure: None,
            checked: 0,
            progress,
        };
        flow.run(&done)
    })
}

struct Pipeline<'f, 'i, L> {
    lines: L,
    verifier: &'f mut Verifier<'i>,
    limits: PipelineLimits,
    jobs: Sender<Job>,
    /// Number of the next batch to be read.
    read: u64,
    /// Number of the next batch to follow the chain through.
    followed: u64,
    /// Those between the two that are parsed.
    parsed: BTreeMap<u64, Vec<ParsedLine>>,
    /// All that are read and not done, with their lengths in bytes.
    under_way: BTreeMap<u64, u64>,
    /// There is nothing more to read.
    ended: bool,
    /// Why not, if that is not the log's end.
    broken: Option<FailureKind>,
    /// That of the first bad record so far.
    failure: Option<VerifyFailure>,
    /// Bytes.
    checked: u64,
    progress: &'f mut dyn FnMut(u64),
}

impl<L: Iterator<Item = io::Result<LogLine>>> Pipeline<'_, '_, L> {
    fn run(mut self, done: &Receiver<Done>) -> Result<(), VerifyFailure> {
        loop {
            self.feed();
            if self.under_way.is_empty() {
                break;
            }
            match done.recv() {
                Ok(Done::ParsedLine(number, parsed)) => {
                    self.parsed.insert(number, parsed);
                    self.follow();
                }
                Ok(Done::Checked(number, result)) => self.settle(number, result),
                // The panic goes on when the workers are joined.
                Ok(Done::Lost) | Err(_) => {
                    self.broken = Some(FailureKind::Unreadable("a thread panicked".into()));
                    break;
                }
            }
        }
        let broken = self.broken.take();
        let broken = broken.map(|kind| nowhere(self.verifier.next_seq(), kind));
        self.failure.or(broken).map_or(Ok(()), Err)
    }

    /// Reads as far ahead as the limits allow, until something is found.
    fn feed(&mut self) {
        while !self.ended && self.failure.is_none() && self.under_way.len() < self.limits.batches()
        {
            let (lines, bytes) = self.read_batch();
            if lines.is_empty() {
                return;
            }
            self.under_way.insert(self.read, bytes);
            self.send(self.read, Task::Parse(lines));
            self.read += 1;
        }
    }

    fn read_batch(&mut self) -> (Vec<LogLine>, u64) {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < self.limits.lines && bytes < self.limits.bytes {
            match self.lines.next() {
                Some(Ok(line)) => {
                    bytes += line.bytes.len() + 1;
                    batch.push(line);
                    continue;
                }
                Some(Err(error)) => self.broken = Some(unreadable(&error)),
                None => {}
            }
            self.ended = true;
            break;
        }
        (batch, bytes as u64)
    }

    fn send(&self, number: u64, task: Task) {
        // The workers' end of it lives as long as this.
        self.jobs.send(Job { number, task }).ok();
    }

    /// Follows the chain through the parsed batches whose turn it is. Once something
    /// is found, what comes after it does not matter.
    fn follow(&mut self) {
        while let Some(parsed) = self.parsed.remove(&self.followed) {
            let number = self.followed;
            self.followed += 1;
            if self.failure.is_some() {
                self.under_way.remove(&number);
                continue;
            }
            let claims = self.claims(&parsed);
            self.send(number, Task::Check(claims));
        }
    }

    /// What is left to be checked of a batch; a failure's record and those after it
    /// are not in it, unless its signature comes before the failure.
    fn claims(&mut self, batch: &[ParsedLine]) -> Vec<SignatureClaim> {
        let mut claims = Vec::with_capacity(batch.len());
        for parsed in batch {
            if let Err(kind) = self.verifier.check(parsed, &mut claims) {
                self.found(self.verifier.failure(&parsed.line, kind));
                break;
            }
        }
        claims
    }

    fn settle(&mut self, number: u64, result: Result<(), VerifyFailure>) {
        self.checked += self.under_way.remove(&number).unwrap_or_default();
        match result {
            Ok(()) => (self.progress)(self.checked),
            Err(failure) => self.found(failure),
        }
    }

    /// Keeps the failure that stands first in the log.
    fn found(&mut self, new: VerifyFailure) {
        let place = |failure: &VerifyFailure| {
            let after = failure.kind != FailureKind::Signature;
            (failure.segment, failure.line, after)
        };
        let earlier = self
            .failure
            .as_ref()
            .is_none_or(|old| place(&new) < place(old));
        if earlier {
            self.failure = Some(new);
        }
    }
}

#[cfg(test)]
mod tests;

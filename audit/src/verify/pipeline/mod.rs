//! Lines through all cores, in batches.
//!
//! Runs in: `jarvisctl`, with a thread for each core.
//! Touches: lines in memory, bounded by the batches under way. No file.
//! Imported by: the verifier's mod.rs and follow.rs.
//!
//! A batch goes twice through the workers: its lines are parsed and hashed; then,
//! when those before it have been there too, the chain is followed through it, which
//! tells whose signatures its records should bear; and these are checked.
//!
//! The order in which failures are found does not change what is reported: of all of them
//! the one of the first record, and of one record's that of its signature, before which
//! nothing that the record says counts.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use parking_lot::Mutex;

use super::failure::{FailureKind, VerifyFailure};
use super::parsed_line::ParsedLine;
use super::signatures::{SignatureClaim, check_all, check_each};
use super::verifier::Verifier;
use crate::read::LogLine;

/// Bounds on what is under way at once.
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
    /// The parsed records are no longer than their lines.
    #[cfg(test)]
    pub(super) fn memory(self) -> usize {
        self.batches() * (self.bytes + crate::line::MAX_LINE_BYTES)
    }
}

/// Work on a batch.
struct BatchJob {
    /// Number of the batch.
    number: u64,
    task: BatchTask,
}

enum BatchTask {
    Parse(Vec<LogLine>),
    CheckSignatures(Vec<SignatureClaim>),
}

/// Result of a worker, with the number of its batch.
enum BatchResult {
    Parsed(u64, Vec<ParsedLine>),
    Checked(u64, Result<(), VerifyFailure>),
    /// The worker panicked.
    Lost,
}

impl BatchJob {
    fn run(self, strict: bool) -> BatchResult {
        let number = self.number;
        match self.task {
            BatchTask::Parse(lines) => {
                let parsed = lines.into_iter().map(ParsedLine::new).collect();
                BatchResult::Parsed(number, parsed)
            }
            BatchTask::CheckSignatures(claims) if strict => {
                BatchResult::Checked(number, check_each(&claims))
            }
            BatchTask::CheckSignatures(claims) => BatchResult::Checked(number, check_all(&claims)),
        }
    }
}

/// Tells of a worker that panicked: nobody waits for it forever.
struct PanicNotice<'a>(&'a Sender<BatchResult>);

impl Drop for PanicNotice<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.send(BatchResult::Lost).ok();
        }
    }
}

fn work(jobs: &Mutex<Receiver<BatchJob>>, done: &Sender<BatchResult>, strict: bool) {
    let _notice = PanicNotice(done);
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
    // Channels without a bound of their own: the batches under way are bounded.
    let (jobs, queue) = channel();
    let (results, done) = channel();
    let queue = Mutex::new(queue);
    thread::scope(|scope| {
        for _ in 0..limits.workers.max(1) {
            let (queue, results) = (&queue, results.clone());
            scope.spawn(move || work(queue, &results, limits.strict));
        }
        drop(results);
        let pipeline = Pipeline {
            lines,
            verifier,
            limits,
            jobs,
            read: 0,
            followed: 0,
            parsed: BTreeMap::new(),
            under_way: BTreeMap::new(),
            source: SourceState::Open,
            failure: None,
            checked: 0,
            progress,
        };
        pipeline.run(&done)
    })
}

enum SourceState {
    /// More lines may come.
    Open,
    /// The last line was read.
    Ended,
    /// Reading failed, or a worker was lost.
    Broken(FailureKind),
}

struct Pipeline<'f, 'i, L> {
    lines: L,
    verifier: &'f mut Verifier<'i>,
    limits: PipelineLimits,
    jobs: Sender<BatchJob>,
    /// Number of the next batch to be read.
    read: u64,
    /// Number of the next batch to follow the chain through.
    followed: u64,
    /// Batches between the two that are parsed.
    parsed: BTreeMap<u64, Vec<ParsedLine>>,
    /// Batches that are read and not done, with their lengths in bytes.
    under_way: BTreeMap<u64, u64>,
    source: SourceState,
    /// Failure of the first bad record so far.
    failure: Option<VerifyFailure>,
    /// Bytes whose signatures are checked.
    checked: u64,
    progress: &'f mut dyn FnMut(u64),
}

impl<L: Iterator<Item = io::Result<LogLine>>> Pipeline<'_, '_, L> {
    fn run(mut self, done: &Receiver<BatchResult>) -> Result<(), VerifyFailure> {
        loop {
            self.feed();
            if self.under_way.is_empty() {
                break;
            }
            match done.recv() {
                Ok(BatchResult::Parsed(number, parsed)) => {
                    self.parsed.insert(number, parsed);
                    self.follow();
                }
                Ok(BatchResult::Checked(number, result)) => self.finish_batch(number, result),
                // The panic goes on when the workers are joined.
                Ok(BatchResult::Lost) | Err(_) => {
                    let lost = FailureKind::Unreadable("a thread panicked".into());
                    self.source = SourceState::Broken(lost);
                    break;
                }
            }
        }
        match (self.failure, self.source) {
            (Some(failure), _) => Err(failure),
            (None, SourceState::Broken(kind)) => {
                Err(VerifyFailure::of_log(self.verifier.next_seq(), kind))
            }
            (None, SourceState::Open | SourceState::Ended) => Ok(()),
        }
    }

    /// Reads as far ahead as the limits allow, until something is found.
    fn feed(&mut self) {
        while matches!(self.source, SourceState::Open)
            && self.failure.is_none()
            && self.under_way.len() < self.limits.batches()
        {
            let (lines, bytes) = self.read_batch();
            if lines.is_empty() {
                return;
            }
            self.under_way.insert(self.read, bytes);
            self.send(self.read, BatchTask::Parse(lines));
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
                Some(Err(error)) => {
                    let unreadable = FailureKind::Unreadable(error.to_string());
                    self.source = SourceState::Broken(unreadable);
                }
                None => self.source = SourceState::Ended,
            }
            break;
        }
        (batch, bytes as u64)
    }

    fn send(&self, number: u64, task: BatchTask) {
        // The workers' end of it lives as long as this.
        self.jobs.send(BatchJob { number, task }).ok();
    }

    /// Follows the chain through the parsed batches that come next. Once something
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
            self.send(number, BatchTask::CheckSignatures(claims));
        }
    }

    /// The signatures of a batch that are left to be checked; not those of a failure's
    /// record and of the ones after it, unless its signature comes before the failure.
    fn claims(&mut self, batch: &[ParsedLine]) -> Vec<SignatureClaim> {
        let mut claims = Vec::with_capacity(batch.len());
        for parsed in batch {
            if let Err(kind) = self.verifier.check(parsed, &mut claims) {
                self.keep_first(self.verifier.failure(&parsed.line, kind));
                break;
            }
        }
        claims
    }

    fn finish_batch(&mut self, number: u64, result: Result<(), VerifyFailure>) {
        self.checked += self.under_way.remove(&number).unwrap_or_default();
        match result {
            Ok(()) => (self.progress)(self.checked),
            Err(failure) => self.keep_first(failure),
        }
    }

    /// Keeps the failure that stands first in the log.
    fn keep_first(&mut self, new: VerifyFailure) {
        // Of one record the signature comes first: what an unsigned record says may be the
        // work of whoever broke the signature.
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

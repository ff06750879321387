//! The control file: one write is one request, its answer is read on the same
//! handle.
//!
//! Requests run in a thread of their own, one after the other: a commit takes a
//! disk flush, and a serving thread may not wait for that. Users take turns, revocations and
//! keys come first.

use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::account_shares::AccountShare;
use crate::answer_budget::AnswerBudget;
use crate::buffers::MAX_WAITING;
use crate::caller::Caller;
use crate::connection::Reply;
use crate::errno::FsError;
use crate::fair_queue::FairQueue;
use crate::handles::HandleTable;
use crate::in_flight::InFlight;
use crate::notify::pages::PageInvalidator;
use crate::range::slice;
use crate::tree::{Control, KeptAnswer, RequestOrigin};
use crate::wire::abi::SizeOut;

/// An open control file. The authority is the opener's, established at OPEN; a
/// handle that an earlier process opened serves the same uid, whose groups are
/// established at its next write.
pub(crate) struct ControlHandle {
    pub(crate) uid: u32,
    pub(crate) caller: OnceLock<Caller>,
    answer: Mutex<HeldAnswer>,
}

/// An answer and the room that it takes.
#[derive(Default)]
struct HeldAnswer {
    kept: KeptAnswer,
    _room: Option<AccountShare>,
}

impl ControlHandle {
    pub(crate) fn new(caller: Caller) -> Self {
        Self {
            uid: caller.uid,
            caller: caller.into(),
            answer: Mutex::default(),
        }
    }

    /// A handle that an earlier process opened, with the answer it may have left.
    pub(crate) fn adopted(uid: u32, answer: Option<KeptAnswer>) -> Self {
        Self {
            uid,
            caller: OnceLock::new(),
            answer: Mutex::new(HeldAnswer {
                kept: answer.unwrap_or_default(),
                _room: None,
            }),
        }
    }

    /// Sets a short answer, which stands at `at`.
    pub(crate) fn put(&self, body: Vec<u8>, at: u64) {
        self.hold(KeptAnswer { body, at }, None);
    }

    fn hold(&self, kept: KeptAnswer, room: Option<AccountShare>) {
        *self.answer.lock() = HeldAnswer { kept, _room: room };
    }

    /// Forgets the answer before the next request is carried out: its room is free.
    fn forget(&self) {
        *self.answer.lock() = HeldAnswer::default();
    }

    /// Shows `size` bytes of the answer from `offset` of the file on; nothing at
    /// its end.
    ///
    /// # Errors
    /// [`FsError::Invalid`] before its beginning.
    pub(crate) fn show(
        &self,
        (offset, size): (u64, u32),
        reply: impl FnOnce(Result<&[u8], FsError>),
    ) {
        let held = self.answer.lock();
        let answer = &held.kept;
        match offset.checked_sub(answer.at) {
            Some(from) => reply(Ok(slice(&answer.body, (from, size)))),
            None if answer.body.is_empty() => reply(Ok(&[])),
            None => reply(Err(FsError::Invalid)),
        }
    }
}

/// Longest time that a request waits for its turn. The kernel cuts the whole connection when one is
/// not answered in time (greeting.rs), which no user's requests may bring about; a request at
/// work takes some seconds at most.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// A request on its way, with the reply that its write waits for.
pub(crate) struct ControlJob {
    pub(crate) handle: Arc<ControlHandle>,
    pub(crate) caller: Caller,
    pub(crate) origin: RequestOrigin,
    pub(crate) request: Zeroizing<Vec<u8>>,
    pub(crate) reply: Reply,
}

/// The thread that carries requests out; dropping waits for the one at work.
pub(crate) struct ControlExecutor {
    queue: Arc<FairQueue<ControlJob>>,
    thread: Option<JoinHandle<()>>,
}

impl ControlExecutor {
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn start(
        control: Arc<dyn Control>,
        pages: Arc<PageInvalidator>,
        (handles, in_flight): (Arc<HandleTable>, Arc<InFlight>),
    ) -> std::io::Result<Self> {
        let queue = Arc::new(FairQueue::new(MAX_WAITING));
        let jobs = queue.clone();
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || run(&*control, &jobs, &pages, (&handles, &in_flight)))?;
        Ok(Self {
            queue,
            thread: Some(thread),
        })
    }

    /// Queues `job`. When the queue is full, whoever has the most in it is told to try again.
    pub(crate) fn submit(&self, job: ControlJob, control: &dyn Control) {
        let urgent = control.is_urgent(&job.request);
        if let Err(job) = self.queue.push(job.caller.account(), urgent, job) {
            put_off(job, control);
        }
    }
}

/// Tells who asked for `job` to try again.
fn put_off(job: ControlJob, control: &dyn Control) {
    let message = "too many control requests are waiting; try again";
    let body = control.refuse_control(FsError::Busy, message).body;
    job.handle.put(body, job.origin.start);
    job.reply.error(FsError::Busy);
}

impl Drop for ControlExecutor {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // A panic in it would have ended the process.
            thread.join().ok();
        }
    }
}

fn run(
    control: &dyn Control,
    jobs: &FairQueue<ControlJob>,
    pages: &PageInvalidator,
    (handles, in_flight): (&HandleTable, &InFlight),
) {
    let budget = AnswerBudget::default();
    let carry_out = |job: ControlJob| {
        let number = job.origin.request;
        // Suspects were refused before they came here.
        let _guard = in_flight.track(number);
        let written = u32::try_from(job.request.len()).unwrap_or(u32::MAX);
        job.handle.forget();
        let mut answer = control.control(&job.caller, job.request, job.origin);
        let account = job.caller.account();
        let mut room = budget.take(account, answer.body.len());
        if room.is_none() {
            answer = control.shorten(answer);
            room = budget.take(account, answer.body.len());
        }
        let at = match answer.error {
            None => job.origin.end,
            Some(_) => job.origin.start,
        };
        let body = answer.body;
        job.handle.hold(KeptAnswer { body, at }, room);
        for node in nodes(handles, &answer.fenced) {
            pages.invalidate_now(node);
        }
        match answer.error {
            None => job.reply.body(&SizeOut {
                size: written,
                padding: 0,
            }),
            Some(error) => job.reply.error(error),
        }
        control.answered(number);
    };
    while let Some(job) = jobs.take() {
        carry_out(job);
        for late in jobs.take_overdue(LONGEST_WAIT) {
            // One that an earlier worker carried out is only answered.
            if control.carried_out(late.origin.request) {
                carry_out(late);
            } else {
                put_off(late, control);
            }
        }
    }
}

/// The nodes by which pages of `secrets` may be in the page cache.
fn nodes(handles: &HandleTable, secrets: &[u64]) -> Vec<u64> {
    let nodes = secrets.iter().map(|&ino| handles.cached_nodes(ino));
    nodes.flatten().collect()
}

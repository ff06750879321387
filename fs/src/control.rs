//! The control file: one write is one request, its answer is read on the same
//! handle.
//!
//! Requests run in a thread of their own, one after the other: a commit takes a
//! disk flush, and a serving thread may not wait for that.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use fuser::ReplyWrite;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::caller::Caller;
use crate::errno::FsError;
use crate::pages::PageCache;
use crate::tree::{Origin, Tree};
use crate::watch::Watch;

/// Requests that may wait for their turn.
const QUEUE: usize = 64;

/// An open control file. The authority is the opener's, established at OPEN; a
/// handle that an earlier process opened serves the same uid, whose groups are
/// established at its next write.
pub(crate) struct ControlHandle {
    pub(crate) uid: u32,
    pub(crate) caller: OnceLock<Caller>,
    answer: Mutex<Unread>,
}

#[derive(Default)]
struct Unread {
    body: Vec<u8>,
    from: usize,
}

impl ControlHandle {
    pub(crate) fn new(caller: Caller) -> Self {
        Self {
            uid: caller.uid,
            caller: caller.into(),
            answer: Mutex::default(),
        }
    }

    /// An earlier process's, with the answer it may have left.
    pub(crate) fn adopted(uid: u32, answer: Option<Vec<u8>>) -> Self {
        let handle = Self {
            uid,
            caller: OnceLock::new(),
            answer: Mutex::default(),
        };
        handle.put(answer.unwrap_or_default());
        handle
    }

    pub(crate) fn put(&self, body: Vec<u8>) {
        *self.answer.lock() = Unread { body, from: 0 };
    }

    /// The next `size` bytes of the answer; nothing at its end.
    pub(crate) fn take(&self, size: usize, reply: impl FnOnce(&[u8])) {
        let mut unread = self.answer.lock();
        let to = unread.from.saturating_add(size).min(unread.body.len());
        reply(unread.body.get(unread.from..to).unwrap_or_default());
        unread.from = to;
    }
}

/// A request on its way.
pub(crate) struct Job {
    pub(crate) handle: Arc<ControlHandle>,
    pub(crate) caller: Caller,
    pub(crate) origin: Origin,
    pub(crate) request: Zeroizing<Vec<u8>>,
    pub(crate) reply: ReplyWrite,
}

/// The thread that carries requests out; dropping waits for the one at work.
pub(crate) struct Executor {
    queue: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Executor {
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn start<T: Tree>(
        tree: Arc<T>,
        pages: Arc<PageCache>,
        watch: Arc<Watch>,
    ) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || run(&*tree, &jobs, &pages, &watch))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Queues `job`, or answers it when the queue is full.
    pub(crate) fn submit<T: Tree>(&self, job: Job, tree: &T) {
        let Some(queue) = &self.queue else {
            return job.reply.error(FsError::Busy.errno());
        };
        let job = match queue.try_send(job) {
            Ok(()) => return,
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job,
        };
        let message = "too many control requests are waiting; try again";
        job.handle
            .put(tree.refuse_control(FsError::Busy, message).body);
        job.reply.error(FsError::Busy.errno());
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked without ending the process.
            thread.join().ok();
        }
    }
}

fn run<T: Tree>(tree: &T, jobs: &Receiver<Job>, pages: &PageCache, watch: &Watch) {
    for job in jobs {
        let number = job.origin.request;
        // Suspects were refused before they came here.
        let _busy = watch.begin(number);
        let written = u32::try_from(job.request.len()).unwrap_or(u32::MAX);
        let answer = tree.control(&job.caller, job.request, job.origin);
        job.handle.put(answer.body);
        for ino in answer.changed {
            pages.drop_pages(ino);
        }
        match answer.error {
            None => job.reply.written(written),
            Some(error) => job.reply.error(error.errno()),
        }
        tree.answered(number);
    }
}

//! Client of the supervisor for questions about threads. An answer is not waited for long,
//! and after one that did not come nothing is asked for a while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jarvis_fs::Caller;
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::ipc::programs::{ThreadAnswer, ThreadQuestion, ThreadQuestions, ThreadRef};

/// How long a read may wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(100);
/// How long nothing is asked after an answer did not come.
const PAUSE_AFTER_TIMEOUT: Duration = Duration::from_secs(10);

/// The supervisor, which looks.
pub(crate) struct ThreadClient {
    /// The kernel is too old to tell threads' numbers.
    numberless: AtomicBool,
    connection: Mutex<ThreadConnection>,
}

struct ThreadConnection {
    channel: ThreadQuestions,
    /// Nothing is asked before.
    paused_until: Option<Instant>,
}

impl ThreadClient {
    pub(crate) fn new(channel: ThreadQuestions) -> Self {
        Self {
            numberless: AtomicBool::new(false),
            connection: Mutex::new(ThreadConnection {
                channel,
                paused_until: None,
            }),
        }
    }

    /// The thread of `caller`, with its number if the kernel tells it.
    pub(super) fn thread_of(&self, caller: &Caller) -> ThreadRef {
        ThreadRef {
            tid: caller.tid,
            thread: match caller.kernel_ids {
                Some(ids) => Some(ids.thread),
                None => self.number_of(caller.tid),
            },
        }
    }

    /// The number of thread `tid`, which no other ever has.
    fn number_of(&self, tid: u32) -> Option<u64> {
        if self.numberless.load(Ordering::Relaxed) {
            return None;
        }
        match jarvis_sys::thread(tid) {
            Ok(thread) => Some(thread.number),
            Err(Errno::SRCH) => None,
            Err(_) => {
                self.numberless.store(true, Ordering::Relaxed);
                None
            }
        }
    }

    /// The supervisor's answer, if it has one in time.
    pub(super) fn ask(&self, question: ThreadQuestion) -> Option<ThreadAnswer> {
        let mut connection = self.connection.try_lock_for(ANSWER_TIMEOUT)?;
        connection.request(question)
    }
}

impl ThreadConnection {
    fn request(&mut self, question: ThreadQuestion) -> Option<ThreadAnswer> {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        let until = now + ANSWER_TIMEOUT;
        self.channel.send(&question, &[]).ok()?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if !self.channel.readable(left) {
                self.paused_until = Some(Instant::now() + PAUSE_AFTER_TIMEOUT);
                return None;
            }
            let (reply, _) = self.channel.receive().ok()?;
            // The answer to an earlier question may have come too late.
            if reply.question == question {
                return reply.answer;
            }
        }
    }
}

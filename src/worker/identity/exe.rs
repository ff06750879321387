//! Executables that read secrets: asked for when a process first reads one, for
//! the record. A path is what the process's own mounts make it, so nothing is
//! decided by it, and a read does not wait long for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jarvis_fs::Caller;
use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

use crate::ipc::programs::{ExeQuestions, ThreadRef};

/// How long a read may wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(100);
/// How long a thread's executable is taken for known: it may become another one.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// How long nothing is asked after an answer did not come.
const PAUSE_AFTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Most pairs of thread and secret that are remembered; all are forgotten together.
const MAX_REMEMBERED: usize = 16 * 1024;

/// Finds out which executable a thread runs when it first reads a secret.
pub(crate) struct ExeLookup {
    /// When a thread was last asked about, by its number and the secret's id.
    asked: RwLock<HashMap<(u64, u64), Instant>>,
    /// The kernel is too old to tell threads' numbers.
    numberless: AtomicBool,
    client: Mutex<ExeClient>,
}

/// The socket to the supervisor, which looks.
struct ExeClient {
    channel: ExeQuestions,
    /// Nothing is asked before.
    paused_until: Option<Instant>,
}

impl ExeLookup {
    pub(crate) fn new(channel: ExeQuestions) -> Self {
        Self {
            asked: RwLock::default(),
            numberless: AtomicBool::new(false),
            client: Mutex::new(ExeClient {
                channel,
                paused_until: None,
            }),
        }
    }

    /// The executable of `caller`, unless it was asked for a moment ago when the
    /// same thread read the same secret.
    pub(crate) fn exe_at_first_read(&self, caller: &Caller, secret: u64) -> Option<String> {
        let thread = match caller.kernel_ids {
            Some(ids) => ids.thread,
            None => self.thread_number(caller.tid)?,
        };
        let key = (thread, secret);
        let known = self.asked.read().get(&key).copied();
        if known.is_some_and(|at| at.elapsed() < KNOWN_FOR) {
            return None;
        }
        let mut asked = self.asked.write();
        if asked.len() >= MAX_REMEMBERED {
            asked.clear();
        }
        asked.insert(key, Instant::now());
        // Not held while others wait for an answer.
        drop(asked);
        let tid = caller.tid;
        self.client
            .try_lock_for(ANSWER_TIMEOUT)?
            .request(ThreadRef { tid, thread })
    }

    /// The number of thread `tid`, which no other ever has.
    fn thread_number(&self, tid: u32) -> Option<u64> {
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
}

impl ExeClient {
    fn request(&mut self, thread: ThreadRef) -> Option<String> {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        let until = now + ANSWER_TIMEOUT;
        self.channel.send(&thread, &[]).ok()?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if !self.channel.readable(left) {
                self.paused_until = Some(Instant::now() + PAUSE_AFTER_TIMEOUT);
                return None;
            }
            let (answer, _) = self.channel.receive().ok()?;
            // The answer to an earlier question may have come too late.
            if answer.thread == thread {
                return answer.path;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::programs::{ExeReplies, ExeReply};

    fn caller() -> Caller {
        Caller {
            uid: 1,
            gid: 1,
            groups: None,
            pid: 7,
            tid: 8,
            containerized: false,
            kernel_ids: Some(jarvis_fs::KernelIds {
                cgroup: None,
                thread: 9,
            }),
            workload: None,
        }
    }

    #[test]
    fn a_thread_is_asked_about_once_for_each_secret() {
        let (ours, theirs) = ExeReplies::pair().unwrap();
        let lookup = ExeLookup::new(ExeQuestions::from(theirs));
        let supervisor = std::thread::spawn(move || {
            let mut questions = Vec::new();
            while let Ok((whose, _)) = ours.receive() {
                questions.push(whose);
                let late = ThreadRef { tid: 1, thread: 1 };
                for (thread, path) in [(late, "/late"), (whose, "/bin/cat")] {
                    let path = Some(path.to_owned());
                    ours.send(&ExeReply { thread, path }, &[]).unwrap();
                }
            }
            questions
        });
        let ask = |secret| lookup.exe_at_first_read(&caller(), secret);
        assert_eq!(ask(1).as_deref(), Some("/bin/cat"));
        assert_eq!(ask(1), None);
        assert_eq!(ask(2).as_deref(), Some("/bin/cat"));
        drop(lookup);
        assert_eq!(
            supervisor.join().unwrap(),
            [ThreadRef { tid: 8, thread: 9 }; 2]
        );
    }

    #[test]
    fn who_does_not_answer_is_left_alone() {
        let (ours, theirs) = ExeReplies::pair().unwrap();
        let lookup = ExeLookup::new(ExeQuestions::from(theirs));
        for secret in 1..=50 {
            assert_eq!(lookup.exe_at_first_read(&caller(), secret), None);
        }
        ours.receive().unwrap();
        assert!(!ours.readable(Duration::ZERO), "one question only");
        drop(ours);
    }
}

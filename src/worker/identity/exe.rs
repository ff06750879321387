//! Executables that read secrets: asked for when a process first reads one, for
//! the record. A path is what the process's own mounts make it, so nothing is
//! decided by it, and a read does not wait long for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jarvis_fs::Caller;
use parking_lot::RwLock;

use super::client::ThreadClient;
use crate::ipc::programs::{ThreadAnswer, ThreadQuestion};

/// How long a thread's executable is taken for known: it may become another one.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// Most pairs of thread and secret that are remembered; all are forgotten together.
const MAX_REMEMBERED: usize = 16 * 1024;

/// Finds out which executable a thread runs when it first reads a secret.
pub(super) struct ExeLookup {
    /// When a thread was last asked about, by its number and the secret's id.
    asked: RwLock<HashMap<(u64, u64), Instant>>,
    client: Arc<ThreadClient>,
}

impl ExeLookup {
    pub(super) fn new(client: Arc<ThreadClient>) -> Self {
        Self {
            asked: RwLock::default(),
            client,
        }
    }

    /// The executable of `caller`, unless it was asked for a moment ago when the
    /// same thread read the same secret.
    pub(super) fn exe_at_first_read(&self, caller: &Caller, secret: u64) -> Option<String> {
        let thread = self.client.thread_of(caller);
        let key = (thread.thread?, secret);
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
        match self.client.ask(ThreadQuestion::Exe(thread))? {
            ThreadAnswer::Exe(path) => Some(path),
            ThreadAnswer::Namespace { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::programs::{ThreadQuestions, ThreadRef, ThreadReplies, ThreadReply};

    fn caller() -> Caller {
        Caller {
            uid: 1,
            gid: 1,
            groups: None,
            pid: 7,
            tid: 8,
            containment: None,
            kernel_ids: Some(jarvis_fs::KernelIds {
                cgroup: None,
                thread: 9,
            }),
            workload: None,
        }
    }

    fn exe(tid: u32, thread: u64) -> ThreadQuestion {
        let thread = Some(thread);
        ThreadQuestion::Exe(ThreadRef { tid, thread })
    }

    fn lookup() -> (ThreadReplies, ExeLookup) {
        let (ours, theirs) = ThreadReplies::pair().unwrap();
        let client = ThreadClient::new(ThreadQuestions::from(theirs));
        (ours, ExeLookup::new(client.into()))
    }

    #[test]
    fn a_thread_is_asked_about_once_for_each_secret() {
        let (ours, lookup) = lookup();
        let supervisor = std::thread::spawn(move || {
            let mut questions = Vec::new();
            while let Ok((whose, _)) = ours.receive() {
                questions.push(whose);
                for (question, path) in [(exe(1, 1), "/late"), (whose, "/bin/cat")] {
                    let answer = Some(ThreadAnswer::Exe(path.to_owned()));
                    ours.send(&ThreadReply { question, answer }, &[]).unwrap();
                }
            }
            questions
        });
        let ask = |secret| lookup.exe_at_first_read(&caller(), secret);
        assert_eq!(ask(1).as_deref(), Some("/bin/cat"));
        assert_eq!(ask(1), None);
        assert_eq!(ask(2).as_deref(), Some("/bin/cat"));
        drop(lookup);
        assert_eq!(supervisor.join().unwrap(), [exe(8, 9); 2]);
    }

    #[test]
    fn who_does_not_answer_is_left_alone() {
        let (ours, lookup) = lookup();
        for secret in 1..=50 {
            assert_eq!(lookup.exe_at_first_read(&caller(), secret), None);
        }
        ours.receive().unwrap();
        assert!(!ours.readable(Duration::ZERO), "one question only");
        drop(ours);
    }
}

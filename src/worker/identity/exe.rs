//! Which programs read secrets: asked when a process first reads one, for the
//! record. A path is what the process's own mounts make it, so nothing is
//! decided by it, and a read does not wait long for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jarvis_fs::Caller;
use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

use crate::ipc::programs::{ExeQuestions, ThreadRef};

/// How long a read may wait for an answer.
const PATIENCE: Duration = Duration::from_millis(100);
/// After this time a thread's program is looked at again: it may be another one.
const AGAIN: Duration = Duration::from_secs(60);
/// How long nobody is asked after an answer did not come.
const REST: Duration = Duration::from_secs(10);
/// Threads and secrets remembered; they are forgotten together.
const REMEMBERED: usize = 16 * 1024;

/// Asks the supervisor.
pub(crate) struct Programs {
    /// When a thread was last asked about, by its number and the secret's id.
    asked: RwLock<HashMap<(u64, u64), Instant>>,
    /// The kernel is too old for numbers to be sure by.
    numberless: AtomicBool,
    desk: Mutex<Desk>,
}

struct Desk {
    link: ExeQuestions,
    rests_until: Option<Instant>,
}

impl Programs {
    pub(crate) fn new(link: ExeQuestions) -> Self {
        Self {
            asked: RwLock::default(),
            numberless: AtomicBool::new(false),
            desk: Mutex::new(Desk {
                link,
                rests_until: None,
            }),
        }
    }

    /// The program of `caller`, unless it was asked for a moment ago when the same
    /// thread read the same secret.
    pub(crate) fn at_first(&self, caller: &Caller, secret: u64) -> Option<String> {
        let thread = match caller.kernel_ids {
            Some(ids) => ids.thread,
            None => self.number(caller.tid)?,
        };
        let key = (thread, secret);
        let known = self.asked.read().get(&key).copied();
        if known.is_some_and(|at| at.elapsed() < AGAIN) {
            return None;
        }
        let mut asked = self.asked.write();
        if asked.len() >= REMEMBERED {
            asked.clear();
        }
        asked.insert(key, Instant::now());
        drop(asked);
        let tid = caller.tid;
        self.desk
            .try_lock_for(PATIENCE)?
            .ask(ThreadRef { tid, thread })
    }

    fn number(&self, tid: u32) -> Option<u64> {
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

impl Desk {
    fn ask(&mut self, whose: ThreadRef) -> Option<String> {
        if self.rests_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let until = Instant::now() + PATIENCE;
        self.link.send(&whose, &[]).ok()?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if !self.link.readable(left) {
                self.rests_until = Some(Instant::now() + REST);
                return None;
            }
            let (answer, _) = self.link.receive().ok()?;
            // An earlier question's may have come too late.
            if answer.thread == whose {
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
        let programs = Programs::new(ExeQuestions::from(theirs));
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
        let ask = |secret| programs.at_first(&caller(), secret);
        assert_eq!(ask(1).as_deref(), Some("/bin/cat"));
        assert_eq!(ask(1), None);
        assert_eq!(ask(2).as_deref(), Some("/bin/cat"));
        drop(programs);
        assert_eq!(
            supervisor.join().unwrap(),
            [ThreadRef { tid: 8, thread: 9 }; 2]
        );
    }

    #[test]
    fn who_does_not_answer_is_left_alone() {
        let (ours, theirs) = ExeReplies::pair().unwrap();
        let programs = Programs::new(ExeQuestions::from(theirs));
        for secret in 1..=50 {
            assert_eq!(programs.at_first(&caller(), secret), None);
        }
        ours.receive().unwrap();
        assert!(!ours.readable(Duration::ZERO), "one question only");
        drop(ours);
    }
}

//! Answers to workers, which may not look themselves, about a thread: its program, and
//! whose user namespace it is in.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use jarvis_sys::user_namespace_below;

use crate::ipc::programs::{
    ThreadAnswer, ThreadQuestion, ThreadRef, ThreadReplies, ThreadReply, printable,
};

/// Bytes of the answering thread's stack.
const STACK: usize = 128 * 1024;

/// Starts to answer the questions that come at the other end, until that is closed.
/// A thread of its own does so: a process can make its `/proc` entries wait for as
/// long as it likes.
///
/// # Errors
/// When there is no socket or no thread.
pub(super) fn start_answering() -> io::Result<OwnedFd> {
    let (ours, theirs) = ThreadReplies::pair()?;
    let home = File::open("/proc/self/ns/user")?;
    std::thread::Builder::new()
        .name("programs".into())
        // The stack is locked in memory.
        .stack_size(STACK)
        .spawn(move || {
            while let Ok((question, _)) = ours.receive() {
                let answer = match question {
                    ThreadQuestion::Exe(thread) => exe_of(thread),
                    ThreadQuestion::Namespace(thread) => namespace_of(thread, &home),
                };
                // A worker that does not read its answers gets none.
                ours.send(&ThreadReply { question, answer }, &[]).ok();
            }
        })?;
    Ok(theirs)
}

/// Whether `thread` has the id still; without a number nobody can tell.
fn still_runs(thread: ThreadRef) -> bool {
    jarvis_sys::thread(thread.tid).is_ok_and(|found| Some(found.number) == thread.thread)
}

/// Path of the program that `thread` runs, as far as it can be shown.
fn exe_of(thread: ThreadRef) -> Option<ThreadAnswer> {
    if !still_runs(thread) {
        return None;
    }
    let path = std::fs::read_link(format!("/proc/{}/exe", thread.tid)).ok()?;
    // A path may be any bytes; what is no text is shown as U+FFFD.
    let path = path.to_string_lossy();
    // Otherwise the path may be that of another thread, which has the id now.
    (printable(&path) && still_runs(thread)).then(|| ThreadAnswer::Exe(path.into_owned()))
}

/// User namespace of `thread`, as it looks from `home`. The thread waits for the worker,
/// so that it has its id and stays in its namespace.
fn namespace_of(thread: ThreadRef, home: &File) -> Option<ThreadAnswer> {
    let namespace = File::open(format!("/proc/{}/ns/user", thread.tid)).ok()?;
    let found = user_namespace_below(home.as_fd(), namespace.into()).ok()??;
    Some(ThreadAnswer::Namespace {
        owner: found.owner,
        number: found.number,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::programs::ThreadQuestions;

    fn ask(link: &ThreadQuestions, question: ThreadQuestion) -> Option<ThreadAnswer> {
        link.send(&question, &[]).unwrap();
        let (reply, _) = link.receive().unwrap();
        assert_eq!(reply.question, question);
        reply.answer
    }

    #[test]
    fn a_thread_has_its_program_and_nobody_elses_number() {
        let link = ThreadQuestions::from(start_answering().unwrap());
        let exe = |tid, thread| ask(&link, ThreadQuestion::Exe(ThreadRef { tid, thread }));
        let tid = std::process::id();
        let number = jarvis_sys::thread(tid).unwrap().number;
        let own = std::env::current_exe().unwrap();
        let own = ThreadAnswer::Exe(own.to_str().unwrap().to_owned());
        assert_eq!(exe(tid, Some(number)), Some(own));
        assert_eq!(exe(tid, Some(number + 1)), None);
        assert_eq!(exe(tid, None), None);
        assert_eq!(exe(u32::MAX, Some(number)), None);
    }

    #[test]
    fn nobody_else_owns_our_own_user_namespace() {
        let link = ThreadQuestions::from(start_answering().unwrap());
        let thread = ThreadRef {
            tid: std::process::id(),
            thread: None,
        };
        assert_eq!(ask(&link, ThreadQuestion::Namespace(thread)), None);
    }
}

//! Answers to workers, which may not look themselves, about the program of a thread.

use std::io;
use std::os::fd::OwnedFd;

use crate::ipc::programs::{ExeReplies, ExeReply, ThreadRef, printable};

/// Bytes of the answering thread's stack.
const STACK: usize = 128 * 1024;

/// Starts to answer the questions that come at the other end, until that is closed.
/// A thread of its own does so: a process can make its `/proc` entries wait for as
/// long as it likes.
///
/// # Errors
/// When there is no socket or no thread.
pub(super) fn start_answering() -> io::Result<OwnedFd> {
    let (ours, theirs) = ExeReplies::pair()?;
    std::thread::Builder::new()
        .name("programs".into())
        // The stack is locked in memory.
        .stack_size(STACK)
        .spawn(move || {
            while let Ok((thread, _)) = ours.receive() {
                let path = exe_of(thread);
                // A worker that does not read its answers gets none.
                ours.send(&ExeReply { thread, path }, &[]).ok();
            }
        })?;
    Ok(theirs)
}

/// Path of the program that `thread` runs, as far as it can be shown.
fn exe_of(thread: ThreadRef) -> Option<String> {
    let still_runs = || jarvis_sys::thread(thread.tid).is_ok_and(|t| t.number == thread.thread);
    if !still_runs() {
        return None;
    }
    let path = std::fs::read_link(format!("/proc/{}/exe", thread.tid)).ok()?;
    // A path may be any bytes; what is no text is shown as U+FFFD.
    let path = path.to_string_lossy();
    // Otherwise the path may be that of another thread, which has the id now.
    (printable(&path) && still_runs()).then(|| path.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::programs::ExeQuestions;

    fn ask(link: &ExeQuestions, whose: ThreadRef) -> Option<String> {
        link.send(&whose, &[]).unwrap();
        let (answer, _) = link.receive().unwrap();
        assert_eq!(answer.thread, whose);
        answer.path
    }

    #[test]
    fn a_thread_has_its_program_and_nobody_elses_number() {
        let link = ExeQuestions::from(start_answering().unwrap());
        let tid = std::process::id();
        let thread = jarvis_sys::thread(tid).unwrap().number;
        let own = std::env::current_exe().unwrap();
        let found = ask(&link, ThreadRef { tid, thread });
        assert_eq!(found.as_deref(), own.to_str());
        let other = ThreadRef {
            tid,
            thread: thread + 1,
        };
        assert_eq!(ask(&link, other), None);
        let nobody = ThreadRef {
            tid: u32::MAX,
            thread,
        };
        assert_eq!(ask(&link, nobody), None);
    }
}

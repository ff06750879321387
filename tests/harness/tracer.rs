//! Faults that strace puts into chosen system calls of a process.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::text;

/// An strace of processes and of all that they start.
pub(crate) struct Tracer(Child);

impl Tracer {
    /// Attaches to all `victims`: `fault`, in strace's words, in each `call`,
    /// for at most `limit`. What strace said, if it can't.
    pub(crate) fn attach(
        victims: &[Pid],
        call: &str,
        fault: &str,
        limit: Duration,
    ) -> Result<Self, String> {
        Self::attach_with(victims, &["-f"], call, fault, limit)
    }

    /// Like [`Self::attach`], to one thread and nothing that it starts.
    pub(crate) fn attach_thread(
        thread: Pid,
        call: &str,
        fault: &str,
        limit: Duration,
    ) -> Result<Self, String> {
        Self::attach_with(&[thread], &[], call, fault, limit)
    }

    /// Like [`Self::attach`], for calls that name `path` only.
    pub(crate) fn attach_at(
        victims: &[Pid],
        path: &str,
        call: &str,
        fault: &str,
        limit: Duration,
    ) -> Result<Self, String> {
        Self::attach_with(victims, &["-f", "-P", path], call, fault, limit)
    }

    fn attach_with(
        victims: &[Pid],
        filter: &[&str],
        call: &str,
        fault: &str,
        limit: Duration,
    ) -> Result<Self, String> {
        let mut strace = Command::new("timeout");
        strace.args(["-k", "1", &limit.as_secs().to_string()]);
        strace.args(["strace", "-o", "/dev/null"]);
        strace.args(["-e", &format!("trace={call}")]);
        strace.args(["-e", &format!("inject={call}:{fault}")]);
        strace.args(filter);
        for victim in victims {
            strace.args(["-p", &victim.as_raw_nonzero().to_string()]);
        }
        let mut child = strace.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        // It says so once for each that it is attached to.
        let mut said = Vec::new();
        while text(&said).matches("attached").count() < victims.len() {
            let mut byte = [0; 1];
            if stderr.read_exact(&mut byte).is_err() {
                child.wait().unwrap();
                return Err(text(&said));
            }
            said.extend(byte);
        }
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Ok(Self(child))
    }

    /// Waits until it has nobody left to trace, or its time is over.
    pub(crate) fn wait(mut self) {
        self.0.wait().unwrap();
    }

    /// Lets its victims go: its `timeout` passes the signal on.
    pub(crate) fn detach(self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).ok();
        self.wait();
    }
}

//! The process that keeps one program: it starts it, and sees to it that
//! nothing of it is left in the end.
//!
//! Runs in: a keeper; `spawn.rs` in the runner.
//! Touches: programs, and whatever descends from them; values only as fds.
//! Imported by: `daemon`, `runner`.
//!
//! There is one for each program, so that whatever the program leaves behind,
//! also in a session of its own, is adopted by this process (it is a subreaper)
//! and can be told from what other programs left: with one subreaper for all hooks
//! nobody could tell whose it is. A keeper looks at file and directory by fd and
//! executes that very fd, through its own `/proc/PID/fd`, so that the interpreter of a
//! script can open it and the script inherits nothing. A keeper whose runner is gone
//! ends its hook; a hook dies with its keeper.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, kill_process_group, set_child_subreaper, wait,
};
use signal_hook::consts::SIGCHLD;

use crate::ipc::keeper::{ExitCause, KeeperEnd, ProgramKind, ProgramSpec, StartRefusal};
use crate::ipc::runner::HOOK_ANSWER_MARGIN;
use crate::ipc::take_stdin;
use crate::process::abort_on_panic;
use crate::process::signals::SignalSocket;

mod program;
pub(super) mod spawn;

/// How long a program may take to end after SIGTERM.
const TERM_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the kernel may take to end what got SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// Fds at which a hook finds its values.
const OLD_VALUE_FD: i32 = 3;
const NEW_VALUE_FD: i32 = 4;

// A worker waits for the ends of two hooks perhaps: an earlier worker's must be
// gone before its own begins.
const _: () =
    assert!(2 * (TERM_TIMEOUT.as_secs() + KILL_TIMEOUT.as_secs()) < HOOK_ANSWER_MARGIN.as_secs());

/// Why a keeper keeps nothing.
#[derive(Debug, thiserror::Error)]
enum KeeperError {
    /// The system refused something.
    #[error(transparent)]
    System(#[from] io::Error),
    /// Something else has an fd that is meant for a value.
    #[error("fd {0} is taken")]
    FdTaken(i32),
}

impl From<Errno> for KeeperError {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

/// Runs one program for the runner, whose socket is the standard input.
pub(crate) fn main() -> ExitCode {
    abort_on_panic();
    rustix::thread::set_name(c"jarvis-keeper").ok();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> Result<(), KeeperError> {
    jarvis_sys::keep_fds_from_children()?;
    // Before anything else is opened, which would get these numbers.
    let value_fds = [reserve_fd(OLD_VALUE_FD)?, reserve_fd(NEW_VALUE_FD)?];
    let channel: KeeperEnd = take_stdin()?;
    let (program, fds) = channel.receive()?;
    set_child_subreaper(Some(rustix::process::getpid()))?;
    let children = SignalSocket::register(&[SIGCHLD])?;
    let cause = match start(&program, fds, value_fds) {
        Ok((main, _open)) => ProcessTree {
            main: Some(main),
            cause: None,
            stage: Stage::Running(Instant::now() + Duration::from_millis(program.limit_ms)),
        }
        .wait_until_gone(&channel, &children),
        Err(refusal) => ExitCause::Refused(refusal),
    };
    Ok(channel.send(&cause, &[])?)
}

/// Takes the number `wanted`, which nothing else may have: a program finds what
/// is meant for it there, and nothing by mistake.
fn reserve_fd(wanted: i32) -> Result<OwnedFd, KeeperError> {
    // Opening gives the lowest number that is free.
    let null: OwnedFd = File::open("/dev/null")?.into();
    if null.as_raw_fd() == wanted {
        Ok(null)
    } else {
        Err(KeeperError::FdTaken(wanted))
    }
}

/// Starts the program; gives what has to stay open for as long as it runs.
/// The values are closed here then.
fn start(
    spec: &ProgramSpec,
    fds: Vec<OwnedFd>,
    value_fds: [OwnedFd; 2],
) -> Result<(Pid, [OwnedFd; 2]), StartRefusal> {
    let system = |errno: Errno| StartRefusal::System(errno.raw_os_error());
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or(StartRefusal::System(libc::EBADF));
    let directory = next()?;
    let program = program::open(directory.as_fd(), &spec.program, spec.trust_self)?;
    // A script's interpreter opens it again, so the path must hold outside this
    // process: it leads through our own fds, which the script does not have.
    let mut command = Command::new(shown_path(program.as_fd()));
    command
        .arg0(&spec.program)
        .args(&spec.arguments)
        .env_clear()
        .envs(spec.environment.iter().map(|(key, value)| (key, value)))
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match spec.kind {
        ProgramKind::Hook { has_old } => {
            let [old_fd, new_fd] = &value_fds;
            if has_old {
                jarvis_sys::replace_fd(old_fd.as_fd(), next()?.as_fd()).map_err(system)?;
            }
            jarvis_sys::replace_fd(new_fd.as_fd(), next()?.as_fd()).map_err(system)?;
            for fd in &value_fds {
                fcntl_setfd(fd, FdFlags::empty()).map_err(system)?;
            }
            command.env("JARVIS_HOOKS", shown_path(directory.as_fd()));
        }
        ProgramKind::Notification => {
            command.stdin(next()?);
        }
    }
    jarvis_sys::die_with_parent(&mut command);
    let child = command.spawn().map_err(|error| {
        // The errno says more than the kind.
        StartRefusal::System(error.raw_os_error().unwrap_or(libc::EIO))
    })?;
    Ok((Pid::from_child(&child), [program, directory]))
}

/// A path that leads to what `fd` is, from any process of the same user.
fn shown_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

/// Stage in the life of a program, and when it is over at the latest.
#[derive(Clone, Copy)]
enum Stage {
    Running(Instant),
    /// SIGTERM was sent.
    Ending(Instant),
    /// All that is left is killed.
    Killing(Instant),
}

/// One program and whatever descends from it.
struct ProcessTree {
    /// The program, until it is reaped.
    main: Option<Pid>,
    /// How it ended, once that is decided.
    cause: Option<ExitCause>,
    stage: Stage,
}

impl ProcessTree {
    /// Waits for the end of the program, of its time or of the other end of
    /// `channel`, and then until nothing is left.
    fn wait_until_gone(mut self, channel: &KeeperEnd, children: &SignalSocket) -> ExitCause {
        loop {
            if self.reap() {
                return self.cause.unwrap_or(ExitCause::Lost);
            }
            self.advance();
            let (Stage::Running(until) | Stage::Ending(until) | Stage::Killing(until)) = self.stage;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() && matches!(self.stage, Stage::Killing(_)) {
                // The kernel does not let go of it; nobody should wait for that.
                return self.cause.unwrap_or(ExitCause::Lost);
            }
            let runs = matches!(self.stage, Stage::Running(_));
            if wait_for_event(children, runs.then_some(channel), left) {
                // Nobody wants to know any more.
                self.terminate(ExitCause::Lost);
            }
        }
    }

    /// Reaps all that have ended; true when nobody is left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == self.main => {
                    self.main = None;
                    // That it was ended for its time counts more.
                    self.cause = self.cause.or(Some(match status.exit_status() {
                        Some(code) => ExitCause::Exited(u8::try_from(code).unwrap_or(u8::MAX)),
                        None => {
                            let signal = status.terminating_signal().unwrap_or_default();
                            ExitCause::Killed(u8::try_from(signal).unwrap_or_default())
                        }
                    }));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Enters the next stage when it is due, and kills once that is the stage.
    fn advance(&mut self) {
        let now = Instant::now();
        match self.stage {
            // What it leaves behind is not wanted.
            Stage::Running(_) if self.main.is_none() => {
                self.stage = Stage::Killing(now + KILL_TIMEOUT);
            }
            Stage::Running(until) if now >= until => self.terminate(ExitCause::TimedOut),
            Stage::Ending(until) if now >= until => {
                self.stage = Stage::Killing(now + KILL_TIMEOUT);
            }
            Stage::Running(_) | Stage::Ending(_) | Stage::Killing(_) => {}
        }
        if let Stage::Killing(_) = self.stage {
            self.kill();
        }
    }

    /// Asks the program to end, for which `cause` is given then.
    fn terminate(&mut self, cause: ExitCause) {
        self.cause = Some(cause);
        if let Some(main) = self.main {
            // It may be gone.
            kill_process_group(main, Signal::TERM).ok();
        }
        self.stage = Stage::Ending(Instant::now() + TERM_TIMEOUT);
    }

    /// Kills all that are ours by now; whoever loses its parent by this is ours
    /// next, and the parent's end wakes us.
    fn kill(&self) {
        if let Some(main) = self.main {
            kill_process_group(main, Signal::KILL).ok();
        }
        let own = std::process::id();
        let list = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
        for child in list.unwrap_or_default().split_whitespace() {
            if let Some(child) = child.parse().ok().and_then(Pid::from_raw) {
                kill_process(child, Signal::KILL).ok();
            }
        }
    }
}

/// Waits up to `left` for a child's end or the end of `channel`; true for the latter.
fn wait_for_event(children: &SignalSocket, channel: Option<&KeeperEnd>, left: Duration) -> bool {
    let mut fds = vec![PollFd::new(children, PollFlags::IN)];
    fds.extend(channel.map(|channel| PollFd::new(channel, PollFlags::IN)));
    let Ok(timeout) = Timespec::try_from(left) else {
        return false;
    };
    // An interruption is as good as an end: who has ended is looked at next.
    poll(&mut fds, Some(&timeout)).ok();
    let hung_up = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
    // Nothing to read is no failure: the poll may have been for the other.
    children.drain();
    hung_up
}

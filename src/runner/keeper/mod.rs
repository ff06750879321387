//! The process that keeps one program: it starts it, and sees to it that
//! nothing of it is left in the end.
//!
//! One for each program, so that whatever the program leaves behind, also in
//! a session of its own, is adopted by this process (it is a subreaper) and can
//! be told from what other programs left. It holds values only as fds.

use std::fs::File;

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
use crate::ipc::take_stdin;
use crate::process::signals::SignalSocket;
use crate::process::{Failure, text};

mod program;

/// How long a program may take to end once it is told to.
const GRACE: Duration = Duration::from_secs(2);
/// How long the kernel may take to end what was killed.
pub(super) const LAST_MOMENTS: Duration = Duration::from_secs(5);
/// The numbers a hook finds its values at.
const OLD: i32 = 3;
const NEW: i32 = 4;

/// Runs one program for the runner, whose socket is the standard input.
pub(crate) fn main() -> ExitCode {
    crate::process::abort_on_panic();
    rustix::thread::set_name(c"jarvis-keeper").ok();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> Result<(), Failure> {
    jarvis_sys::keep_fds_from_children().map_err(text)?;
    let places = [place(OLD)?, place(NEW)?];
    let link: KeeperEnd = take_stdin().map_err(text)?;
    let (task, fds) = link.receive().map_err(text)?;
    set_child_subreaper(Some(rustix::process::getpid())).map_err(text)?;
    let children = SignalSocket::register(&[SIGCHLD]).map_err(text)?;
    let end = match begin(&task, fds, places) {
        Ok((main, _open)) => Watch {
            main: Some(main),
            end: None,
            stage: Stage::Running(Instant::now() + Duration::from_millis(task.limit_ms)),
        }
        .until_all_gone(&link, children),
        Err(refusal) => ExitCause::Refused(refusal),
    };
    link.send(&end, &[]).map_err(text)
}

/// Takes the number `wanted`, which nothing else may have: a program finds what
/// is meant for it there, and nothing by mistake.
fn place(wanted: i32) -> Result<OwnedFd, Failure> {
    let null: OwnedFd = File::open("/dev/null").map_err(text)?.into();
    match null.as_raw_fd() {
        number if number == wanted => Ok(null),
        _ => Err(format!("fd {wanted} is taken")),
    }
}

/// Starts the program; gives what has to stay open for as long as it runs.
/// The values are closed here then.
fn begin(
    task: &ProgramSpec,
    fds: Vec<OwnedFd>,
    places: [OwnedFd; 2],
) -> Result<(Pid, [OwnedFd; 2]), StartRefusal> {
    let system = |errno: Errno| StartRefusal::System(errno.raw_os_error());
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or(StartRefusal::System(libc::EBADF));
    let directory = next()?;
    let program = program::open(directory.as_fd(), &task.program, task.trust_self)?;
    // A script's interpreter opens it again, so the path must hold outside this
    // process: it leads through our own fds, which the script does not have.
    let mut command = Command::new(ours(program.as_fd()));
    command
        .arg0(&task.program)
        .args(&task.arguments)
        .env_clear()
        .envs(task.environment.iter().map(|(key, value)| (key, value)))
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match task.kind {
        ProgramKind::Hook { has_old } => {
            let [old_place, new_place] = &places;
            if has_old {
                jarvis_sys::replace_fd(old_place.as_fd(), next()?.as_fd()).map_err(system)?;
            }
            jarvis_sys::replace_fd(new_place.as_fd(), next()?.as_fd()).map_err(system)?;
            for place in &places {
                fcntl_setfd(place, FdFlags::empty()).map_err(system)?;
            }
            command.env("JARVIS_HOOKS", ours(directory.as_fd()));
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
fn ours(fd: BorrowedFd<'_>) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

/// What is done about the program, and until when.
#[derive(Clone, Copy)]
enum Stage {
    Running(Instant),
    /// It was told to end.
    Ending(Instant),
    /// All that is left is killed.
    Killing(Instant),
}

/// One program and whatever descends from it.
struct Watch {
    /// The program, until it is reaped.
    main: Option<Pid>,
    /// How it ended, once that is decided.
    end: Option<ExitCause>,
    stage: Stage,
}

impl Watch {
    /// Waits for the end of the program, of its time or of the other end of
    /// `link`, and then until nothing is left.
    fn until_all_gone(mut self, link: &KeeperEnd, children: SignalSocket) -> ExitCause {
        loop {
            if self.reap() {
                return self.end.unwrap_or(ExitCause::Lost);
            }
            self.advance();
            let (Stage::Running(until) | Stage::Ending(until) | Stage::Killing(until)) = self.stage;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() && matches!(self.stage, Stage::Killing(_)) {
                // The kernel does not let go of it; nobody should wait for that.
                return self.end.unwrap_or(ExitCause::Lost);
            }
            let hung_up = wait_for(
                &children,
                link,
                left,
                matches!(self.stage, Stage::Running(_)),
            );
            if hung_up && matches!(self.stage, Stage::Running(_)) {
                // Nobody wants to know any more.
                self.cut(ExitCause::Lost);
            }
        }
    }

    /// Reaps who has ended; true when nobody is left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == self.main => {
                    self.main = None;
                    // That it was ended for its time counts more.
                    self.end = self.end.or(Some(match status.exit_status() {
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

    /// Does what is due.
    fn advance(&mut self) {
        let now = Instant::now();
        match self.stage {
            // What it leaves behind is not wanted.
            Stage::Running(_) if self.main.is_none() => {
                self.stage = Stage::Killing(now + LAST_MOMENTS);
            }
            Stage::Running(until) if now >= until => self.cut(ExitCause::TimedOut),
            Stage::Ending(until) if now >= until => {
                self.stage = Stage::Killing(now + LAST_MOMENTS);
            }
            Stage::Running(_) | Stage::Ending(_) | Stage::Killing(_) => {}
        }
        if let Stage::Killing(_) = self.stage {
            self.kill();
        }
    }

    /// Tells the program to end, whose end is `end` then.
    fn cut(&mut self, end: ExitCause) {
        self.end = Some(end);
        if let Some(main) = self.main {
            // It may be gone.
            kill_process_group(main, Signal::TERM).ok();
        }
        self.stage = Stage::Ending(Instant::now() + GRACE);
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

/// Waits for a child's end and, if `wanted`, the other end's; true for the latter.
fn wait_for(children: &SignalSocket, link: &KeeperEnd, left: Duration, wanted: bool) -> bool {
    let mut fds = vec![PollFd::new(children, PollFlags::IN)];
    if wanted {
        fds.push(PollFd::new(link, PollFlags::IN));
    }
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

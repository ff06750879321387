//! The process with the network and without secrets.
//!
//! What must reach outside runs here: hooks, and whoever wants to be notified.
//! It has no root key, no vault and no device. Values for a hook pass through it
//! as fds that it does not read; what it knows of the world comes from the
//! supervisor before the first worker can speak to it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rustix::fs::Mode;
use rustix::net::{Shutdown, shutdown};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Notify;
use crate::ipc::take_stdin;
use crate::process::privileges::drop_privileges;
use crate::process::{Failure, start_logging, text};

pub(crate) mod keeper;
mod sink;
mod webhook;

use crate::ipc::keeper::{ExitCause, KeeperChannel, ProgramKind, ProgramSpec, StartRefusal};
use crate::ipc::runner::{FromRunner, HookRequest, MAX_HOOKS, RunnerConfig, RunnerEnd, ToRunner};
use sink::Sink;

/// Where programs find others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Files that the runner, and each program by itself, may have open.
const MAX_FILES: u64 = 1024;
/// Processes and threads of the runner's user.
const MAX_PROCESSES: u64 = 512;

/// Runs until nobody is left at the other end.
pub(crate) fn main() -> ExitCode {
    crate::process::abort_on_panic();
    rustix::thread::set_name(c"jarvis-runner").ok();
    match take_stdin().map_err(text).and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(link: RunnerEnd) -> Result<(), Failure> {
    jarvis_sys::keep_fds_from_children().map_err(text)?;
    let (ToRunner::Configure(terms), mut fds) = link.receive().map_err(text)? else {
        return Err("the first message did not say who to be".into());
    };
    let hooks = fds.pop();
    let mut sinks = Vec::new();
    for _ in 0..terms.sinks {
        match link.receive().map_err(text)? {
            (ToRunner::AddSink(notify), mut fds) => sinks.push((notify, fds.pop())),
            _ => return Err("fewer sinks came than were announced".into()),
        }
    }
    start_logging(terms.level);
    drop_privileges(terms.user, false).map_err(text)?;
    bound(terms.user.is_some()).map_err(text)?;
    Runner::new(link, terms, hooks, sinks)?.obey()
}

/// Limits for this process and for all that it starts. That none of them gains
/// rights by a set-user-id bit is seen to with the privileges.
fn bound(own_user: bool) -> io::Result<()> {
    let limit = |resource, most: u64| {
        // What is narrower already can't be widened.
        let most = getrlimit(resource)
            .maximum
            .map_or(most, |max| max.min(most));
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)
    };
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, MAX_FILES)?;
    // The limit counts all of a user's processes.
    if own_user {
        limit(Resource::Nproc, MAX_PROCESSES)?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o077));
    Ok(())
}

struct Runner {
    link: Arc<RunnerEnd>,
    terms: RunnerConfig,
    hooks: Option<Arc<OwnedFd>>,
    desk: Arc<Desk>,
    sinks: Vec<Sink>,
}

impl Runner {
    fn new(
        link: RunnerEnd,
        terms: RunnerConfig,
        hooks: Option<OwnedFd>,
        sinks: Vec<(Notify, Option<OwnedFd>)>,
    ) -> Result<Self, Failure> {
        let trust_self = terms.user.is_none();
        let sinks = sinks.into_iter().enumerate();
        let sinks = sinks.map(|(at, (notify, fd))| Sink::start(at + 1, notify, fd, trust_self));
        Ok(Self {
            link: Arc::new(link),
            sinks: sinks.collect::<Result<_, _>>()?,
            terms,
            hooks: hooks.map(Arc::new),
            desk: Arc::default(),
        })
    }

    fn obey(self) -> Result<(), Failure> {
        loop {
            match self.link.receive() {
                Ok((ToRunner::Ping(number), _)) => {
                    self.link
                        .send(&FromRunner::Pong(number), &[])
                        .map_err(text)?;
                }
                Ok((ToRunner::WorkerChanged, _)) => self.desk.change_employer(),
                Ok((ToRunner::Hook(order), fds)) => self.hook(order, fds)?,
                Ok((ToRunner::Notify(id, event), _)) => {
                    let body = event.body(id, &self.terms.host).map_err(text)?;
                    let notice = sink::Notice::new(self.link.clone(), id, body);
                    let wanting = self.sinks.iter().filter(|sink| sink.wants(event.kind()));
                    wanting.for_each(|sink| sink.put(notice.clone()));
                }
                Ok((ToRunner::Configure(_) | ToRunner::AddSink(_), _)) => {
                    return Err("an unexpected message".into());
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(text(error)),
            }
        }
    }

    /// Has a hook run in a thread of its own, which answers.
    fn hook(&self, order: HookRequest, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let refuse = |why| {
            let answer = FromRunner::Hook(order.id, ExitCause::Refused(why));
            self.link.send(&answer, &[]).map_err(text)
        };
        let Some(directory) = self.hooks.clone() else {
            return refuse(StartRefusal::NoDirectory);
        };
        let Some(seat) = Desk::seat(&self.desk, order.id) else {
            return refuse(StartRefusal::Busy);
        };
        let id = order.id;
        let task = task(order, &self.terms);
        let link = self.link.clone();
        let hook = move || {
            let mut all = vec![directory.as_fd()];
            all.extend(fds.iter().map(AsFd::as_fd));
            let end = seat.occupy(|at_work| keep(&task, &all, at_work));
            // Nobody waits for it when the worker is gone.
            link.send(&FromRunner::Hook(id, end), &[]).ok();
        };
        match std::thread::Builder::new().name("hook".into()).spawn(hook) {
            Ok(_) => Ok(()),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EAGAIN);
                let answer = FromRunner::Hook(id, ExitCause::Refused(StartRefusal::System(errno)));
                self.link.send(&answer, &[]).map_err(text)
            }
        }
    }
}

/// What a keeper has to know for `order`.
fn task(order: HookRequest, terms: &RunnerConfig) -> ProgramSpec {
    let phase = order.phase.as_str().to_owned();
    let environment = [
        ("PATH", PATH.to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("JARVIS_SECRET", order.name.clone()),
        ("JARVIS_VERSION", order.version.to_string()),
        ("JARVIS_KID", order.kid),
        ("JARVIS_PHASE", phase.clone()),
    ];
    ProgramSpec {
        program: order.hook.into(),
        arguments: vec![phase, order.name],
        environment: environment.map(|(key, value)| (key.into(), value)).into(),
        kind: ProgramKind::Hook {
            has_old: order.has_old,
        },
        limit_ms: u64::from(terms.hook_secs) * 1000,
        trust_self: terms.user.is_none(),
    }
}

/// Runs one program under a keeper of its own and waits for its end; `at_work`
/// is told the way to the keeper.
fn keep(
    task: &ProgramSpec,
    fds: &[BorrowedFd<'_>],
    at_work: impl FnOnce(Arc<KeeperChannel>),
) -> ExitCause {
    let failed = |error: io::Error| {
        ExitCause::Refused(StartRefusal::System(
            error.raw_os_error().unwrap_or(libc::EIO),
        ))
    };
    let (link, theirs) = match KeeperChannel::pair() {
        Ok(pair) => pair,
        Err(error) => return failed(error),
    };
    let link = Arc::new(link);
    let keeper = Command::new("/proc/self/exe")
        .arg0("jarvis-secretsd")
        .arg("keeper")
        .env_clear()
        .process_group(0)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn();
    let mut keeper = match keeper {
        Ok(keeper) => keeper,
        Err(error) => return failed(error),
    };
    at_work(link.clone());
    let end = link
        .send(task, fds)
        .and_then(|()| link.receive())
        .map_or(ExitCause::Lost, |(end, _)| end);
    // It ends by itself once it has answered, or is gone.
    keeper.wait().ok();
    end
}

/// Which hooks are at work, and for whom.
#[derive(Default)]
struct Desk {
    seats: Mutex<Seats>,
    freed: Condvar,
}

#[derive(Default)]
struct Seats {
    /// Workers so far.
    employer: u64,
    at_work: BTreeMap<u64, (u64, Option<Arc<KeeperChannel>>)>,
}

/// A hook's place among those at work.
struct Seat {
    desk: Arc<Desk>,
    id: u64,
    employer: u64,
}

impl Desk {
    /// Has the hooks end that the worker before asked for: nobody will hear
    /// how they end, and the next one must not meet them.
    fn change_employer(&self) {
        let mut seats = self.seats.lock();
        seats.employer += 1;
        for (_, keeper) in seats.at_work.values() {
            // One that has no keeper yet finds out by itself.
            if let Some(keeper) = keeper {
                shutdown(keeper.as_ref(), Shutdown::Write).ok();
            }
        }
    }

    /// A place, unless all are taken.
    fn seat(desk: &Arc<Self>, id: u64) -> Option<Seat> {
        let mut seats = desk.seats.lock();
        if seats.at_work.len() >= MAX_HOOKS || seats.at_work.contains_key(&id) {
            return None;
        }
        let employer = seats.employer;
        seats.at_work.insert(id, (employer, None));
        Some(Seat {
            desk: desk.clone(),
            id,
            employer,
        })
    }
}

impl Seat {
    /// Runs `work` once no hook of an earlier worker is left.
    fn occupy(
        self,
        work: impl FnOnce(Box<dyn FnOnce(Arc<KeeperChannel>) + '_>) -> ExitCause,
    ) -> ExitCause {
        {
            let mut seats = self.desk.seats.lock();
            let others = |seats: &Seats| seats.at_work.values().any(|(e, _)| *e < self.employer);
            while others(&seats) {
                self.desk.freed.wait(&mut seats);
            }
            if seats.employer != self.employer {
                return ExitCause::Lost;
            }
        }
        work(Box::new(|keeper| self.at_work(keeper)))
    }

    fn at_work(&self, keeper: Arc<KeeperChannel>) {
        let mut seats = self.desk.seats.lock();
        if seats.employer != self.employer {
            // The worker has changed meanwhile.
            shutdown(keeper.as_ref(), Shutdown::Write).ok();
        }
        if let Some((_, place)) = seats.at_work.get_mut(&self.id) {
            *place = Some(keeper);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.desk.seats.lock().at_work.remove(&self.id);
        self.desk.freed.notify_all();
    }
}

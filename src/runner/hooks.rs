//! Hooks: each in a thread of its own, as many at once as there are slots.
//!
//! A value goes from the worker to the hook on a pipe, which is passed as an fd: a pipe's memory
//! is the kernel's, never swapped, and empty once it is read; the runner does not read it. When
//! another worker takes over, the hooks that the last one asked for are ended before any other
//! begins, as nobody will hear how they end. Up to eight run at once; answers come in any order,
//! by the number of the question, which no other worker has used.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rustix::net::{Shutdown, shutdown};

use crate::ipc::keeper::{ExitCause, KeeperChannel, ProgramKind, ProgramSpec, StartRefusal};
use crate::ipc::runner::{FromRunner, HookRequest, MAX_HOOKS, RunnerConfig, RunnerEnd};
use crate::process::spawn;
use crate::runner::keeper::spawn::{KeeperProcess, base_environment};

/// Runs hooks and answers the worker how they ended.
pub(super) struct HookRunner {
    channel: Arc<RunnerEnd>,
    directory: Option<Arc<OwnedFd>>,
    limit_ms: u64,
    /// Files of the own user are trusted like root's.
    trust_self: bool,
    slots: Arc<HookSlots>,
}

impl HookRunner {
    pub(super) fn new(
        channel: Arc<RunnerEnd>,
        directory: Option<OwnedFd>,
        config: &RunnerConfig,
    ) -> Self {
        Self {
            channel,
            directory: directory.map(Arc::new),
            limit_ms: u64::from(config.hook_secs) * 1000,
            trust_self: config.user.is_none(),
            slots: Arc::default(),
        }
    }

    /// Ends the hooks that the worker before asked for: nobody will hear how they
    /// end, and the next one must not meet them.
    pub(super) fn worker_changed(&self) {
        self.slots.worker_changed();
    }

    /// Starts the hook that `request` asks for, or answers why not.
    ///
    /// # Errors
    /// When that answer can't be sent.
    pub(super) fn start(&self, request: HookRequest, fds: Vec<OwnedFd>) -> io::Result<()> {
        let id = request.id;
        match self.try_start(request, fds) {
            Ok(()) => Ok(()),
            Err(refusal) => {
                let answer = FromRunner::Hook(id, ExitCause::Refused(refusal));
                self.channel.send(&answer, &[])
            }
        }
    }

    /// Starts a thread that runs the hook and answers.
    fn try_start(&self, request: HookRequest, fds: Vec<OwnedFd>) -> Result<(), StartRefusal> {
        let directory = self.directory.clone().ok_or(StartRefusal::NoDirectory)?;
        let id = request.id;
        let slot = self.slots.take(id).ok_or(StartRefusal::Busy)?;
        let program = self.program(request);
        let channel = self.channel.clone();
        let hook = move || {
            let mut passed = vec![directory.as_fd()];
            passed.extend(fds.iter().map(AsFd::as_fd));
            // The slot is free before the answer goes out: the worker may ask for
            // the next hook at once.
            let cause = run(slot, &program, &passed);
            // Nobody waits for it when the worker is gone.
            channel.send(&FromRunner::Hook(id, cause), &[]).ok();
        };
        spawn("hook", hook).map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(libc::EAGAIN);
            StartRefusal::System(errno)
        })
    }

    fn program(&self, request: HookRequest) -> ProgramSpec {
        let phase = request.phase.as_str().to_owned();
        let mut environment = base_environment();
        let about = [
            ("JARVIS_SECRET", request.name.clone()),
            ("JARVIS_VERSION", request.version.to_string()),
            ("JARVIS_KID", request.kid),
            ("JARVIS_PHASE", phase.clone()),
        ];
        environment.extend(about.map(|(key, value)| (key.into(), value)));
        ProgramSpec {
            program: request.hook.into(),
            arguments: vec![phase, request.name],
            environment,
            kind: ProgramKind::Hook {
                has_old: request.has_old,
            },
            limit_ms: self.limit_ms,
            trust_self: self.trust_self,
        }
    }
}

/// Runs `program` once no hook of an earlier worker is left, and waits for its end.
fn run(slot: HookSlot, program: &ProgramSpec, fds: &[BorrowedFd<'_>]) -> ExitCause {
    if !slot.wait_for_turn() {
        return ExitCause::Lost;
    }
    match KeeperProcess::spawn() {
        Ok(keeper) => {
            slot.set_keeper(keeper.channel());
            keeper.run(program, fds)
        }
        Err(refusal) => ExitCause::Refused(refusal),
    }
}

/// Slots for [`MAX_HOOKS`] hooks.
#[derive(Default)]
struct HookSlots {
    table: Mutex<SlotTable>,
    freed: Condvar,
}

#[derive(Default)]
struct SlotTable {
    /// Workers so far; the number of the one that is served.
    worker: u64,
    /// Hooks at work by their ids.
    taken: BTreeMap<u64, TakenSlot>,
}

struct TakenSlot {
    /// The worker that asked.
    worker: u64,
    /// The keeper, once it is started.
    keeper: Option<Arc<KeeperChannel>>,
}

impl HookSlots {
    fn worker_changed(&self) {
        let mut table = self.table.lock();
        table.worker += 1;
        // A hook without a keeper learns of it when it has one.
        for keeper in table.taken.values().filter_map(|slot| slot.keeper.as_ref()) {
            hang_up(keeper);
        }
    }

    /// A slot for hook `id`, unless all are taken.
    fn take(self: &Arc<Self>, id: u64) -> Option<HookSlot> {
        let mut table = self.table.lock();
        if table.taken.len() >= MAX_HOOKS || table.taken.contains_key(&id) {
            return None;
        }
        let worker = table.worker;
        let keeper = None;
        table.taken.insert(id, TakenSlot { worker, keeper });
        Some(HookSlot {
            slots: self.clone(),
            id,
            worker,
        })
    }
}

/// Tells a keeper that nobody waits for its program, which it ends then.
fn hang_up(keeper: &KeeperChannel) {
    // It may be gone.
    shutdown(keeper, Shutdown::Write).ok();
}

/// One hook's slot, which is free again when this is dropped.
struct HookSlot {
    slots: Arc<HookSlots>,
    id: u64,
    worker: u64,
}

impl HookSlot {
    /// Waits until no hook of an earlier worker is left; false when the own
    /// worker is gone by then.
    fn wait_for_turn(&self) -> bool {
        let mut table = self.slots.table.lock();
        while table.taken.values().any(|slot| slot.worker < self.worker) {
            self.slots.freed.wait(&mut table);
        }
        table.worker == self.worker
    }

    /// Has `keeper` hung up on when the worker changes, or at once when it has
    /// changed meanwhile.
    fn set_keeper(&self, keeper: Arc<KeeperChannel>) {
        let mut table = self.slots.table.lock();
        if table.worker != self.worker {
            hang_up(&keeper);
        }
        if let Some(slot) = table.taken.get_mut(&self.id) {
            slot.keeper = Some(keeper);
        }
    }
}

impl Drop for HookSlot {
    fn drop(&mut self) {
        self.slots.table.lock().taken.remove(&self.id);
        self.slots.freed.notify_all();
    }
}

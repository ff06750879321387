//! Identity of callers: what the kernel, and for programs the supervisor, tells of a thread.
//!
//! When a thread first reads a secret, the worker asks the supervisor which program it runs:
//! /proc/PID/exe takes a privilege that the worker has not. A thread of the supervisor's
//! answers, one for each worker, because `/proc` can make one wait; the read waits at most
//! 100 ms, and after an answer that did not come nobody asks for ten seconds. Who depends on
//! a secret (`impact`, `adoption`, `graph`) is what the log says: nothing else is kept.
//! The same thread of the supervisor's tells whose a user namespace is; whose subordinate ids
//! are is read with the policy.
//!
//! Runs in: the worker.
//! Touches: the socket for questions about programs; no plaintext, no policy.
//! Imported by: gate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jarvis_fs::{Caller, CallerIds, KernelIds, NamespaceOwner, ThreadIds};
use rustix::io::Errno;

use crate::common::subordinate_ids::{self, IdOwner};

mod client;
mod exe;
mod owner;

pub(crate) use client::ThreadClient;
use exe::ExeLookup;
use owner::OwnerLookup;

/// Whether the policy in force asks for groups.
pub(crate) type ReadsGroups = Box<dyn Fn() -> bool + Send + Sync>;

/// The callers of this mount.
pub(crate) struct Callers {
    /// The kernel tells a thread's ids without `/proc` (Linux 6.13).
    quick: AtomicBool,
    reads_groups: ReadsGroups,
    programs: ExeLookup,
    owners: OwnerLookup,
}

impl Callers {
    pub(crate) fn new(client: ThreadClient, reads_groups: ReadsGroups) -> Arc<Self> {
        let client = Arc::new(client);
        Arc::new(Self {
            quick: AtomicBool::new(true),
            reads_groups,
            programs: ExeLookup::new(client.clone()),
            owners: OwnerLookup::new(client),
        })
    }

    /// The program of `caller`, unless it was asked for a moment ago when the same
    /// thread read the same `secret`.
    pub(crate) fn exe_at_first_read(&self, caller: &Caller, secret: u64) -> Option<String> {
        self.programs.exe_at_first_read(caller, secret)
    }
}

impl CallerIds for Callers {
    fn thread_ids(&self, tid: u32) -> Option<ThreadIds> {
        if !self.quick.load(Ordering::Relaxed) || (self.reads_groups)() {
            return None;
        }
        match jarvis_sys::thread(tid) {
            Ok(thread) => Some(ThreadIds {
                process: thread.process,
                real: (thread.uids.real, thread.gids.real),
                fs: (thread.uids.fs, thread.gids.fs),
                kernel_ids: KernelIds {
                    cgroup: thread.cgroup,
                    thread: thread.number,
                },
            }),
            // `/proc` will tell whether it vanished or the kernel is too old.
            Err(Errno::SRCH) => None,
            Err(_) => {
                self.quick.store(false, Ordering::Relaxed);
                None
            }
        }
    }

    fn namespace_owner(&self, caller: &Caller) -> NamespaceOwner {
        self.owners.owner_for(caller)
    }

    fn subordinate_owner(&self, uid: u32, gid: u32) -> Option<NamespaceOwner> {
        subordinate_ids::owner_of(uid, gid).map(|owner| match owner {
            IdOwner::User(uid) => NamespaceOwner::User(uid),
            // Every denial hits.
            IdOwner::Several => NamespaceOwner::Unknown,
        })
    }
}

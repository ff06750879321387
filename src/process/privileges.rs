//! Giving up what a process without secrets, or with them, must not have.

use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capabilities, set_capabilities, set_keep_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// Becomes `user` and nothing more; dies with the supervisor.
///
/// # Errors
/// The kernel's errno: then nothing may be served.
pub fn drop_privileges(user: Option<(u32, u32)>, keep_lock: bool) -> Result<(), rustix::io::Errno> {
    let root = rustix::process::geteuid().is_root();
    let supervisor = getppid();
    if root {
        set_keep_capabilities(true)?;
    }
    if let Some((uid, gid)) = user {
        set_thread_groups(&[])?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
    }
    if root {
        // Locking memory is all that may be left, where the limit stands.
        let kept = if keep_lock {
            capabilities(None)?.permitted & CapabilitySet::IPC_LOCK
        } else {
            CapabilitySet::empty()
        };
        let sets = CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets)?;
    }
    set_no_new_privs(true)?;
    // A change of user resets both.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() == supervisor {
        Ok(())
    } else {
        // It died before it could be watched.
        Err(rustix::io::Errno::SRCH)
    }
}

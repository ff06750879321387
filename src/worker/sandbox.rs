//! The sandbox leaves a worker one user's rights, a few files, a few calls.
//!
//! Runs in: the worker, before it opens anything.
//! Touches: the rights of its own process.
//! Imported by: startup.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::process::{Pid, Resource, Rlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// Why the sandbox could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Landlock refused.
    #[error(transparent)]
    Files(#[from] landlock::RulesetError),
    /// The filter could not be built.
    #[error(transparent)]
    Filter(#[from] seccompiler::BackendError),
    /// The kernel refused the filter.
    #[error(transparent)]
    Seccomp(#[from] seccompiler::Error),
}

/// System calls a worker makes, and what for. Everything else is EPERM.
const CALLS: &[(libc::c_long, &str)] = &[
    (libc::SYS_read, "device, vault, /proc, sockets"),
    (
        libc::SYS_write,
        "audit log, notices to the kernel, messages",
    ),
    (libc::SYS_readv, "std reads into several buffers"),
    (libc::SYS_writev, "replies to the kernel"),
    (libc::SYS_pread64, "vault"),
    (libc::SYS_pwrite64, "vault"),
    (libc::SYS_lseek, "vault, audit log"),
    (
        libc::SYS_openat,
        "vault, audit log, /proc; Landlock says which",
    ),
    (libc::SYS_close, "whatever was opened"),
    (libc::SYS_fstat, "modes of vault and audit log"),
    (libc::SYS_newfstatat, "the same by path"),
    (libc::SYS_statx, "the same as std does it"),
    (libc::SYS_faccessat, "whether the vault can be written"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_access, "the same on this machine"),
    (libc::SYS_ftruncate, "vault grows, torn records are cut"),
    (libc::SYS_fallocate, "vault grows"),
    (libc::SYS_fsync, "vault, audit log"),
    (libc::SYS_fdatasync, "vault, audit log"),
    (
        libc::SYS_flock,
        "one worker at a time has vault and audit log",
    ),
    (libc::SYS_fcntl, "duplicates and flags of fds"),
    (libc::SYS_getdents64, "segments of the audit log"),
    (libc::SYS_readlinkat, "/proc/self"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_readlink, "/proc/self"),
    (libc::SYS_unlinkat, "half a copy of a torn record"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "half a copy of a torn record"),
    (libc::SYS_pipe2, "values for hooks"),
    (libc::SYS_pidfd_open, "who is calling"),
    (libc::SYS_mmap, "memory, the tables of the supervisor"),
    (libc::SYS_munmap, "memory"),
    (libc::SYS_mremap, "memory"),
    (libc::SYS_mprotect, "thread stacks"),
    (libc::SYS_madvise, "memory; key pages out of dumps"),
    (libc::SYS_mlock, "key pages"),
    (libc::SYS_mlock2, "key pages"),
    (libc::SYS_brk, "memory"),
    (libc::SYS_futex, "locks"),
    (libc::SYS_membarrier, "locks of libraries"),
    (
        libc::SYS_clone3,
        "refused with ENOSYS by another filter, so that clone is tried",
    ),
    (libc::SYS_set_robust_list, "threads"),
    (libc::SYS_rseq, "threads"),
    (libc::SYS_sched_yield, "waiting for another thread"),
    (libc::SYS_sched_getaffinity, "number of cores"),
    (libc::SYS_gettid, "threads"),
    (libc::SYS_getpid, "threads"),
    (libc::SYS_geteuid, "NSS"),
    (libc::SYS_getuid, "NSS"),
    (libc::SYS_getgid, "NSS"),
    (libc::SYS_getegid, "NSS"),
    (libc::SYS_rt_sigaction, "threads"),
    (libc::SYS_rt_sigprocmask, "threads"),
    (libc::SYS_rt_sigreturn, "signals"),
    (libc::SYS_sigaltstack, "threads"),
    (libc::SYS_restart_syscall, "after a stop"),
    (
        libc::SYS_clock_gettime,
        "time, where the vDSO does not have it",
    ),
    (libc::SYS_clock_nanosleep, "housekeeping"),
    (libc::SYS_nanosleep, "housekeeping"),
    (libc::SYS_getrandom, "nonces, keys"),
    (libc::SYS_ppoll, "HTTP time limits"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_poll, "HTTP time limits"),
    (libc::SYS_accept4, "HTTP"),
    (libc::SYS_recvfrom, "HTTP"),
    (libc::SYS_shutdown, "HTTP"),
    (libc::SYS_setsockopt, "HTTP time limits"),
    (libc::SYS_getsockname, "HTTP"),
    (libc::SYS_getpeername, "HTTP"),
    (libc::SYS_recvmsg, "messages of the supervisor"),
    (libc::SYS_sendmsg, "messages to the supervisor"),
    (libc::SYS_exit, "threads"),
    (libc::SYS_exit_group, "the end"),
];

/// `PIDFD_GET_INFO` of 64 bytes.
const PIDFD_GET_INFO: u64 = 0xC040_FF0B;
const PR_SET_NAME: u64 = 15;

/// Lets the process lock all memory it will need; gives whether it must keep
/// the capability for it instead.
pub(super) fn lift_memory_limit() -> bool {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    rustix::process::setrlimit(Resource::Memlock, unlimited).is_err()
}

/// Shuts the calling thread, and all that it starts, in for good; `directories`
/// (of the vault and of the audit log) stay writable.
///
/// # Errors
/// What the kernel lacks or refuses.
pub fn enter(directories: &[OwnedFd]) -> Result<(), SandboxError> {
    match confine_files(directories)? {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => {}
        RulesetStatus::NotEnforced => {
            tracing::warn!("this kernel has no Landlock: the worker's files are not confined");
        }
    }
    for program in [no_clone3()?, allowed_calls()?] {
        seccompiler::apply_filter(&program)?;
    }
    Ok(())
}

fn confine_files(directories: &[OwnedFd]) -> Result<RulesetStatus, landlock::RulesetError> {
    let newest = ABI::V6;
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?;
    let write = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile;
    for directory in directories {
        ruleset = ruleset.add_rule(PathBeneath::new(directory, write))?;
    }
    // Callers; and accounts, for the names in a policy.
    let tree = AccessFs::ReadFile | AccessFs::ReadDir;
    let file: BitFlags<AccessFs> = AccessFs::ReadFile.into();
    for (path, access) in [
        ("/proc", tree),
        ("/lib", tree),
        ("/lib64", tree),
        ("/usr/lib", tree),
        ("/usr/lib64", tree),
        // Not the files by themselves: useradd(8) puts new ones in their place.
        ("/etc", file),
    ] {
        ruleset = allow(ruleset, path, access)?;
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// Allows `access` below `path`; a path that is not there needs no rule.
fn allow(
    ruleset: RulesetCreated,
    path: &str,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, landlock::RulesetError> {
    match PathFd::new(path) {
        Ok(fd) => ruleset.add_rule(PathBeneath::new(fd, access)),
        Err(_) => Ok(ruleset),
    }
}

fn equals(
    argument: u8,
    width: Width,
    value: u64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = SeccompCondition::new(argument, width, Is::Eq, value)?;
    SeccompRule::new(vec![condition])
}

fn allowed_calls() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (call, _why) in CALLS {
        rules.insert(*call, Vec::new());
    }
    let thread = libc::CLONE_THREAD as u64;
    let thread = SeccompCondition::new(0, Width::Qword, Is::MaskedEq(thread), thread);
    let thread = SeccompRule::new(vec![thread?])?;
    rules.insert(libc::SYS_clone, vec![thread]);
    let own = u64::try_from(Pid::as_raw(Some(rustix::process::getpid()))).unwrap_or_default();
    // abort(3) signals the own process.
    rules.insert(libc::SYS_tgkill, vec![equals(0, Width::Dword, own)?]);
    rules.insert(
        libc::SYS_ioctl,
        vec![equals(1, Width::Dword, PIDFD_GET_INFO)?],
    );
    // On what is connected: with an address, a socket that is not would reach others.
    rules.insert(libc::SYS_sendto, vec![equals(4, Width::Qword, 0)?]);
    rules.insert(libc::SYS_prctl, vec![equals(0, Width::Dword, PR_SET_NAME)?]);
    let denied = u32::try_from(libc::EPERM).unwrap_or_default();
    program(rules, SeccompAction::Errno(denied), SeccompAction::Allow)
}

/// clone3 hides its flags behind a pointer; ENOSYS makes the C library use clone.
fn no_clone3() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let missing = u32::try_from(libc::ENOSYS).unwrap_or_default();
    program(rules, SeccompAction::Allow, SeccompAction::Errno(missing))
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, otherwise, matching, arch).and_then(TryInto::try_into)
}

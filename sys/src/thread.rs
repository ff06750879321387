//! The ids of a thread, asked of the kernel in one cheap call.

use rustix::io;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// User or group ids of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Real id.
    pub real: u32,
    /// File-system id.
    pub fs: u32,
}

/// A thread as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Process of the thread (thread group leader).
    pub process: u32,
    /// User ids.
    pub uids: Ids,
    /// Group ids.
    pub gids: Ids,
    /// Number of the thread's cgroup in the unified hierarchy.
    pub cgroup: Option<u64>,
    /// Inode of the thread's pidfd: no other thread has this number until the machine
    /// is started anew.
    pub number: u64,
}

/// `struct pidfd_info` as of Linux 6.13 (`PIDFD_INFO_SIZE_VER0`, 64 bytes).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ruid: u32,
    rgid: u32,
    euid: u32,
    egid: u32,
    suid: u32,
    sgid: u32,
    fsuid: u32,
    fsgid: u32,
    spare: u32,
}

const PIDFD_GET_INFO: Opcode = opcode::read_write::<PidfdInfo>(0xFF, 11);
/// `PIDFD_INFO_PID | PIDFD_INFO_CREDS`
const PID_AND_CREDENTIALS: u64 = 0b11;
/// `PIDFD_INFO_CGROUPID`
const CGROUP: u64 = 0b100;
/// `PIDFD_THREAD` (Linux 6.9): the thread itself, not its process.
const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(0o200);

/// Asks about thread `tid` of our pid namespace (`PIDFD_GET_INFO`, Linux 6.13):
/// a third of the time that `/proc/TID/status` takes, but without groups.
///
/// # Errors
/// ESRCH when there is no such thread; EINVAL or ENOTTY from an older kernel.
pub fn thread(tid: u32) -> io::Result<Thread> {
    let tid = i32::try_from(tid).ok().and_then(Pid::from_raw);
    let pidfd = pidfd_open(tid.ok_or(io::Errno::SRCH)?, THREAD)?;
    let mut info = PidfdInfo {
        mask: PID_AND_CREDENTIALS | CGROUP,
        ..PidfdInfo::default()
    };
    // SAFETY: the kernel writes at most the structure's size, which is part of
    // the opcode, and any bits are valid in it. Unsafe is needed: no library
    // wraps this ioctl.
    unsafe { ioctl(&pidfd, Updater::<PIDFD_GET_INFO, _>::new(&mut info))? };
    if info.mask & PID_AND_CREDENTIALS != PID_AND_CREDENTIALS || info.tgid == 0 {
        return Err(io::Errno::SRCH);
    }
    Ok(Thread {
        process: info.tgid,
        uids: Ids {
            real: info.ruid,
            fs: info.fsuid,
        },
        gids: Ids {
            real: info.rgid,
            fs: info.fsgid,
        },
        cgroup: (info.mask & CGROUP != 0).then_some(info.cgroup),
        number: rustix::fs::fstat(&pidfd)?.st_ino,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::gettid;

    #[test]
    fn a_thread_is_told_from_its_process() {
        let (tid, thread) = std::thread::spawn(|| {
            let tid = gettid().as_raw_nonzero().get().unsigned_abs();
            (tid, thread(tid).unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(thread.process, std::process::id());
        assert_ne!(tid, thread.process);
        let own = super::thread(thread.process).unwrap();
        assert_ne!(own.number, thread.number);
        assert_eq!(own.number, super::thread(thread.process).unwrap().number);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        for (key, ids) in [("Uid:", thread.uids), ("Gid:", thread.gids)] {
            let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap();
            let numbers: Vec<u32> = line
                .split_whitespace()
                .map(|n| n.parse().unwrap())
                .collect();
            assert_eq!([numbers[0], numbers[3]], [ids.real, ids.fs]);
        }
    }

    #[test]
    fn nobody_is_behind_an_unused_number() {
        for tid in [0, u32::MAX, 0x3FFF_FFFF] {
            assert_eq!(thread(tid), Err(io::Errno::SRCH), "{tid}");
        }
    }
}

//! Callers: the ids that a request carries, checked against the thread itself.
//!
//! Runs in: worker; the check of `/proc` also in supervisor and jarvisctl.
//! Touches: `/proc` of callers. No plaintext.
//! Imported by: filesystem, control, adapter, attr, tree.
//!
//! The header of a FUSE request carries the fsuid, but a file system stacked on
//! ours (overlayfs) or an io_uring personality puts another one there.
//! `/proc/TID/status` shows the thread itself, so both must agree. A caller that
//! waits for our answer cannot go away, so its `/proc` entry is its own; after
//! the answer the number may belong to anyone, and nothing is cached by pid.

pub(crate) mod cgroup;
pub(crate) mod containment;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::caller::cgroup::{KernelIds, Workload, is_in_a_container};
use crate::caller::containment::{
    Containment, NamespaceOwner, has_the_hosts_root, is_in_our_user_namespace,
};

/// Largest `/proc/TID/status` accepted: 65,536 groups take some 450 KiB.
const MAX_STATUS: u64 = 1024 * 1024;
/// Generations of processes that are looked through for who opened a file: a shell, what it
/// runs, and so on.
const MAX_ANCESTORS: usize = 8;

/// The ids in a request's header; not yet believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderIds {
    /// fsuid (real uid for `access`).
    pub uid: u32,
    /// fsgid (real gid for `access`).
    pub gid: u32,
    /// Thread id in the mount's pid namespace; 0 = outside of it.
    pub tid: u32,
}

/// A caller whose identity holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User id, as the header and `/proc` agree.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups; `None` when [`ThreadIds`] were enough.
    pub groups: Option<Vec<u32>>,
    /// Process id (thread group leader).
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Surroundings whose ids are not the host's. A pid namespace is only looked for
    /// where groups are, another root directory where id 0 is involved, whose meaning
    /// depends on it.
    pub containment: Option<Containment>,
    /// The kernel's numbers for thread and cgroup, where it told them.
    pub kernel_ids: Option<KernelIds>,
    /// The unit and container, for records; only asked for where there will be one.
    pub workload: Option<Arc<Workload>>,
}

impl Caller {
    /// The owner of its user namespace, if that is another than ours, or of its ids, if they
    /// are for such namespaces.
    #[must_use]
    pub fn foreign(&self) -> Option<NamespaceOwner> {
        match self.containment {
            Some(Containment::UserNamespace(owner) | Containment::SubordinateIds(owner)) => {
                Some(owner)
            }
            Some(Containment::PidNamespace | Containment::Engine | Containment::RootDirectory)
            | None => None,
        }
    }

    /// The number that it is counted under: its uid, or who answers for it.
    #[must_use]
    pub fn account(&self) -> u32 {
        self.foreign().map_or(self.uid, NamespaceOwner::account)
    }
}

/// Why a caller has no identity; always a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// pid 0: the caller is outside of the mount's pid namespace.
    #[error("caller outside of the daemon's pid namespace")]
    OutsideNamespace,
    /// uid or gid -1: not mapped.
    #[error("unmapped user or group")]
    Unmapped,
    /// `/proc/TID/status` is gone or cannot be read.
    #[error("process vanished")]
    Vanished,
    /// The request carries another uid or gid than the thread has.
    #[error("request carries other credentials than its process")]
    Forged,
}

/// A thread's ids as the kernel tells them without its `/proc` files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadIds {
    /// Process id (thread group leader).
    pub process: u32,
    /// Real uid and gid.
    pub real: (u32, u32),
    /// File-system uid and gid.
    pub fs: (u32, u32),
    /// The kernel's numbers for thread and cgroup.
    pub kernel_ids: KernelIds,
}

/// Which of a thread's ids the header of a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CarriedIds {
    /// The file-system ids: every request but ACCESS.
    FileSystem,
    /// Real or file-system ids: `access` swaps the real ones in, `faccessat`
    /// with AT_EACCESS and `chdir` do not.
    RealOrFileSystem,
}

impl CarriedIds {
    /// Whether `header` has the thread's `real` or `fs` uid and gid.
    fn agree(self, header: HeaderIds, real: (u32, u32), fs: (u32, u32)) -> bool {
        let claimed = (header.uid, header.gid);
        match self {
            Self::FileSystem => fs == claimed,
            Self::RealOrFileSystem => fs == claimed || real == claimed,
        }
    }
}

impl HeaderIds {
    /// Believes the header, or says why not: by what `thread_ids` tells of the
    /// thread, else by `/proc`. The owner of another user namespace is left open. Only to be called while the caller waits in OPEN,
    /// GETATTR, ACCESS, READDIR or an xattr call.
    pub(crate) fn identify(
        self,
        carried: CarriedIds,
        thread_ids: impl FnOnce(u32) -> Option<ThreadIds>,
    ) -> Result<Caller, IdentityError> {
        if self.tid == 0 {
            return Err(IdentityError::OutsideNamespace);
        }
        if self.uid == u32::MAX || self.gid == u32::MAX {
            return Err(IdentityError::Unmapped);
        }
        // What uid 0 means depends on its namespaces.
        let ids = (self.uid != 0).then(|| thread_ids(self.tid)).flatten();
        let mut caller = match ids {
            Some(ids) => self.identify_by_ids(&ids, carried),
            None => self.identify_by_status(carried),
        }?;
        // Of every uid: who has subordinate ids is whom they like in a namespace of theirs.
        if !is_in_our_user_namespace(self.tid) {
            let owner = NamespaceOwner::Unknown;
            caller.containment = Some(Containment::UserNamespace(owner));
        }
        Ok(caller)
    }

    fn identify_by_ids(
        self,
        ids: &ThreadIds,
        carried: CarriedIds,
    ) -> Result<Caller, IdentityError> {
        if !carried.agree(self, ids.real, ids.fs) {
            return Err(IdentityError::Forged);
        }
        Ok(Caller {
            uid: self.uid,
            gid: self.gid,
            groups: None,
            pid: ids.process,
            tid: self.tid,
            containment: None,
            kernel_ids: Some(ids.kernel_ids),
            workload: None,
        })
    }

    fn identify_by_status(self, carried: CarriedIds) -> Result<Caller, IdentityError> {
        let mut buffer = [0; 4096];
        let mut long = Vec::new();
        let bytes =
            read_status(self.tid, &mut buffer, &mut long).map_err(|_| IdentityError::Vanished)?;
        let status = Status::parse(bytes).ok_or(IdentityError::Vanished)?;
        if !status.agrees(self, carried) {
            return Err(IdentityError::Forged);
        }
        let root_involved = self.uid == 0 || self.gid == 0 || status.groups.contains(&0);
        let containment = if status.nested {
            Some(Containment::PidNamespace)
        } else if !root_involved {
            None
        } else if !has_the_hosts_root(self.tid) {
            Some(Containment::RootDirectory)
        } else {
            // One that was given the host's root directory can take it as its own.
            is_in_a_container(self.tid).then_some(Containment::Engine)
        };
        Ok(Caller {
            uid: self.uid,
            gid: self.gid,
            containment,
            groups: Some(status.groups),
            pid: status.tgid,
            tid: self.tid,
            kernel_ids: None,
            workload: None,
        })
    }
}

/// Process `pid` and those that it descends from, the nearest ones, as far as they live.
/// Only to be called while a caller of that process waits in GETATTR or an xattr call.
pub(crate) fn ancestors(pid: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(pid), |&pid| parent(pid)).take(MAX_ANCESTORS)
}

fn parent(pid: u32) -> Option<u32> {
    let (mut buffer, mut long) = ([0; 4096], Vec::new());
    let status = read_status(pid, &mut buffer, &mut long).ok()?;
    let mut lines = status.split(|&byte| byte == b'\n');
    let number = lines.find_map(|line| line.strip_prefix(b"PPid:"))?;
    let number: u32 = str::from_utf8(number).ok()?.trim().parse().ok()?;
    (number > 1).then_some(number)
}

/// The status file in `buffer`, or in `long` when it is larger.
fn read_status<'b>(tid: u32, buffer: &'b mut [u8], long: &'b mut Vec<u8>) -> io::Result<&'b [u8]> {
    let mut file = File::open(format!("/proc/{tid}/status"))?;
    let mut len = 0;
    while let Some(rest) = buffer.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read(rest)? {
            0 => break,
            n => len += n,
        }
    }
    if len < buffer.len() {
        return Ok(buffer.get(..len).unwrap_or_default());
    }
    long.extend_from_slice(buffer);
    file.take(MAX_STATUS).read_to_end(long)?;
    Ok(long.as_slice())
}

/// The lines of `/proc/TID/status` that matter (proc_pid_status(5)).
#[derive(Debug, PartialEq, Eq)]
struct Status {
    tgid: u32,
    /// real, effective, saved, file system
    uids: [u32; 4],
    gids: [u32; 4],
    groups: Vec<u32>,
    /// The process lives in a pid namespace below ours.
    nested: bool,
}

impl Status {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (mut tgid, mut uids, mut gids, mut groups, mut nested) = (None, None, None, None, None);
        // The name comes first and is the process's own, any bytes: a name that is too
        // long is cut, also inside a character. The kernel escapes newlines in it, so
        // every other line starts where it says, and those are ASCII.
        for line in bytes.split(|&byte| byte == b'\n') {
            let Some((key, value)) = str::from_utf8(line).ok().and_then(|l| l.split_once(':'))
            else {
                continue;
            };
            let mut numbers = value.split_ascii_whitespace().map(str::parse::<u32>);
            match key {
                "Tgid" => tgid = numbers.next()?.ok(),
                "Uid" => uids = four(&mut numbers),
                "Gid" => gids = four(&mut numbers),
                "Groups" => groups = Some(numbers.collect::<Result<Vec<_>, _>>().ok()?),
                "NSpid" => nested = Some(numbers.count() > 1),
                _ => {}
            }
        }
        Some(Self {
            tgid: tgid?,
            uids: uids?,
            gids: gids?,
            groups: groups?,
            nested: nested?,
        })
    }

    fn agrees(&self, header: HeaderIds, carried: CarriedIds) -> bool {
        let [real_uid, _, _, fs_uid] = self.uids;
        let [real_gid, _, _, fs_gid] = self.gids;
        carried.agree(header, (real_uid, real_gid), (fs_uid, fs_gid))
    }
}

fn four<E>(numbers: &mut impl Iterator<Item = Result<u32, E>>) -> Option<[u32; 4]> {
    let mut next = || numbers.next()?.ok();
    Some([next()?, next()?, next()?, next()?])
}

/// Why `/proc` cannot tell who is calling, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// `/proc` is not mounted, or closed to us.
    #[error("/proc cannot be read ({0}); mount it")]
    Unreadable(io::Error),
    /// `/proc` shows the processes of another namespace.
    #[error(
        "/proc belongs to another pid namespace, callers cannot be identified; mount a proc of \
         this namespace on /proc"
    )]
    OtherNamespace,
    /// The list of mounts, which shows the options of `/proc`, cannot be read.
    #[error("/proc/self/mountinfo cannot be read ({0})")]
    NoMountinfo(io::Error),
    /// `/proc` shows each user their own processes only.
    #[error(
        "/proc is mounted with hidepid, callers cannot be identified; remount it with hidepid=0"
    )]
    HidesProcesses,
}

/// Whether `/proc` can tell who is calling: it must belong to our pid namespace
/// and show every process.
///
/// # Errors
/// [`ProcError`].
pub fn check_proc() -> Result<(), ProcError> {
    let own = std::fs::read_link("/proc/self").map_err(ProcError::Unreadable)?;
    if own != Path::new(&std::process::id().to_string()) {
        return Err(ProcError::OtherNamespace);
    }
    let mounts = std::fs::read("/proc/self/mountinfo").map_err(ProcError::NoMountinfo)?;
    // A mount point may be any bytes; the line of `/proc` is ASCII.
    if String::from_utf8_lossy(&mounts)
        .lines()
        .any(hides_processes)
    {
        return Err(ProcError::HidesProcesses);
    }
    Ok(())
}

/// Whether this process is in a pid namespace of its own: callers outside of it have no
/// number in it, so they are nobody.
///
/// # Errors
/// The system's answer.
pub fn in_own_pid_namespace() -> io::Result<bool> {
    // The kernel's number of the first pid namespace, a constant (PROC_PID_INIT_INO).
    const FIRST: u64 = 0xEFFF_FFFC;
    Ok(std::fs::metadata("/proc/self/ns/pid")?.ino() != FIRST)
}

fn hides_processes(line: &str) -> bool {
    let mut fields = line.split(' ');
    let on_proc = fields.nth(4) == Some("/proc");
    let hidden = fields
        .flat_map(|field| field.split(','))
        .filter_map(|option| option.strip_prefix("hidepid="))
        .any(|value| value != "0" && value != "off");
    on_proc && hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tcat\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t4711\n\
        Ngid:\t0\nPid:\t4712\nUid:\t1000\t0\t0\t1001\nGid:\t100\t5\t5\t101\n\
        FDSize:\t64\nGroups:\t4 27 100 \nNStgid:\t4711\nNSpid:\t4712\n";

    #[test]
    fn status_is_read() {
        let status = Status::parse(STATUS.as_bytes()).unwrap();
        assert_eq!(status.tgid, 4711);
        assert_eq!(status.uids, [1000, 0, 0, 1001]);
        assert_eq!(status.gids, [100, 5, 5, 101]);
        assert_eq!(status.groups, [4, 27, 100]);
        assert!(!status.nested);
    }

    #[test]
    fn a_name_cut_inside_a_character_hides_nothing() {
        let name = b"Name:\tgebl\xc3\n";
        let cut = [
            name,
            STATUS.strip_prefix("Name:\tcat\n").unwrap().as_bytes(),
        ]
        .concat();
        assert!(str::from_utf8(&cut).is_err());
        assert_eq!(Status::parse(&cut), Status::parse(STATUS.as_bytes()));
    }

    #[test]
    fn a_nested_pid_namespace_is_seen() {
        let text = STATUS.replace("NSpid:\t4712", "NSpid:\t4712\t7");
        assert!(Status::parse(text.as_bytes()).unwrap().nested);
    }

    #[test]
    fn a_missing_line_is_no_identity() {
        for key in ["Tgid", "Uid", "Gid", "Groups", "NSpid"] {
            let text = STATUS.replace(&format!("\n{key}:"), "\nOther:");
            assert_eq!(Status::parse(text.as_bytes()), None, "{key}");
        }
    }

    #[test]
    fn header_and_status_must_agree() {
        let status = Status::parse(STATUS.as_bytes()).unwrap();
        let header = |uid, gid| HeaderIds { uid, gid, tid: 1 };
        assert!(status.agrees(header(1001, 101), CarriedIds::FileSystem));
        assert!(!status.agrees(header(1000, 100), CarriedIds::FileSystem));
        assert!(status.agrees(header(1000, 100), CarriedIds::RealOrFileSystem));
        assert!(!status.agrees(header(1000, 101), CarriedIds::RealOrFileSystem));
        assert!(!status.agrees(header(0, 5), CarriedIds::RealOrFileSystem));
    }

    #[test]
    fn this_process_is_who_it_is() {
        let tid = std::process::id();
        let status = std::fs::read(format!("/proc/{tid}/status")).unwrap();
        let status = Status::parse(&status).unwrap();
        let header = HeaderIds {
            uid: status.uids[3],
            gid: status.gids[3],
            tid,
        };
        let status_only = |header: HeaderIds| header.identify(CarriedIds::FileSystem, |_| None);
        let caller = status_only(header).unwrap();
        assert_eq!((caller.pid, caller.uid), (tid, status.uids[3]));
        let forged = HeaderIds {
            uid: status.uids[3] + 1,
            ..header
        };
        assert_eq!(status_only(forged), Err(IdentityError::Forged));
    }

    #[test]
    fn thread_ids_must_agree_too_and_do_for_root_only_with_status() {
        let thread_ids = ThreadIds {
            process: 7,
            real: (1000, 100),
            fs: (1001, 101),
            kernel_ids: KernelIds {
                cgroup: None,
                thread: 9,
            },
        };
        let tid = std::process::id();
        let identify =
            |uid, gid, ids| HeaderIds { uid, gid, tid }.identify(ids, |_| Some(thread_ids));
        let caller = identify(1001, 101, CarriedIds::FileSystem).unwrap();
        assert_eq!((caller.pid, caller.groups), (7, None));
        let forged = Err(IdentityError::Forged);
        assert_eq!(identify(1000, 100, CarriedIds::FileSystem), forged);
        assert_eq!(identify(1001, 100, CarriedIds::FileSystem), forged);
        assert!(identify(1000, 100, CarriedIds::RealOrFileSystem).is_ok());
        let asked = |uid| {
            let mut asked = false;
            let header = HeaderIds { uid, gid: 0, tid };
            let _ = header.identify(CarriedIds::FileSystem, |_| {
                asked = true;
                None
            });
            asked
        };
        assert!(!asked(0) && asked(1));
    }

    #[test]
    fn callers_without_a_number_are_refused() {
        let header = |uid, tid| HeaderIds { uid, gid: 0, tid };
        let identify = |header: HeaderIds| header.identify(CarriedIds::FileSystem, |_| None);
        assert_eq!(identify(header(0, 0)), Err(IdentityError::OutsideNamespace));
        assert_eq!(identify(header(u32::MAX, 1)), Err(IdentityError::Unmapped));
        assert_eq!(identify(header(0, u32::MAX)), Err(IdentityError::Vanished));
    }

    #[test]
    fn hidepid_is_found_in_mountinfo() {
        let line = |options: &str| format!("22 27 0:21 / /proc rw,relatime - proc proc {options}");
        assert!(hides_processes(&line("rw,hidepid=invisible")));
        assert!(hides_processes(&line("rw,hidepid=2")));
        assert!(!hides_processes(&line("rw,hidepid=off")));
        assert!(!hides_processes(&line("rw")));
        assert!(!hides_processes(
            "1 2 0:3 / /mnt rw - proc proc rw,hidepid=2"
        ));
    }
}

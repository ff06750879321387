//! The least a FUSE file system can do: fixed bytes, by the library that others use.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen,
    Request, Session, SessionACL,
};

use crate::VALUE;

/// As the library's own example is: one thread, the page cache, and for a second the kernel
/// keeps names and attributes.
pub(crate) const AS_IT_COMES: &str = "as-it-comes";
/// As the daemon is: its threads, mount and open flags; the kernel keeps nothing.
pub(crate) const SAME_FLAGS: &str = "same-flags";
/// The same, but the kernel keeps names.
pub(crate) const NAMES_KEPT: &str = "names-kept";

struct Nothing {
    names: Duration,
    attributes: Duration,
    flags: FopenFlags,
    max_write: bool,
}

fn attributes(ino: u64) -> FileAttr {
    let directory = ino == 1 || ino >= DIRECTORIES;
    FileAttr {
        ino: INodeNo(ino),
        size: if directory { 0 } else { VALUE.len() as u64 },
        blocks: 2,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if directory {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: if directory { 0o555 } else { 0o444 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Inodes of directories begin here.
const DIRECTORIES: u64 = 1 << 40;

/// A file's inode, by its name: `file`, or `cold` with a number; or that of a directory, `dir`
/// with a number.
fn ino(name: &OsStr) -> u64 {
    let name = name.to_str().unwrap();
    let number = |prefix| {
        let number = name.strip_prefix(prefix)?.parse::<u64>();
        Some(number.unwrap())
    };
    let directory = number("dir").map(|number| DIRECTORIES + number);
    let file = || number("cold").map_or(2, |number| 3 + number);
    directory.unwrap_or_else(file)
}

impl Filesystem for Nothing {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        if self.max_write {
            config.set_max_write(1024 * 1024).unwrap();
            let parallel = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
            parallel.ok();
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply.entry(&self.names, &attributes(ino(name)), Generation(0));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&self.attributes, &attributes(ino.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(1), self.flags);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(if offset == 0 { &VALUE } else { &[] });
    }
}

/// Serves at `mount` until the mount is gone.
pub(crate) fn serve(which: &str, mount: &Path) {
    let second = Duration::from_secs(1);
    let same = which != AS_IT_COMES;
    let mut config = Config::default();
    config.mount_options = vec![MountOption::NoSuid, MountOption::NoDev, MountOption::NoExec];
    config.acl = SessionACL::All;
    if same {
        config.n_threads = Some(4);
    }
    let nothing = Nothing {
        names: if which == SAME_FLAGS {
            Duration::ZERO
        } else {
            second
        },
        attributes: if same { Duration::ZERO } else { second },
        flags: if same {
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH
        } else {
            FopenFlags::empty()
        },
        max_write: same,
    };
    let session = Session::new(nothing, mount, &config).unwrap();
    println!("ready");
    session.run().unwrap();
}

//! Requests of the kernel: bytes in, one of a few [`Operation`]s out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use zerocopy::{FromBytes, Immutable};

use super::abi::{
    AccessIn, GETATTR_FH, GetAttrIn, GetXattrIn, InHeader, InitIn, OpenIn, READ_LOCKOWNER, ReadIn,
    ReleaseIn, SetAttrIn, SetXattrIn, WriteIn, opcode,
};
use crate::caller::HeaderIds;
use crate::unique::Unique;

/// A request that is not what its number says. Its number is known when its head was whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestHeader {
    /// Bytes of the whole request.
    pub(crate) len: usize,
    pub(crate) opcode: u32,
    pub(crate) unique: Unique,
    pub(crate) node: u64,
    pub(crate) ids: HeaderIds,
}

impl RequestHeader {
    /// The head that `bytes` begin with.
    ///
    /// # Errors
    /// [`Malformed`]: there are fewer bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (header, _) = InHeader::read_from_prefix(bytes).map_err(|_| Malformed)?;
        Ok(Self {
            len: usize::try_from(header.len).map_err(|_| Malformed)?,
            opcode: header.opcode,
            unique: Unique::new(header.unique),
            node: header.nodeid,
            ids: HeaderIds {
                uid: header.uid,
                gid: header.gid,
                tid: header.pid,
            },
        })
    }

    /// Whether the kernel waits for an answer.
    pub(crate) fn wants_answer(&self) -> bool {
        !matches!(self.opcode, opcode::FORGET | opcode::BATCH_FORGET)
    }
}

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request<'b> {
    pub(crate) header: RequestHeader,
    pub(crate) operation: Operation<'b>,
}

/// A request by its kind, with its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Operation<'b> {
    Init(InitIn),
    Lookup {
        name: &'b OsStr,
    },
    /// Forget inodes, which nothing is kept of: no answer is wanted.
    Forget,
    GetAttr {
        /// Sent where the size is about to be used (SEEK_END, a cached read), never by
        /// fstat(2).
        handle: Option<u64>,
    },
    SetAttr {
        /// Fields to be set, of [`super::abi::fattr`].
        fields: u32,
        size: u64,
    },
    Open {
        /// As of open(2).
        flags: i32,
    },
    Read {
        handle: u64,
        range: (u64, u32),
        /// Only read(2) and its kin have a lock owner.
        has_lock_owner: bool,
    },
    Write {
        handle: u64,
        offset: u64,
        data: &'b [u8],
    },
    Flush,
    Fsync,
    Release {
        handle: u64,
    },
    OpenDir,
    ReadDir {
        offset: u64,
        size: u32,
    },
    ReleaseDir,
    StatFs,
    Access {
        /// As of access(2).
        mask: i32,
    },
    GetXattr {
        name: &'b OsStr,
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    /// Make, remove or rename something: secrets are written through the control file only.
    Change,
    /// Set or remove an extended attribute.
    ChangeXattr {
        name: &'b OsStr,
    },
    /// Whoever waits for another request would like to wait no more.
    Interrupt,
    Destroy,
    /// A request that is not known, or not supported.
    Unknown,
}

/// The body of a request, from which arguments are taken one after the other.
struct Arguments<'b>(&'b [u8]);

impl<'b> Arguments<'b> {
    /// Takes a structure; what follows in a longer one of a newer kernel stays.
    fn take<T: FromBytes + Immutable>(&mut self) -> Result<T, Malformed> {
        let (value, rest) = T::read_from_prefix(self.0).map_err(|_| Malformed)?;
        self.0 = rest;
        Ok(value)
    }

    /// Takes a name, which ends with a zero byte.
    fn take_name(&mut self) -> Result<&'b OsStr, Malformed> {
        let end = self.0.iter().position(|&byte| byte == 0);
        let (name, rest) = self
            .0
            .split_at_checked(end.ok_or(Malformed)?)
            .ok_or(Malformed)?;
        self.0 = rest;
        Ok(OsStr::from_bytes(name))
    }
}

/// An offset in a file is never negative.
fn offset(offset: u64) -> Result<u64, Malformed> {
    i64::try_from(offset).map(|_| offset).map_err(|_| Malformed)
}

impl<'b> Request<'b> {
    /// The request in `bytes`, which it fills.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(crate) fn parse(bytes: &'b [u8]) -> Result<Self, Malformed> {
        let header = RequestHeader::parse(bytes)?;
        if header.len != bytes.len() {
            return Err(Malformed);
        }
        let body = bytes.get(size_of::<InHeader>()..).ok_or(Malformed)?;
        Ok(Self {
            header,
            operation: Operation::parse(header.opcode, Arguments(body))?,
        })
    }
}

impl<'b> Operation<'b> {
    fn parse(opcode: u32, mut arguments: Arguments<'b>) -> Result<Self, Malformed> {
        Ok(match opcode {
            opcode::INIT => Self::Init(parse_init(arguments.0)?),
            opcode::LOOKUP => Self::Lookup {
                name: arguments.take_name()?,
            },
            opcode::FORGET | opcode::BATCH_FORGET => Self::Forget,
            opcode::GETATTR => {
                let GetAttrIn {
                    getattr_flags, fh, ..
                } = arguments.take()?;
                Self::GetAttr {
                    handle: (getattr_flags & GETATTR_FH != 0).then_some(fh),
                }
            }
            opcode::SETATTR => {
                let SetAttrIn { valid, size, .. } = arguments.take()?;
                Self::SetAttr {
                    fields: valid,
                    size,
                }
            }
            opcode::OPEN => {
                let OpenIn { flags, .. } = arguments.take()?;
                Self::Open { flags }
            }
            opcode::READ => {
                let read: ReadIn = arguments.take()?;
                Self::Read {
                    handle: read.fh,
                    range: (offset(read.offset)?, read.size),
                    has_lock_owner: read.read_flags & READ_LOCKOWNER != 0,
                }
            }
            opcode::WRITE => parse_write(arguments)?,
            opcode::FLUSH => Self::Flush,
            opcode::FSYNC => Self::Fsync,
            opcode::RELEASE => {
                let ReleaseIn { fh, .. } = arguments.take()?;
                Self::Release { handle: fh }
            }
            opcode::OPENDIR => Self::OpenDir,
            opcode::READDIR => {
                let ReadIn { offset, size, .. } = arguments.take()?;
                Self::ReadDir { offset, size }
            }
            opcode::RELEASEDIR => Self::ReleaseDir,
            opcode::STATFS => Self::StatFs,
            opcode::ACCESS => {
                let AccessIn { mask, .. } = arguments.take()?;
                let mask = i32::try_from(mask).map_err(|_| Malformed)?;
                Self::Access { mask }
            }
            opcode::GETXATTR => {
                let GetXattrIn { size, .. } = arguments.take()?;
                let name = arguments.take_name()?;
                Self::GetXattr { name, size }
            }
            opcode::LISTXATTR => {
                let GetXattrIn { size, .. } = arguments.take()?;
                Self::ListXattr { size }
            }
            opcode::SETXATTR => {
                let _: SetXattrIn = arguments.take()?;
                let name = arguments.take_name()?;
                Self::ChangeXattr { name }
            }
            opcode::REMOVEXATTR => {
                let name = arguments.take_name()?;
                Self::ChangeXattr { name }
            }
            opcode::SYMLINK
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::UNLINK
            | opcode::RMDIR
            | opcode::RENAME
            | opcode::RENAME2
            | opcode::LINK
            | opcode::CREATE => Self::Change,
            opcode::INTERRUPT => Self::Interrupt,
            opcode::DESTROY => Self::Destroy,
            _ => Self::Unknown,
        })
    }
}

/// Before 7.36 INIT ended behind its fourth word.
fn parse_init(body: &[u8]) -> Result<InitIn, Malformed> {
    let mut whole = [0; size_of::<InitIn>()];
    let len = body.len().min(whole.len());
    match (whole.get_mut(..len), body.get(..len)) {
        (Some(to), Some(from)) if len >= 16 => to.copy_from_slice(from),
        _ => return Err(Malformed),
    }
    InitIn::read_from_bytes(&whole).map_err(|_| Malformed)
}

fn parse_write(mut arguments: Arguments<'_>) -> Result<Operation<'_>, Malformed> {
    let write: WriteIn = arguments.take()?;
    let data = arguments.0;
    if usize::try_from(write.size) != Ok(data.len()) {
        return Err(Malformed);
    }
    Ok(Operation::Write {
        handle: write.fh,
        offset: offset(write.offset)?,
        data,
    })
}

#[cfg(test)]
mod tests;

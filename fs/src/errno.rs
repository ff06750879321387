//! Errors of the file system and the one place that turns them into errno.

/// Why an operation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// Policy says no, or the caller has no identity.
    #[error("permission denied")]
    Denied,
    /// No such name, or no longer.
    #[error("no such secret")]
    NotFound,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// A file was needed.
    #[error("is a directory")]
    IsDirectory,
    /// Secrets are written through the control file only.
    #[error("read-only")]
    ReadOnly,
    /// A name exists that must not.
    #[error("exists already")]
    Exists,
    /// The request is malformed, or asks for a cached read.
    #[error("invalid request")]
    Invalid,
    /// The request or value is over a limit.
    #[error("message too long")]
    TooLong,
    /// A name or segment is over a limit.
    #[error("name too long")]
    NameTooLong,
    /// The secret's type cannot do that.
    #[error("operation not supported")]
    NotSupported,
    /// Another version is current than was expected.
    #[error("changed meanwhile")]
    Conflict,
    /// The caller holds too many handles, or opens too many at once.
    #[error("too many open files")]
    TooManyHandles,
    /// All handles of the file system are taken.
    #[error("file table full")]
    TableFull,
    /// The control queue is full.
    #[error("try again")]
    Busy,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The buffer given is too small.
    #[error("buffer too small")]
    Range,
    /// The file descriptor is not one of ours.
    #[error("bad file descriptor")]
    BadHandle,
    /// The secret, or the version of it, was taken out of service.
    #[error("the key has been revoked")]
    Revoked,
    /// The secret's life is over and its settings refuse it then.
    #[error("the key has expired")]
    Expired,
    /// Real trouble: vault, audit log or machine.
    #[error("input/output error")]
    Io,
}

impl FsError {
    /// The errno a caller sees; numbers are those of errno(3).
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Denied => libc::EACCES,
            Self::NotFound => libc::ENOENT,
            Self::NotDirectory => libc::ENOTDIR,
            Self::IsDirectory => libc::EISDIR,
            Self::ReadOnly => libc::EROFS,
            Self::Exists => libc::EEXIST,
            Self::Invalid => libc::EINVAL,
            Self::TooLong => libc::EMSGSIZE,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::NotSupported => libc::EOPNOTSUPP,
            Self::Conflict => libc::ESTALE,
            Self::TooManyHandles => libc::EMFILE,
            Self::TableFull => libc::ENFILE,
            Self::Busy => libc::EAGAIN,
            Self::NoAttribute => libc::ENODATA,
            Self::Range => libc::ERANGE,
            Self::BadHandle => libc::EBADF,
            Self::Revoked => libc::EKEYREVOKED,
            Self::Expired => libc::EKEYEXPIRED,
            Self::Io => libc::EIO,
        }
    }
}

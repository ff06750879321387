//! Failures of a vault, each with its remedy.

use std::path::{Path, PathBuf};

use jarvis_sys::trust::TrustError;

use crate::name::NameError;
use crate::store::StoreError;

/// Every way an operation on a vault fails. No variant holds a value or a key.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The file is no vault.
    #[error("{path} is not a jarvis vault; check [vault] path in the configuration")]
    NotAVault {
        /// The file.
        path: PathBuf,
    },
    /// The file is no history.
    #[error("{path} is no exported history")]
    NotAHistory {
        /// The file.
        path: PathBuf,
    },
    /// Written by a later release.
    #[error(
        "{path} has format {found}, this program reads up to {supported}; install a newer jarvis-secretsd"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Format of the file.
        found: u16,
        /// The latest format this program knows.
        supported: u16,
    },
    /// A checksum or an authentication tag does not match, or the file is cut.
    #[error("{path} is damaged ({what}); nothing was changed; restore a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Check that failed, without any contents.
        what: String,
    },
    /// No passphrase slot opens.
    #[error("wrong passphrase for {path}")]
    WrongPassphrase {
        /// The vault.
        path: PathBuf,
    },
    /// No key-file slot opens.
    #[error("the key file does not belong to {path}")]
    WrongKeyFile {
        /// The vault.
        path: PathBuf,
    },
    /// The vault has no slot of the kind the credential is for.
    #[error("{path} has no key slot for a {kind}")]
    NoSlot {
        /// The vault.
        path: PathBuf,
        /// `passphrase` or `key file`.
        kind: &'static str,
    },
    /// A key file of the wrong length.
    #[error("the key file has {found} bytes, it must have exactly {expected}")]
    KeyFileLength {
        /// Bytes found.
        found: usize,
        /// Bytes wanted.
        expected: usize,
    },
    /// A passphrase without bytes, or an absurdly long one.
    #[error("the passphrase must have 1 to {max} bytes")]
    PassphraseLength {
        /// The most bytes.
        max: usize,
    },
    /// Slot parameters outside the accepted range: a hostile or damaged file.
    #[error(
        "key slot {slot} asks for Argon2id m={memory_kib} KiB t={passes} p={lanes}, outside of what is accepted"
    )]
    SlotParameters {
        /// The slot.
        slot: u8,
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// Another process has the vault.
    #[error("{path} is in use by another jarvis-secretsd")]
    InUse {
        /// The vault.
        path: PathBuf,
    },
    /// Somebody else could read or replace the file.
    #[error(transparent)]
    Distrusted(#[from] TrustError),
    /// `create` found a file.
    #[error("{path} exists already")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// Operation that was tried.
        what: &'static str,
        /// File or directory it was tried on.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name broke a rule.
    #[error("{0}")]
    Name(#[from] NameError),
    /// There is no such secret.
    #[error("no secret `{0}`")]
    NotFound(String),
    /// The name is a directory.
    #[error("`{0}` is a directory")]
    IsDirectory(String),
    /// A leading part of the name is a secret.
    #[error("`{0}` is a secret, not a directory")]
    NotDirectory(String),
    /// The value is over the limit.
    #[error("the value has {len} bytes, at most {max} are allowed")]
    TooLarge {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// `if_kid` is `none`, and there is a secret of this name.
    #[error("`{0}` exists already")]
    NotAbsent(String),
    /// `if_kid` does not hold.
    #[error("`{name}` is at {found}, not at {expected}")]
    Conflict {
        /// The secret.
        name: String,
        /// The key id asked for, or `none`.
        expected: String,
        /// The current key id, or `none`.
        found: String,
    },
    /// Rotation of a type that cannot generate.
    #[error("`{0}` is opaque: there is no generator for it; give the new value with `set`")]
    NoGenerator(String),
    /// A secret to purge that was not deleted.
    #[error("`{0}` is not deleted; delete it first, then it can be purged")]
    NotDeleted(String),
    /// A schedule for a secret that has no generator.
    #[error(
        "`{0}` is opaque, nothing generates its next value, so it can't be rotated by a schedule; \
         give it a type, or set a reminder by its expiry_days"
    )]
    NoSchedule(String),
    /// The name to restore is taken again.
    #[error("`{0}` exists; delete it first")]
    Occupied(String),
    /// The directory to remove has something in it.
    #[error("`{0}` is not empty: secrets are in it, or deleted ones that can be restored")]
    NotEmpty(String),
    /// There is no such version.
    #[error("`{name}` has no version {version}")]
    NoSuchVersion {
        /// The secret.
        name: String,
        /// The version asked for.
        version: u32,
    },
    /// The version's value is revoked or gone.
    #[error("version {version} of `{name}` is {state}")]
    Unusable {
        /// The secret.
        name: String,
        /// The version.
        version: u32,
        /// State of the version.
        state: &'static str,
    },
    /// A new value waits for its hook.
    #[error("a rotation of `{0}` is under way; wait for its end")]
    RotationPending(String),
    /// A secret has as many consumers as can be declared.
    #[error(
        "`{name}` has {max} declared consumers, which is the most; remove one of them first \
         (jarvisctl consumer remove)"
    )]
    TooManyConsumers {
        /// The secret.
        name: String,
        /// The most there may be.
        max: usize,
    },
    /// As many deleted secrets are kept as can be.
    #[error(
        "{0} deleted secrets are kept in the vault, which is the most; destroy some of them \
         first (jarvisctl purge), or wait until their time is over"
    )]
    TooManyDeleted(usize),
    /// As many revocations wait as can.
    #[error(
        "{max} revocations{} wait to be decided or executed, which is the most; decide, execute \
         or reject some of them first (jarvisctl revoke list); an immediate one is always taken",
        .uid.map(|uid| format!(" that uid {uid} asked for")).unwrap_or_default()
    )]
    TooManyRevocations {
        /// The most there may be.
        max: usize,
        /// Requester, if it is about theirs alone.
        uid: Option<u32>,
    },
    /// No new value waits.
    #[error("no rotation of `{0}` is under way")]
    NoRotation(String),
    /// There is no such revocation.
    #[error("there is no revocation {0}")]
    NoSuchRevocation(u64),
    /// The revocation is not at that point.
    #[error("revocation {id} is {found}, not {wanted}")]
    WrongStatus {
        /// The revocation.
        id: u64,
        /// Status it has.
        found: &'static str,
        /// Status it must have.
        wanted: &'static str,
    },
    /// Two persons are needed.
    #[error("revocation {0} was requested by the same user; another one must decide")]
    SamePerson(u64),
    /// An option of a type that cannot be.
    #[error("`{option}` {rule}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// Rule that it breaks.
        rule: String,
    },
    /// A value is not what its type says.
    #[error("the value must be {0}")]
    Value(&'static str),
    /// All key slots are taken.
    #[error("all key slots are taken; remove one first")]
    NoFreeSlot,
    /// There is no such key slot.
    #[error("there is no key slot {0}")]
    NoSuchSlot(u8),
    /// The vault would never open again.
    #[error("key slot {0} is the last one; add another one first")]
    LastSlot(u8),
    /// The slot is what the next start will be unlocked with.
    #[error(
        "key slot {0} is the one that the daemon was unlocked with; start it with another key \
         before you remove this one"
    )]
    SlotInUse(u8),
    /// Locked memory or random bytes could not be had.
    #[error("cannot get key material: {0}")]
    Keys(std::io::Error),
}

impl VaultError {
    /// The file at `path` is damaged: `what` failed.
    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            what: what.into(),
        }
    }
}

impl From<rustix::io::Errno> for VaultError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Keys(errno.into())
    }
}

impl From<getrandom::Error> for VaultError {
    fn from(error: getrandom::Error) -> Self {
        Self::Keys(std::io::Error::other(error.to_string()))
    }
}

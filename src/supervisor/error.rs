//! Reasons why the supervisor does not start or ends, and failures of its parts.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::string::FromUtf8Error;

use jarvis_audit::KeyError;
use jarvis_fs::MountError;
use jarvis_sys::HardenError;
use jarvis_sys::trust::TrustError;
use rustix::io::Errno;

use crate::common::policy_file::LoadError;
use crate::process::credential::CredentialError;
use crate::process::limits::LimitError;
use crate::process::{NoSuchUser, UnfitUser};

/// Reason why the supervisor did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SupervisorError {
    /// Memory can't be locked, or core dumps forbidden.
    #[error(transparent)]
    Harden(#[from] HardenError),
    /// A limit would end the daemon some time later.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// `/proc` does not show who callers are.
    #[error("{0}")]
    Proc(String),
    /// The HTTP address can't be had.
    #[error("cannot listen on {address} ({source}); change [http] listen or set enabled = false")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// There is no holder.
    #[error("no holder answers at {socket} ({source}); is jarvis-secretsd-mount.service running?")]
    Holder {
        /// The holder's socket.
        socket: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The user database can't be read.
    #[error(transparent)]
    Account(#[from] nix::Error),
    /// A process is to run as a user that is missing.
    #[error(transparent)]
    NoSuchUser(#[from] NoSuchUser),
    /// Processes are to run as users that they may not run as.
    #[error(transparent)]
    UnfitUser(#[from] UnfitUser),
    /// A directory can't be given to the worker.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The runner can't have what it needs.
    #[error(transparent)]
    Runner(#[from] RunnerStartError),
    /// The host's identity can't be read, or does not sign.
    #[error(transparent)]
    Identity(#[from] KeyError),
    /// The thread that keeps checkpoints can't be started.
    #[error(transparent)]
    Checkpoints(io::Error),
    /// The directory of the audit log can't be watched.
    #[error("cannot watch the directory of the audit log: {0}")]
    LogPlace(io::Error),
    /// The checkpoint that an earlier supervisor kept can't be read.
    #[error(
        "cannot read the kept checkpoint {path}: {why}; put it back from a copy, or move it aside: \
         then nothing tells here whether the audit log lost its end"
    )]
    KeptCheckpoint {
        /// The note.
        path: PathBuf,
        /// The fault in it.
        why: String,
    },
    /// More people than root have a hand in the checkpoint that an earlier supervisor kept, or its directory.
    #[error("kept checkpoints: {0}")]
    DistrustedCheckpoint(TrustError),
    /// The audit log lost what a kept checkpoint tells of.
    #[error(
        "{0} Put the log back; if it is gone for good, start once with --accept-lost-log, which is \
         recorded"
    )]
    LostLog(#[from] CheckpointRefusal),
    /// The policy can't be read.
    #[error(transparent)]
    Policy(#[from] LoadError),
    /// A copy of the policy can't be made for a worker.
    #[error(transparent)]
    PolicyCopy(io::Error),
    /// The page with the keys can't be made.
    #[error(transparent)]
    KeyPage(Errno),
    /// The credential of the vault can't be had.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// Tables can't be made, read or taken over.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// The mount point is missing and can't be made.
    #[error("cannot create the mount point {path}: {source}")]
    MountPoint {
        /// The mount point.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Somebody else could put something else in the mount point's place.
    #[error("the mount point: {0}")]
    MountParent(#[from] TrustError),
    /// The mount table would not show the mount where it is looked for.
    #[error("the mount point {0} is a symbolic link; set [mount] path to what it leads to")]
    LinkedMountPoint(PathBuf),
    /// Mounting or unmounting failed.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The program that children are started from can't be opened.
    #[error(transparent)]
    Executable(io::Error),
    /// Signals can't be caught.
    #[error(transparent)]
    Signals(io::Error),
    /// Waiting for events failed.
    #[error(transparent)]
    Wait(Errno),
    /// A worker can't be started.
    #[error("cannot start a worker: {0}")]
    StartWorker(io::Error),
    /// Nobody can answer a worker's questions about programs.
    #[error("cannot answer a worker's questions: {0}")]
    ThreadReplies(io::Error),
    /// The first worker of all ended by its own fault, with this report.
    #[error("{0}")]
    FirstWorker(String),
    /// No table of mounts can be read.
    #[error("cannot read the mount table: {0}")]
    MountTable(io::Error),
    /// Nobody but this process would see the mount.
    #[error(
        "{0} is mounted, but no reader sees it: this service has a mount namespace of its own. \
         In a unit or its drop-ins (systemctl cat) that is by PrivateTmp=, PrivateDevices=, \
         PrivateMounts=, ProtectSystem=, ProtectHome=, ProtectKernelTunables= and the other \
         ProtectKernel*=, ProtectControlGroups=, ProtectProc=, ReadOnlyPaths= and its like, \
         BindPaths=, TemporaryFileSystem=, DynamicUser=, RootDirectory= or RootImage=: take it \
         out. In a container, bind the directory above the mount point with propagation rshared"
    )]
    Hidden(PathBuf),
    /// Workers have failed for too long.
    #[error("no worker could serve for {seconds} s: {report}")]
    Outage {
        /// How long nobody served.
        seconds: u64,
        /// The last worker's report.
        report: String,
    },
}

/// Reason why the runner was not started.
#[derive(Debug, thiserror::Error)]
pub enum RunnerStartError {
    /// A directory of programs or the key of a signature can't be opened, or others have a
    /// hand in it.
    #[error("hooks and notifications: {0}")]
    Distrusted(#[from] TrustError),
    /// The process can't be started, or takes no messages.
    #[error(transparent)]
    Process(#[from] io::Error),
}

/// Reason why a directory can't be given to the worker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    /// An empty directory is where another disk was.
    #[error(
        "{path} is empty and on another file system than the audit log was: mount the log's disk"
    )]
    Unmounted {
        /// The directory.
        path: PathBuf,
    },
    /// The directory can't be opened, read or given away.
    #[error("cannot use {path}: {source}")]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The directory or what is in it can't be opened, or others have a hand in it.
    #[error(transparent)]
    Distrusted(#[from] TrustError),
    /// A file that the worker may not have lies in it.
    #[error("{path} lies in {directory}, which is for the worker alone; move one of them")]
    PrivateFile {
        /// The file.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
    },
}

/// Reason why tables can't be made, read or taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TablesError {
    /// The kernel gives no memory for a table.
    #[error("cannot create the table of {name}: {source}")]
    Create {
        /// The table.
        name: &'static str,
        /// The kernel's answer.
        source: Errno,
    },
    /// The kernel refuses a memory file.
    #[error(transparent)]
    System(#[from] Errno),
    /// Random numbers can't be had.
    #[error(transparent)]
    Random(#[from] getrandom::Error),
    /// The text of the policy can't be read or written.
    #[error(transparent)]
    PolicyFile(#[from] io::Error),
    /// The text of the policy is none.
    #[error(transparent)]
    PolicyText(#[from] FromUtf8Error),
    /// An fd is missing in the fd store.
    #[error("a part of it is missing")]
    Incomplete,
    /// The tables are another release's.
    #[error("the fd store holds tables of another size")]
    OtherSize,
}

/// Reason why a checkpoint is not kept, or a worker's place in the log is doubted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointRefusal {
    /// The note is none.
    #[error(transparent)]
    Malformed(#[from] jarvis_audit::CheckpointError),
    /// The note is about another log.
    #[error("the checkpoint is of host {0}")]
    OtherHost(String),
    /// An earlier note told of more records.
    #[error("the audit log went back to record {0}; was it tampered with?")]
    WentBack(u64),
    /// The log lost what a note tells of.
    #[error(
        "the audit log ends with record {found}, but a checkpoint tells of another record {noted}: \
         records are gone."
    )]
    RecordsGone {
        /// The last record that the worker found.
        found: u64,
        /// The record that the note tells of.
        noted: u64,
    },
}

//! Tables in memory that outlive a worker, and with the holder's help the supervisor.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use jarvis_audit::LogHead;
use jarvis_fs::{HANDLE_WORDS, IN_FLIGHT_WORDS, RequestMemory};
use jarvis_sys::{SecretPage, SharedWords};
use rustix::fs::{MemfdFlags, memfd_create};

use super::error::TablesError;
use crate::common::clock::now_ms;
use crate::common::policy_file::MAX_POLICY;

/// Names of the tables, as /proc shows them.
const HANDLES: &str = "handles";
const IN_FLIGHT: &str = "in-flight";
const INFO: &str = "info";

/// Words in the table about the mount, and what each of them is.
const INFO_WORDS: usize = 4;
const NONCE_HIGH: usize = 0;
const NONCE_LOW: usize = 1;
const STARTED_MS: usize = 2;
const GENERATION: usize = 3;

/// Tables of one mount.
pub(super) struct PersistentTables {
    handles: SharedWords,
    in_flight: SharedWords,
    pub(super) keys: SecretPage,
    info: SharedWords,
    /// The end of the audit log.
    pub(super) log_head: LogHead,
    /// Text of the policy in force.
    policy: File,
    /// Requests that were read and not answered.
    requests: RequestMemory,
}

impl PersistentTables {
    /// Makes empty tables for a mount to be made; `keys` and `log_head` stay what they are.
    ///
    /// # Errors
    /// [`TablesError`]: memory or random numbers can't be had.
    pub(super) fn new(keys: SecretPage, log_head: LogHead) -> Result<Self, TablesError> {
        let policy = memfd_create("jarvis-policy", MemfdFlags::CLOEXEC)?;
        let info = create(INFO, INFO_WORDS)?;
        let mut nonce = [[0; 8]; 2];
        getrandom::fill(nonce.as_flattened_mut())?;
        let [high, low] = nonce.map(u64::from_be_bytes);
        let started = u64::try_from(now_ms()).unwrap_or_default();
        for (word, value) in info.as_ref().iter().zip([high, low, started, 0]) {
            word.store(value, Ordering::Release);
        }
        Ok(Self {
            handles: create(HANDLES, HANDLE_WORDS)?,
            in_flight: create(IN_FLIGHT, IN_FLIGHT_WORDS)?,
            keys,
            info,
            log_head,
            policy: policy.into(),
            requests: RequestMemory::create()?,
        })
    }

    /// Makes tables for another mount of the same service, with the same keys, audit log and
    /// policy. None of the old handles is in them: the kernel has forgotten those.
    ///
    /// # Errors
    /// [`TablesError`].
    pub(super) fn for_new_mount(&self, policy: &str) -> Result<Self, TablesError> {
        let keys = self.keys.fd().try_clone_to_owned()?;
        let log_head = self.log_head.fd().try_clone_to_owned()?;
        let tables = Self::new(SecretPage::map(keys)?, LogHead::map(log_head)?)?;
        for index in [STARTED_MS, GENERATION] {
            if let Some(word) = tables.word(index) {
                word.store(self.load(index), Ordering::Release);
            }
        }
        tables.set_policy(policy)?;
        Ok(tables)
    }

    /// Takes the fds that an earlier supervisor left, in the order of [`Self::kept_fds`];
    /// gives the device beside them.
    ///
    /// # Errors
    /// [`TablesError`]: something is missing, or is another release's.
    pub(super) fn recover(fds: Vec<OwnedFd>) -> Result<(Self, OwnedFd), TablesError> {
        let mut fds = fds.into_iter();
        let mut take = || fds.next().ok_or(TablesError::Incomplete);
        let device = take()?;
        let tables = Self {
            handles: map(take()?, HANDLE_WORDS)?,
            in_flight: map(take()?, IN_FLIGHT_WORDS)?,
            keys: SecretPage::map(take()?)?,
            info: map(take()?, INFO_WORDS)?,
            policy: take()?.into(),
            requests: RequestMemory::map(take()?)?,
            log_head: LogHead::map(take()?)?,
        };
        Ok((tables, device))
    }

    /// Fds of `device` and tables for the next supervisor: either of them is useless
    /// without the other.
    pub(super) fn kept_fds<'f>(&'f self, device: BorrowedFd<'f>) -> [BorrowedFd<'f>; 8] {
        [
            device,
            self.handles.fd(),
            self.in_flight.fd(),
            self.keys.fd(),
            self.info.fd(),
            self.policy.as_fd(),
            self.requests.fd(),
            self.log_head.fd(),
        ]
    }

    /// Tables that a worker maps, in the order of its first message.
    pub(super) fn fds(&self) -> [BorrowedFd<'_>; 5] {
        [
            self.handles.fd(),
            self.in_flight.fd(),
            self.keys.fd(),
            self.requests.fd(),
            self.log_head.fd(),
        ]
    }

    /// Text of the policy in force.
    ///
    /// # Errors
    /// [`TablesError`].
    pub(super) fn policy(&self) -> Result<String, TablesError> {
        let len = self.policy.metadata()?.len().min(MAX_POLICY);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        self.policy.read_exact_at(&mut bytes, 0)?;
        Ok(String::from_utf8(bytes)?)
    }

    /// Notes the text of a policy that came into force.
    ///
    /// # Errors
    /// [`TablesError`].
    pub(super) fn set_policy(&self, policy: &str) -> Result<(), TablesError> {
        self.policy.set_len(0)?;
        Ok(self.policy.write_all_at(policy.as_bytes(), 0)?)
    }

    /// Number that tells this mount's requests from all others'.
    pub(super) fn nonce(&self) -> [u8; 16] {
        let halves = [NONCE_HIGH, NONCE_LOW].map(|half| self.load(half).to_be_bytes());
        let mut nonce = [0; 16];
        nonce.copy_from_slice(halves.as_flattened());
        nonce
    }

    /// When the service began, Unix milliseconds.
    pub(super) fn started_ms(&self) -> i64 {
        i64::try_from(self.load(STARTED_MS)).unwrap_or_default()
    }

    /// Counts a worker that serves; gives its number.
    pub(super) fn next_generation(&self) -> u64 {
        self.word(GENERATION)
            .map_or(0, |word| word.fetch_add(1, Ordering::AcqRel) + 1)
    }

    fn load(&self, index: usize) -> u64 {
        self.word(index)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        self.info.as_ref().get(index)
    }
}

fn create(name: &'static str, words: usize) -> Result<SharedWords, TablesError> {
    SharedWords::create(&format!("jarvis-{name}"), words)
        .map_err(|source| TablesError::Create { name, source })
}

/// The table behind `fd`, which another release may have made of another size.
fn map(fd: OwnedFd, words: usize) -> Result<SharedWords, TablesError> {
    let table = SharedWords::map(fd)?;
    if table.as_ref().len() == words {
        Ok(table)
    } else {
        Err(TablesError::OtherSize)
    }
}

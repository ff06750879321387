//! Tables in memory that outlive a worker, and with systemd's help the supervisor.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use jarvis_fs::{HANDLE_WORDS, IN_FLIGHT_WORDS};
use jarvis_sys::{SecretPage, SharedWords};
use rustix::fs::{MemfdFlags, memfd_create};
use sd_notify::NotifyState;

use super::error::TablesError;
use crate::common::clock::now_ms;
use crate::common::policy_file::MAX_POLICY;

/// Names in the fd store.
const DEVICE: &str = "device";
const HANDLES: &str = "handles";
const WATCH: &str = "watch";
const KEYS: &str = "keys";
const INFO: &str = "info";
const POLICY: &str = "policy";

/// Words in the table about the mount, and what each of them is.
const INFO_WORDS: usize = 4;
const NONCE_HIGH: usize = 0;
const NONCE_LOW: usize = 1;
const STARTED_MS: usize = 2;
const GENERATION: usize = 3;

/// Tables of one mount.
pub(super) struct PersistentTables {
    handles: SharedWords,
    watch: SharedWords,
    pub(super) keys: SecretPage,
    info: SharedWords,
    /// Text of the policy in force.
    policy: File,
}

impl PersistentTables {
    /// Makes empty tables for a mount to be made; `keys` stay what they are.
    ///
    /// # Errors
    /// [`TablesError`]: memory or random numbers can't be had.
    pub(super) fn new(keys: SecretPage) -> Result<Self, TablesError> {
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
            watch: create(WATCH, IN_FLIGHT_WORDS)?,
            keys,
            info,
            policy: policy.into(),
        })
    }

    /// Makes tables for another mount of the same service, with the same keys and
    /// policy. None of the old handles is in them: the kernel has forgotten those.
    ///
    /// # Errors
    /// [`TablesError`].
    pub(super) fn for_new_mount(&self, policy: &str) -> Result<Self, TablesError> {
        let keys = self.keys.fd().try_clone_to_owned()?;
        let tables = Self::new(SecretPage::map(keys)?)?;
        for index in [STARTED_MS, GENERATION] {
            if let Some(word) = tables.word(index) {
                word.store(self.load(index), Ordering::Release);
            }
        }
        tables.set_policy(policy)?;
        Ok(tables)
    }

    /// Takes what an earlier supervisor left in the fd store, with the device; `None`
    /// when that is nothing.
    ///
    /// # Errors
    /// [`TablesError`]: something is missing, or is another release's.
    pub(super) fn recover() -> Result<Option<(Self, OwnedFd)>, TablesError> {
        let names: Vec<String> = match sd_notify::listen_fds_with_names() {
            Ok(fds) => fds.map(|(_, name)| name).collect(),
            Err(_) => return Ok(None),
        };
        if names.is_empty() {
            return Ok(None);
        }
        let fds = jarvis_sys::take_passed_fds(names.len())?;
        let mut found: Vec<_> = names.into_iter().zip(fds).collect();
        let mut take = |name: &str| {
            let at = found.iter().position(|(n, _)| n == name);
            let at = at.ok_or(TablesError::Incomplete)?;
            Ok::<_, TablesError>(found.swap_remove(at).1)
        };
        let device = take(DEVICE)?;
        let tables = Self {
            handles: map(take(HANDLES)?, HANDLE_WORDS)?,
            watch: map(take(WATCH)?, IN_FLIGHT_WORDS)?,
            keys: SecretPage::map(take(KEYS)?)?,
            info: map(take(INFO)?, INFO_WORDS)?,
            policy: take(POLICY)?.into(),
        };
        Ok(Some((tables, device)))
    }

    /// Leaves the tables and `device` with systemd, which gives them to the next
    /// supervisor: either of them is useless without the other.
    pub(super) fn store(&self, device: BorrowedFd<'_>) {
        for (name, fd) in [
            (DEVICE, device),
            (HANDLES, self.handles.fd()),
            (WATCH, self.watch.fd()),
            (KEYS, self.keys.fd()),
            (INFO, self.info.fd()),
            (POLICY, self.policy.as_fd()),
        ] {
            let state = [NotifyState::FdStore, NotifyState::FdName(name)];
            if let Err(error) = sd_notify::notify_with_fds(&state, &[fd.as_fd()]) {
                tracing::error!(%error, name, "systemd did not take an fd");
            }
        }
    }

    /// Takes everything back from systemd: the mount is gone.
    pub(super) fn withdraw() {
        for name in [DEVICE, HANDLES, WATCH, KEYS, INFO, POLICY] {
            let state = [NotifyState::FdStoreRemove, NotifyState::FdName(name)];
            // Without systemd nothing was stored.
            sd_notify::notify(&state).ok();
        }
    }

    /// Tables that a worker maps, in the order of its first message.
    pub(super) fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.handles.fd(), self.watch.fd(), self.keys.fd()]
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

//! What outlives a worker, and with systemd's help the supervisor itself.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use jarvis_fs::{HANDLE_WORDS, IN_FLIGHT_WORDS};
use jarvis_sys::{SecretPage, SharedWords};
use rustix::fs::{MemfdFlags, memfd_create};
use sd_notify::NotifyState;

use crate::common::clock::now_ms;
use crate::common::policy_file::MAX_POLICY;
use crate::process::{Failure, text};

/// Words about the mount: two of its nonce, when it was made, workers so far.
const INFO_WORDS: usize = 4;

/// Names in the fd store.
const DEVICE: &str = "device";
const HANDLES: &str = "handles";
const WATCH: &str = "watch";
const KEYS: &str = "keys";
const INFO: &str = "info";
const POLICY: &str = "policy";

/// The tables of one mount.
pub(super) struct Estate {
    pub(super) handles: SharedWords,
    pub(super) watch: SharedWords,
    pub(super) keys: SecretPage,
    info: SharedWords,
    /// The text of the policy in force.
    policy: File,
}

fn words(name: &str, count: usize) -> Result<SharedWords, Failure> {
    SharedWords::create(&format!("jarvis-{name}"), count)
        .map_err(|error| format!("cannot create the table of {name}: {error}"))
}

impl Estate {
    /// Empty tables for a mount to be made; `keys` stay what they are.
    pub(super) fn new(keys: SecretPage) -> Result<Self, Failure> {
        let policy = memfd_create("jarvis-policy", MemfdFlags::CLOEXEC).map_err(text)?;
        let info = words(INFO, INFO_WORDS)?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(text)?;
        let (high, low) = nonce.split_at(8);
        let number = |half: &[u8]| u64::from_be_bytes(half.try_into().unwrap_or_default());
        let started = u64::try_from(now_ms()).unwrap_or_default();
        for (word, value) in info
            .as_ref()
            .iter()
            .zip([number(high), number(low), started, 0])
        {
            word.store(value, Ordering::Release);
        }
        Ok(Self {
            handles: words(HANDLES, HANDLE_WORDS)?,
            watch: words(WATCH, IN_FLIGHT_WORDS)?,
            keys,
            info,
            policy: policy.into(),
        })
    }

    /// The text of the policy in force.
    pub(super) fn policy(&self) -> Result<String, Failure> {
        let mut bytes = vec![0; usize::try_from(MAX_POLICY).unwrap_or_default()];
        let mut len = 0;
        while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match self.policy.read_at(rest, len as u64).map_err(text)? {
                0 => break,
                n => len += n,
            }
        }
        bytes.truncate(len);
        String::from_utf8(bytes).map_err(text)
    }

    /// A policy came into force.
    pub(super) fn set_policy(&self, policy: &str) -> Result<(), Failure> {
        self.policy.set_len(0).map_err(text)?;
        self.policy.write_all_at(policy.as_bytes(), 0).map_err(text)
    }

    /// What an earlier supervisor left in the fd store, with the device; `None`
    /// when that is nothing.
    ///
    /// # Errors
    /// What makes it useless: something is missing, or is another release's.
    pub(super) fn recover() -> Result<Option<(Self, OwnedFd)>, Failure> {
        let names: Vec<String> = match sd_notify::listen_fds_with_names() {
            Ok(fds) => fds.map(|(_, name)| name).collect(),
            Err(_) => return Ok(None),
        };
        if names.is_empty() {
            return Ok(None);
        }
        let fds = jarvis_sys::take_passed_fds(names.len()).map_err(text)?;
        let mut found: Vec<_> = names.into_iter().zip(fds).collect();
        let mut take = |name: &str| {
            let at = found.iter().position(|(n, _)| n == name)?;
            Some(found.swap_remove(at).1)
        };
        let tables = (take(HANDLES), take(WATCH), take(INFO));
        let rest = (take(DEVICE), take(KEYS), take(POLICY));
        let (Some(handles), Some(watch), Some(info)) = tables else {
            return Err("a part of it is missing".into());
        };
        let (Some(device), Some(keys), Some(policy)) = rest else {
            return Err("a part of it is missing".into());
        };
        let table = |fd, count| {
            let words = SharedWords::map(fd).map_err(text)?;
            match words.as_ref().len() == count {
                true => Ok(words),
                // Another release's.
                false => Err("the fd store holds tables of another size".to_owned()),
            }
        };
        let estate = Self {
            handles: table(handles, HANDLE_WORDS)?,
            watch: table(watch, IN_FLIGHT_WORDS)?,
            keys: SecretPage::map(keys).map_err(text)?,
            info: table(info, INFO_WORDS)?,
            policy: policy.into(),
        };
        Ok(Some((estate, device)))
    }

    /// Leaves everything with systemd, which gives it to the next supervisor.
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
            sd_notify::notify(&state).ok();
        }
    }

    pub(super) fn nonce(&self) -> [u8; 16] {
        let halves = [self.load(0).to_be_bytes(), self.load(1).to_be_bytes()];
        let mut nonce = [0; 16];
        nonce
            .iter_mut()
            .zip(halves.as_flattened())
            .for_each(|(to, from)| *to = *from);
        nonce
    }

    pub(super) fn started_ms(&self) -> i64 {
        i64::try_from(self.load(2)).unwrap_or_default()
    }

    /// The service goes on, with another mount.
    pub(super) fn continue_from(&self, before: &Self) {
        for index in [2, 3] {
            if let Some(word) = self.word(index) {
                word.store(before.load(index), Ordering::Release);
            }
        }
    }

    /// Counts a worker that serves; gives its number.
    pub(super) fn next_generation(&self) -> u64 {
        self.word(3)
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

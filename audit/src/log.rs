//! Writing the log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use parking_lot::{Condvar, Mutex};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use crate::event::{Action, Event, Outcome};
use crate::file::LogFile;
use crate::keys::{EpochClaim, EpochKey, Identity};
use crate::line::{self, Link, MAX_LINE};
use crate::read::{Previous, Start, segment_path};
use crate::tail::{self, Ending, OpenError, Tail, io_error};

/// The only segment so far.
const SEGMENT: u32 = 1;
/// A record under [`Durability::Write`] is on disk within this time.
const FLUSH: Duration = Duration::from_millis(10);
const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

/// When an append returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The record is in the kernel: survives the daemon; a power loss can take
    /// the last 10 ms.
    Write,
    /// The record is on disk.
    Sync,
}

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The write failed; the log is as before and can be tried again.
    #[error("cannot write the audit log: {0}")]
    Io(#[source] io::Error),
    /// A sync failed, or a failed write could not be undone: what is on disk is
    /// not known, and nothing more is written until the daemon starts anew.
    #[error("the audit log failed earlier and takes no more records; restart the daemon")]
    Poisoned,
    /// The record would be over 16 KiB.
    #[error("the audit record is over {MAX_LINE} bytes")]
    TooLong,
}

/// How a log is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opening<'a> {
    /// Version of the daemon, for the start record.
    pub version: &'a str,
    /// The vault's commits, as far as they are recorded.
    pub vault_seq: u64,
    /// Go on although the vault is older than the log.
    pub accept_older_vault: bool,
}

/// Records since the log was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Written.
    pub records: u64,
    /// Not written.
    pub errors: u64,
}

/// The log, open for writing. One process has it at a time.
pub struct Log {
    shared: Arc<Shared>,
    flusher: Option<JoinHandle<()>>,
}

struct Shared {
    file: Box<dyn LogFile>,
    key: EpochKey,
    host: String,
    epoch: u64,
    clock: fn() -> Timestamp,
    chain: Mutex<Chain>,
    /// Sequence number of the last record written.
    written: AtomicU64,
    disk: Mutex<Disk>,
    disk_changed: Condvar,
    dirty: Mutex<Dirty>,
    dirty_changed: Condvar,
    poisoned: AtomicBool,
    records: AtomicU64,
    errors: AtomicU64,
}

struct Chain {
    seq: u64,
    link: Link,
    len: u64,
    line: Vec<u8>,
}

/// Which records are on disk, and whether somebody is syncing.
#[derive(Default)]
struct Disk {
    synced: u64,
    syncing: bool,
}

#[derive(Default)]
struct Dirty {
    dirty: bool,
    stop: bool,
}

/// A record before it is signed; field order is the format's.
#[derive(Serialize)]
struct Payload<'a> {
    v: u8,
    seq: u64,
    prev: &'a str,
    time: &'a str,
    host: &'a str,
    epoch: u64,
    #[serde(flatten)]
    event: &'a Event<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<&'a Start>,
}

impl Log {
    /// How the log in `dir` ends, without changing or locking anything; `None`
    /// when it has no record yet.
    ///
    /// # Errors
    /// [`OpenError::TooWide`], [`OpenError::Corrupt`], [`OpenError::Io`].
    pub fn inspect(dir: &Path) -> Result<Option<Tail>, OpenError> {
        tail::inspect(dir)
    }

    /// Opens the log in `dir` (made before, mode 0700), sets a torn tail aside
    /// and writes the start record of a new epoch.
    ///
    /// # Errors
    /// [`OpenError`]; then nothing has changed on disk, unless writing itself failed.
    pub fn open(dir: &Path, identity: &Identity, opening: Opening<'_>) -> Result<Self, OpenError> {
        Self::open_with(
            dir,
            identity,
            opening,
            EpochKey::generate()?,
            Timestamp::now,
        )
    }

    pub(crate) fn open_with(
        dir: &Path,
        identity: &Identity,
        opening: Opening<'_>,
        key: EpochKey,
        clock: fn() -> Timestamp,
    ) -> Result<Self, OpenError> {
        let handle = File::open(dir).map_err(io_error("open", dir))?;
        tail::check_mode(dir, &handle, 0o700)?;
        let path = segment_path(dir, SEGMENT);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        lock(&path, &file)?;
        let ending = tail::ending(&path, &file)?;
        check_age(&ending, &opening)?;
        set_aside(dir, &path, &file, &ending)?;
        handle.sync_all().map_err(io_error("sync", dir))?;
        Self::start(Box::new(file), &ending, identity, opening, key, clock)
    }

    fn start(
        file: Box<dyn LogFile>,
        ending: &Ending,
        identity: &Identity,
        opening: Opening<'_>,
        key: EpochKey,
        clock: fn() -> Timestamp,
    ) -> Result<Self, OpenError> {
        let seq = ending.tail.map_or(0, |tail| tail.seq);
        let shared = Arc::new(Shared {
            file,
            key,
            host: identity.public().host().to_string(),
            epoch: ending.tail.map_or(0, |tail| tail.epoch) + 1,
            clock,
            chain: Mutex::new(Chain {
                seq,
                link: ending.tail.map_or([0; 32], |tail| tail.link),
                len: ending.len,
                line: Vec::with_capacity(1024),
            }),
            written: AtomicU64::new(seq),
            disk: Mutex::new(Disk {
                synced: seq,
                syncing: false,
            }),
            disk_changed: Condvar::new(),
            dirty: Mutex::default(),
            dirty_changed: Condvar::new(),
            poisoned: AtomicBool::new(false),
            records: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        });
        shared.append_start(ending, identity, opening)?;
        let flushing = shared.clone();
        let flusher = std::thread::Builder::new()
            .name("audit-flush".into())
            .spawn(move || flushing.flush_loop())
            .map_err(|error| OpenError::Start(error.to_string()))?;
        Ok(Self {
            shared,
            flusher: Some(flusher),
        })
    }

    /// Records `event` and gives its sequence number.
    ///
    /// # Errors
    /// [`AppendError`]: the record is not in the log, or under
    /// [`Durability::Sync`] not known to be on disk; nothing may be released.
    pub fn append(&self, event: &Event<'_>, durability: Durability) -> Result<u64, AppendError> {
        self.shared.append(event, None, durability)
    }

    /// Records an orderly end, durably.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn stop(&self, vault_seq: u64) -> Result<(), AppendError> {
        let stop = Event::new(Action::Stop, Outcome::Ok, vault_seq);
        self.append(&stop, Durability::Sync).map(|_| ())
    }

    /// Records written and failed since the log was opened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            records: self.shared.records.load(Ordering::Relaxed),
            errors: self.shared.errors.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.dirty.lock().stop = true;
        self.shared.dirty_changed.notify_all();
        if let Some(flusher) = self.flusher.take() {
            // It cannot have panicked without ending the process.
            flusher.join().ok();
        }
    }
}

impl Shared {
    fn append_start(
        &self,
        ending: &Ending,
        identity: &Identity,
        opening: Opening<'_>,
    ) -> Result<(), OpenError> {
        let key = self.key.public();
        let (seq, link) = {
            let chain = self.chain.lock();
            (chain.seq + 1, chain.link)
        };
        let certificate = identity.certify(&EpochClaim {
            epoch: self.epoch,
            first_seq: seq,
            prev: &link,
            key: &key,
        });
        let start = Start {
            daemon: opening.version.to_owned(),
            segment: SEGMENT,
            previous: match ending.tail {
                None => Previous::None,
                Some(tail) if tail.clean => Previous::Clean,
                Some(_) => Previous::Unclean,
            },
            torn_bytes: ending.torn.len() as u64,
            epoch_key: line::encode(&key),
            cert: line::encode(&certificate),
        };
        let older = ending
            .tail
            .is_some_and(|tail| tail.vault_seq > opening.vault_seq);
        let event = Event {
            reason: older.then_some("vault older than this log, accepted by the operator"),
            ..Event::new(Action::Start, Outcome::Ok, opening.vault_seq)
        };
        self.append(&event, Some(&start), Durability::Sync)
            .map(|_| ())
            .map_err(|error| OpenError::Start(error.to_string()))
    }

    fn append(
        &self,
        event: &Event<'_>,
        start: Option<&Start>,
        durability: Durability,
    ) -> Result<u64, AppendError> {
        let result = self.write(event, start).and_then(|seq| {
            match durability {
                Durability::Write => self.mark_dirty(),
                Durability::Sync => self.sync_through(seq)?,
            }
            Ok(seq)
        });
        let counter = if result.is_ok() {
            &self.records
        } else {
            &self.errors
        };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// Signs and writes one line; the chain goes on only when all of it was
    /// written.
    fn write(&self, event: &Event<'_>, start: Option<&Start>) -> Result<u64, AppendError> {
        let mut chain = self.chain.lock();
        if self.poisoned.load(Ordering::Acquire) {
            return Err(AppendError::Poisoned);
        }
        let chain = &mut *chain;
        let link = self.compose(chain, event, start)?;
        let len = chain.line.len();
        match self.file.append(&chain.line) {
            Ok(written) if written == len => {}
            Ok(_) => return Err(self.undo(chain, io::ErrorKind::StorageFull.into())),
            Err(error) => return Err(self.undo(chain, error)),
        }
        chain.seq += 1;
        chain.link = link;
        chain.len += len as u64;
        self.written.store(chain.seq, Ordering::Release);
        Ok(chain.seq)
    }

    fn compose(
        &self,
        chain: &mut Chain,
        event: &Event<'_>,
        start: Option<&Start>,
    ) -> Result<Link, AppendError> {
        let mut prev = [0; 64];
        // 32 bytes always fill 64 digits.
        let _ = hex::encode_to_slice(chain.link, &mut prev);
        let mut time = String::with_capacity(32);
        let _ = PRINTER.print_timestamp(&(self.clock)(), &mut time);
        let payload = Payload {
            v: 1,
            seq: chain.seq + 1,
            prev: str::from_utf8(&prev).unwrap_or_default(),
            time: &time,
            host: &self.host,
            epoch: self.epoch,
            event,
            start,
        };
        chain.line.clear();
        serde_json::to_writer(&mut chain.line, &payload)
            .map_err(|error| AppendError::Io(error.into()))?;
        let link = line::seal(&mut chain.line, &self.key);
        match chain.line.len() > MAX_LINE {
            true => Err(AppendError::TooLong),
            false => Ok(link),
        }
    }

    /// Takes a half-written line away again.
    fn undo(&self, chain: &Chain, error: io::Error) -> AppendError {
        if self.file.truncate(chain.len).is_err() {
            self.poison();
        }
        AppendError::Io(error)
    }

    fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    /// Returns once record `seq` is on disk. Whoever comes while a sync runs
    /// waits for it and, when it began too early, for one more that it shares
    /// with all the others.
    fn sync_through(&self, seq: u64) -> Result<(), AppendError> {
        let mut disk = self.disk.lock();
        loop {
            if self.poisoned.load(Ordering::Acquire) {
                return Err(AppendError::Poisoned);
            }
            if disk.synced >= seq {
                return Ok(());
            }
            if disk.syncing {
                self.disk_changed.wait(&mut disk);
                continue;
            }
            disk.syncing = true;
            let target = self.written.load(Ordering::Acquire);
            drop(disk);
            let result = self.file.sync();
            disk = self.disk.lock();
            disk.syncing = false;
            match result {
                Ok(()) => disk.synced = disk.synced.max(target),
                // After a failed sync the kernel may have dropped the pages and
                // a second sync would say yes: never try again.
                Err(_) => self.poison(),
            }
            self.disk_changed.notify_all();
        }
    }

    fn mark_dirty(&self) {
        let mut dirty = self.dirty.lock();
        if !dirty.dirty {
            dirty.dirty = true;
            self.dirty_changed.notify_one();
        }
    }

    fn flush_loop(&self) {
        let mut dirty = self.dirty.lock();
        loop {
            while !dirty.dirty && !dirty.stop {
                self.dirty_changed.wait(&mut dirty);
            }
            if !dirty.dirty {
                return;
            }
            if !dirty.stop {
                self.dirty_changed.wait_for(&mut dirty, FLUSH);
            }
            dirty.dirty = false;
            drop(dirty);
            // A failure poisons the log, which the next append reports.
            let _ = self.sync_through(self.written.load(Ordering::Acquire));
            dirty = self.dirty.lock();
        }
    }
}

fn check_age(ending: &Ending, opening: &Opening<'_>) -> Result<(), OpenError> {
    match ending.tail {
        Some(tail) if tail.vault_seq > opening.vault_seq && !opening.accept_older_vault => {
            Err(OpenError::VaultOlder {
                vault: opening.vault_seq,
                log: tail.vault_seq,
            })
        }
        _ => Ok(()),
    }
}

/// Keeps the bytes of a torn record in a file of their own and cuts them off.
fn set_aside(dir: &Path, path: &Path, file: &File, ending: &Ending) -> Result<(), OpenError> {
    if ending.torn.is_empty() {
        return Ok(());
    }
    let seq = ending.tail.map_or(0, |tail| tail.seq) + 1;
    let aside = dir.join(format!("torn-{seq:020}"));
    let failed = io_error("write", &aside);
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&aside)
        .and_then(|mut copy| {
            copy.write_all(&ending.torn)?;
            copy.sync_all()
        })
        .map_err(failed)?;
    file.set_len(ending.len).map_err(io_error("truncate", path))
}

fn lock(path: &Path, file: &File) -> Result<(), OpenError> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
        if errno == rustix::io::Errno::WOULDBLOCK {
            OpenError::InUse(path.to_owned())
        } else {
            io_error("lock", path)(errno.into())
        }
    })
}

#[cfg(test)]
mod tests;

//! How far the log is on disk: shared syncs, and the thread that flushes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use super::AppendError;
use super::segment::Segment;

/// A record under [`super::Durability::Write`] is on its way to disk within this time.
const FLUSH: Duration = Duration::from_millis(10);

/// What is written, what is on disk, and whether the file can still be trusted.
pub(super) struct DiskProgress {
    /// Sequence number of the last record written.
    written: AtomicU64,
    poisoned: AtomicBool,
    disk: Mutex<Disk>,
    disk_changed: Condvar,
    flush: Mutex<Flush>,
    flush_changed: Condvar,
}

/// Which records are on disk, and whether somebody is syncing.
struct Disk {
    synced: u64,
    syncing: bool,
}

/// What the flusher waits for.
#[derive(Default)]
struct Flush {
    dirty: bool,
    stop: bool,
}

impl DiskProgress {
    /// A log whose last record, on disk, is `seq`.
    pub(super) fn at(seq: u64) -> Self {
        Self {
            written: AtomicU64::new(seq),
            poisoned: AtomicBool::new(false),
            disk: Mutex::new(Disk {
                synced: seq,
                syncing: false,
            }),
            disk_changed: Condvar::new(),
            flush: Mutex::default(),
            flush_changed: Condvar::new(),
        }
    }

    /// Record `seq` and all before it are written; said before its chain lock is
    /// given back, so that the numbers only grow.
    pub(super) fn wrote(&self, seq: u64) {
        self.written.store(seq, Ordering::Release);
    }

    pub(super) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    pub(super) fn check(&self) -> Result<(), AppendError> {
        match self.poisoned.load(Ordering::Acquire) {
            true => Err(AppendError::Poisoned),
            false => Ok(()),
        }
    }

    /// Returns once record `seq` is on disk. Whoever comes while a sync runs
    /// waits for it and, when it began too early, for one more that it shares
    /// with all the others.
    pub(super) fn sync_through(
        &self,
        segment: &RwLock<Arc<Segment>>,
        seq: u64,
    ) -> Result<(), AppendError> {
        let mut disk = self.disk.lock();
        loop {
            self.check()?;
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
            // After `written` was read: earlier segments are on disk already.
            let current = segment.read().clone();
            let result = current.file.sync();
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

    /// Something was written that nobody waits for.
    pub(super) fn mark_dirty(&self) {
        let mut flush = self.flush.lock();
        if !flush.dirty {
            flush.dirty = true;
            self.flush_changed.notify_one();
        }
    }

    /// Ends [`Self::flush_loop`] after a last sync of what is dirty.
    pub(super) fn stop(&self) {
        self.flush.lock().stop = true;
        self.flush_changed.notify_all();
    }

    /// Syncs what is dirty; while nothing is, calls `idle` every `interval`.
    pub(super) fn flush_loop(
        &self,
        segment: &RwLock<Arc<Segment>>,
        interval: Duration,
        idle: impl Fn(),
    ) {
        let mut flush = self.flush.lock();
        loop {
            while !flush.dirty && !flush.stop {
                if self
                    .flush_changed
                    .wait_for(&mut flush, interval)
                    .timed_out()
                {
                    MutexGuard::unlocked(&mut flush, &idle);
                }
            }
            if !flush.dirty {
                return;
            }
            if !flush.stop {
                self.flush_changed.wait_for(&mut flush, FLUSH);
            }
            flush.dirty = false;
            drop(flush);
            // A failure poisons the log, which the next append reports.
            let _ = self.sync_through(segment, self.written.load(Ordering::Acquire));
            flush = self.flush.lock();
        }
    }
}

//! The segment on its way to the disk: appends, shared syncs, and the thread that
//! flushes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use super::chain::WriteBatch;
use super::error::AppendError;
use super::head::{HeadMark, LogHead};
use super::segment::Segment;

/// The segment that is written, how much of the log is on disk, and whether that can
/// still be trusted.
pub(super) struct Disk {
    /// The segment that is appended to. Another takes its place once all of it is on
    /// disk.
    segment: RwLock<Arc<Segment>>,
    /// Where the log's end is noted for whoever comes after this process.
    head: Option<Arc<LogHead>>,
    /// Sequence number of the last record written.
    written: AtomicU64,
    poisoned: AtomicBool,
    /// The segment's file is not where it must be.
    displaced: AtomicBool,
    /// Sequence number of the last record in a file that was given up: who still waits for
    /// a sync of one up to it has none.
    lost: AtomicU64,
    sync: Mutex<SyncState>,
    sync_changed: Condvar,
    flush: Mutex<FlushState>,
    flush_changed: Condvar,
}

struct SyncState {
    /// Sequence number of the last record that is known to be on disk.
    synced: u64,
    /// A thread is syncing.
    syncing: bool,
}

/// Reasons for the flusher to wake up.
#[derive(Default)]
struct FlushState {
    dirty: bool,
    stopping: bool,
}

impl Disk {
    /// A log that goes on in `segment` and whose last record, on disk, is `seq`.
    pub(super) fn new(segment: Segment, seq: u64, head: Option<Arc<LogHead>>) -> Self {
        Self {
            segment: RwLock::new(Arc::new(segment)),
            head,
            written: AtomicU64::new(seq),
            poisoned: AtomicBool::new(false),
            displaced: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            sync: Mutex::new(SyncState {
                synced: seq,
                syncing: false,
            }),
            sync_changed: Condvar::new(),
            flush: Mutex::default(),
            flush_changed: Condvar::new(),
        }
    }

    /// The segment that is appended to.
    pub(super) fn segment(&self) -> Arc<Segment> {
        self.segment.read().clone()
    }

    /// Appends all of `batch` or nothing, and notes the log's end before and after.
    pub(super) fn append(&self, batch: &WriteBatch) -> io::Result<()> {
        let head = self.head.as_deref();
        head.inspect(|head| head.intend(&batch.end));
        self.append_noted(batch)?;
        head.inspect(|head| head.note_written(&batch.end));
        Ok(())
    }

    /// Takes what was written after `mark` back, which may not be on disk.
    pub(super) fn go_back(&self, mark: &HeadMark, len: u64) {
        // In this order: whoever is killed in between leaves a log that ends with what was
        // intended.
        let known = Some(mark).filter(|mark| mark.seq > 0);
        self.head.iter().for_each(|head| head.go_back(known));
        self.segment().file.truncate(len).ok();
    }

    fn append_noted(&self, batch: &WriteBatch) -> io::Result<()> {
        let segment = self.segment();
        let end = batch.offset + batch.bytes.len() as u64;
        if segment.is_lost() {
            if !batch.only_ends_segment() {
                return Err(io::ErrorKind::NotFound.into());
            }
            // Should the file come back, it shall be whole; here it is given up anyway.
            segment.file.append(&batch.bytes).ok();
        } else {
            segment.make_room(end);
            self.append_whole(&segment, batch, end)?;
        }
        if let Some(next) = &batch.next_segment {
            self.leave_segment(&segment, end, next);
        }
        Ok(())
    }

    fn append_whole(&self, segment: &Segment, batch: &WriteBatch, end: u64) -> io::Result<()> {
        let appended = segment.file.append(&batch.bytes);
        let status = segment.file.status();
        let failed = match (appended, &status) {
            (Ok(_), Ok(status)) if status.names > 0 && status.len == end => {
                segment.note_written(end);
                return Ok(());
            }
            // Somebody removed or shortened the file: what nobody can find is no record.
            (_, Ok(status)) if status.names == 0 || status.len < batch.offset => {
                self.set_displaced(true);
                return Err(io::ErrorKind::NotFound.into());
            }
            (Ok(written), _) if written < batch.bytes.len() => io::ErrorKind::StorageFull.into(),
            // It is longer than we left it, or nobody can tell.
            (Ok(_), _) => io::ErrorKind::InvalidData.into(),
            (Err(error), _) => error,
        };
        // A part may be there: while it is, nothing can follow the last whole record.
        let is_untouched = status.is_ok_and(|status| status.len == batch.offset);
        if !is_untouched && segment.file.truncate(batch.offset).is_err() {
            self.poison();
        }
        Err(failed)
    }

    /// Goes on in `next`: from here on a sync says nothing about `segment`, which
    /// must be on disk before.
    fn leave_segment(&self, segment: &Segment, len: u64, next: &Arc<Segment>) {
        if segment.is_lost() {
            segment.file.sync().ok();
            let written = self.written.load(Ordering::Acquire);
            self.lost.store(written, Ordering::Release);
        } else {
            segment.release(len);
            if segment.file.sync().is_err() {
                self.poison();
            }
        }
        *self.segment.write() = next.clone();
    }

    /// Notes that record `seq` and all before it are written. The caller has the chain's
    /// lock, so the numbers only grow.
    pub(super) fn note_written(&self, seq: u64) {
        self.written.store(seq, Ordering::Release);
    }

    fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    /// Notes whether the segment's file is where it must be.
    pub(super) fn set_displaced(&self, displaced: bool) {
        self.displaced.store(displaced, Ordering::Release);
    }

    pub(super) fn check_not_poisoned(&self) -> Result<(), AppendError> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(AppendError::Poisoned);
        }
        Ok(())
    }

    /// Refuses records that a restart would not find.
    pub(super) fn check_takes_records(&self) -> Result<(), AppendError> {
        self.check_not_poisoned()?;
        if self.displaced.load(Ordering::Acquire) {
            return Err(AppendError::Displaced);
        }
        Ok(())
    }

    /// Returns once record `seq` is on disk. Whoever comes while a sync runs
    /// waits for it and, when it began too early, for one more that it shares
    /// with all the others.
    pub(super) fn sync_through(&self, seq: u64) -> Result<(), AppendError> {
        let mut sync = self.sync.lock();
        loop {
            self.check_takes_records()?;
            if seq <= self.lost.load(Ordering::Acquire) {
                return Err(AppendError::Displaced);
            }
            if sync.synced >= seq {
                return Ok(());
            }
            if sync.syncing {
                self.sync_changed.wait(&mut sync);
                continue;
            }
            sync.syncing = true;
            let target = self.written.load(Ordering::Acquire);
            drop(sync);
            // After `written` was read: earlier segments are on disk already.
            let segment = self.segment();
            let result = segment.file.sync();
            let names = segment.file.status().map_or(1, |status| status.names);
            sync = self.sync.lock();
            sync.syncing = false;
            match result {
                _ if segment.is_lost() => {}
                Ok(()) if names == 0 => self.set_displaced(true),
                Ok(()) => sync.synced = sync.synced.max(target),
                // After a failed sync the kernel may have dropped the pages and
                // a second sync would say yes: never try again.
                Err(_) => self.poison(),
            }
            self.sync_changed.notify_all();
        }
    }

    /// Has the flusher sync what was written.
    pub(super) fn mark_dirty(&self) {
        let mut flush = self.flush.lock();
        if !flush.dirty {
            flush.dirty = true;
            self.flush_changed.notify_one();
        }
    }

    /// Ends [`Self::flush_loop`] after a last sync of what is dirty.
    pub(super) fn stop(&self) {
        self.flush.lock().stopping = true;
        self.flush_changed.notify_all();
    }

    /// Syncs what is dirty; while nothing is, calls `idle` every `interval`.
    pub(super) fn flush_loop(&self, interval: Duration, idle: impl Fn()) {
        let mut flush = self.flush.lock();
        loop {
            while !flush.dirty && !flush.stopping {
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
            flush.dirty = false;
            drop(flush);
            // A failure poisons the log, which the next append reports.
            let _ = self.sync_through(self.written.load(Ordering::Acquire));
            flush = self.flush.lock();
        }
    }
}

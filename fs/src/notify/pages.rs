//! Dropping pages of secrets whose cached reads are allowed.
//!
//! The kernel may hold the caller of an invalidation for seconds behind an
//! outstanding cached READ, so that a thread of its own does it, which holds
//! nothing.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use fuser::{INodeNo, Notifier};

/// Invalidations that may wait. More are dropped: the next open of the secret
/// invalidates its pages too.
const MAX_WAITING: usize = 1024;

/// Time that a revocation waits for its pages to be dropped.
const REVOCATION_WAIT: Duration = Duration::from_secs(2);

/// An inode whose pages are to be dropped.
struct Invalidation {
    notifier: Notifier,
    ino: u64,
    /// Told once it is done.
    done: Option<Sender<()>>,
}

/// The thread that asks the kernel to forget pages.
pub(crate) struct PageInvalidator {
    queue: SyncSender<Invalidation>,
    notifier: OnceLock<Notifier>,
}

impl PageInvalidator {
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn start() -> io::Result<Self> {
        let (queue, waiting) = sync_channel(MAX_WAITING);
        std::thread::Builder::new()
            .name("pages".into())
            .spawn(move || run(&waiting))?;
        Ok(Self {
            queue,
            notifier: OnceLock::new(),
        })
    }

    /// Takes the notifier, once the session stands.
    pub(crate) fn attach(&self, notifier: Notifier) {
        // A second session would be another file system's.
        self.notifier.set(notifier).ok();
    }

    /// Drops what the kernel keeps of `ino`, soon.
    pub(crate) fn invalidate(&self, ino: u64) {
        if let Some(invalidation) = self.invalidation(ino, None) {
            self.queue.try_send(invalidation).ok();
        }
    }

    /// Drops what the kernel keeps of `ino` before it returns, if that does not
    /// take for ever.
    pub(crate) fn invalidate_now(&self, ino: u64) {
        let (done, wait) = channel();
        if let Some(invalidation) = self.invalidation(ino, Some(done))
            && self.queue.send(invalidation).is_ok()
        {
            wait.recv_timeout(REVOCATION_WAIT).ok();
        }
    }

    fn invalidation(&self, ino: u64, done: Option<Sender<()>>) -> Option<Invalidation> {
        let notifier = self.notifier.get()?.clone();
        Some(Invalidation {
            notifier,
            ino,
            done,
        })
    }
}

fn run(waiting: &Receiver<Invalidation>) {
    for invalidation in waiting {
        // The inode may be gone, and with it its pages; length 0 is all of it.
        let ino = INodeNo(invalidation.ino);
        invalidation.notifier.inval_inode(ino, 0, 0).ok();
        if let Some(done) = invalidation.done {
            // The revocation may have waited long enough.
            done.send(()).ok();
        }
    }
}
